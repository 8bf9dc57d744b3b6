"""The files of an open SQLite store, and whether their names still lead to them."""

from __future__ import annotations

from pathlib import Path

from stores.errors import StoreReplaced

_SUFFIXES = ("", "-wal", "-gate")
_HEADER_BYTES = 100  # of a database file; the first of them says that it is one


class StoreFiles:
    """Made while connections are open: until the last is closed none of the files is made anew.

    What was written into a file that its name no longer leads to is lost, and whoever opens the name now
    works beside this process. Sees files that were removed, moved or replaced, and a database that was
    emptied; not what was written over in its place.
    """

    def __init__(self, database: Path) -> None:
        resolved = database.resolve()
        paths = [Path(f"{resolved}{suffix}") for suffix in _SUFFIXES]
        self._known = [(path, one) for path in paths if (one := _identity(path)) is not None]
        self._database = resolved
        self._replaced: Path | None = None

    def check(self) -> None:
        """Raises StoreReplaced; once it has, always. From any thread, some microseconds."""
        if self._replaced is None:
            self._replaced = next((path for path, one in self._known if _identity(path) != one), None)
            if self._replaced is None and self._database.stat().st_size < _HEADER_BYTES:
                self._replaced = self._database
        if self._replaced is not None:
            raise StoreReplaced(str(self._replaced))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
