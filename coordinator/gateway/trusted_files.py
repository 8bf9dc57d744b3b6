"""Files that decide who is let in: who may change them, and how they are replaced.

A file is trusted if only root and the user of this process can write to it or put another file in its place.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

_ACCESS_LIST = "system.posix_acl_access"
_NO_ACCESS_LIST = frozenset({errno.ENODATA, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_LONGEST_CHAIN = 40  # links, as in the kernel


class UntrustedFile(OSError):
    """Another user may have written the file. The message continues a sentence that begins with its name."""


class Fingerprint(NamedTuple):
    """Differs wherever the contents, the owner or the mode of a file may differ. A change of the mode alone
    shows in `ctime_ns` only."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    folder_mode: int


def fingerprint(path: Path) -> Fingerprint | None:
    """None if the file cannot be found."""
    try:
        file, folder = path.stat(), path.parent.stat()
    except OSError:
        return None
    return Fingerprint(
        file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns, folder.st_mode
    )


def read(path: Path) -> bytes:
    """Raises UntrustedFile and other OSErrors."""
    # Nonblocking: opening a FIFO would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        _check_file(os.fstat(descriptor))
        for name in _names(path):
            _check_name(name)
        return file.read()


def check_place(path: Path) -> None:
    """Of a file that is not there yet: made here, it could be trusted. Raises UntrustedFile and other
    OSErrors."""
    for name in _names(path):
        _check_name(name)


def _names(path: Path) -> list[Path]:
    """The path and, if it is a symbolic link, the path that each link of the chain names."""
    names = [path]
    while names[-1].is_symlink():
        if len(names) > _LONGEST_CHAIN:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        names.append(names[-1].parent / names[-1].readlink())
    return names


def _check_file(file: os.stat_result) -> None:
    """Raises UntrustedFile. Access lists that let others write show in the bits of the group."""
    if not stat.S_ISREG(file.st_mode):
        raise UntrustedFile("is no regular file")
    if file.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UntrustedFile("may be written to by others than its owner: chmod go-w")
    if file.st_uid not in {0, os.geteuid()}:
        raise UntrustedFile(
            f"belongs to another user (uid {file.st_uid}) than the one who reads it: run this as that user,"
            f" sudo -u '#{file.st_uid}'"
        )


def _check_name(name: Path) -> None:
    """Raises UntrustedFile if others may give the name to another file, for example to an older copy. In a
    sticky folder they may not."""
    folder = name.parent.stat()
    if folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not folder.st_mode & stat.S_ISVTX:
        raise UntrustedFile(
            f"is in a folder that others than its owner may write to: chmod go-w {str(name.parent)!r}"
        )
    if name.is_symlink() and name.lstat().st_uid not in {0, os.geteuid()}:
        raise UntrustedFile(f"is behind the link {str(name)!r} of another user")


def replace(path: Path, text: str) -> None:
    """Write the whole file or nothing. The new file has the owner, group, mode and access list of the old
    one, so that each process that could read that can read this; without an old one it is private (0600). A
    symbolic link stays, and its target is replaced.

    Raises OSError; UntrustedFile if owner or group cannot be kept. Then nothing has changed.
    """
    target = path.resolve()
    try:
        old: os.stat_result | None = target.stat()
    except FileNotFoundError:
        old = None
    access = None if old is None else _access_list(target)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if old is not None:
                _keep_owner(descriptor, old)
            _set_access_list(descriptor, access)
            os.fchmod(descriptor, 0o600 if old is None else stat.S_IMODE(old.st_mode))
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _keep_owner(descriptor: int, old: os.stat_result) -> None:
    try:
        os.fchown(descriptor, old.st_uid, old.st_gid)
    except PermissionError:
        raise UntrustedFile(
            f"was not changed: its owner (uid {old.st_uid}) and group (gid {old.st_gid}) cannot be kept, and"
            " gateways might not be able to read the new file. Run this as root, or as its owner in that"
            " group"
        ) from None


def _access_list(path: Path) -> bytes | None:
    if sys.platform != "linux":
        return None
    try:
        return os.getxattr(path, _ACCESS_LIST)
    except OSError as error:
        if error.errno in _NO_ACCESS_LIST:
            return None
        raise


def _set_access_list(descriptor: int, access: bytes | None) -> None:
    """None also removes the list that a new file has from its folder's default."""
    if sys.platform != "linux":
        return
    try:
        if access is None:
            os.removexattr(descriptor, _ACCESS_LIST)
        else:
            os.setxattr(descriptor, _ACCESS_LIST, access)
    except OSError as error:
        if access is not None or error.errno not in _NO_ACCESS_LIST:
            raise


def _sync_folder(folder: Path) -> None:
    """A power cut must not bring the old file back."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that does not sync folders
            raise
    finally:
        os.close(descriptor)
