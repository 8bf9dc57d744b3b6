"""Reads and replaces files that decide about access, and checks which users may change them.

A file is trusted if only root and the user of this process can write to it or replace it.
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
_MAX_LINKS = 40  # links, as in the kernel


class UntrustedFile(OSError):
    """Another user may have written the file. The message is a predicate whose subject is the file's name."""


class Fingerprint(NamedTuple):
    """Differs if the contents, the owner or the mode of a file may have changed. A change of the mode alone
    affects only `ctime_ns`."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    folder_mode: int


def fingerprint(path: Path) -> Fingerprint | None:
    """Returns None if the file does not exist or cannot be accessed."""
    try:
        file, folder = path.stat(), path.parent.stat()
    except OSError:
        return None
    return Fingerprint(
        file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns, folder.st_mode
    )


def read(path: Path) -> bytes:
    """Returns the contents of a trusted file. Raises UntrustedFile and other OSErrors."""
    # O_NONBLOCK: opening a FIFO would block until it has a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        _check_file(os.fstat(descriptor))
        for name in _link_chain(path):
            _check_folder_of(name)
        return file.read()


def check_place(path: Path) -> None:
    """Checks that a file that is created at `path` would be trusted. Raises UntrustedFile and other
    OSErrors."""
    for name in _link_chain(path):
        _check_folder_of(name)


def _link_chain(path: Path) -> list[Path]:
    """Returns the path and, if it is a symbolic link, the target of each link of the chain."""
    names = [path]
    while names[-1].is_symlink():
        if len(names) > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        names.append(names[-1].parent / names[-1].readlink())
    return names


def _check_file(file: os.stat_result) -> None:
    """Raises UntrustedFile. Access control lists that grant write access are reflected in the group bits."""
    if not stat.S_ISREG(file.st_mode):
        raise UntrustedFile("is not a regular file")
    if file.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UntrustedFile("is writable by other users than its owner: chmod go-w")
    if file.st_uid not in {0, os.geteuid()}:
        raise UntrustedFile(
            f"belongs to another user (uid {file.st_uid}) than this process: run this as that user,"
            f" sudo -u '#{file.st_uid}'"
        )


def _check_folder_of(name: Path) -> None:
    """Raises UntrustedFile if other users may replace the file, for example with an older copy. The sticky
    bit of the folder prevents that."""
    folder = name.parent.stat()
    if folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not folder.st_mode & stat.S_ISVTX:
        raise UntrustedFile(
            f"is in a folder that is writable by other users than its owner: chmod go-w {str(name.parent)!r}"
        )
    if name.is_symlink() and name.lstat().st_uid not in {0, os.geteuid()}:
        raise UntrustedFile(f"is behind the link {str(name)!r} of another user")


def replace(path: Path, text: str) -> None:
    """Replaces the file atomically and durably. The new file has the owner, group, mode and access control
    list of the old one, so that the same processes can read it; without an old one its mode is 0600. If
    `path` is a symbolic link, its target is replaced.

    Raises UntrustedFile if owner or group cannot be kept, and OSError. The file is then unchanged, unless the
    folder could not be synced: then it is replaced, and a power cut may bring the old one back.
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
                _copy_owner(descriptor, old)
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


def _copy_owner(descriptor: int, old: os.stat_result) -> None:
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
    """Sets the access control list. None removes it, including one inherited from the folder's default."""
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
    """Makes the rename durable: after a power loss the old file must not reappear."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # this file system does not support it
            raise
    finally:
        os.close(descriptor)
