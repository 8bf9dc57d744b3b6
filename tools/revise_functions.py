"""Append the revision of stores/sql/postgres/functions/*.sql to revisions.txt, unless the list ends with it.

Lines of states that no other program can have installed may be removed before they are committed.

    python tools/revise_functions.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from stores.sql.postgres.scripts import revision

LIST = Path(__file__).resolve().parent.parent / "stores/sql/postgres/functions/revisions.txt"


def main() -> int:
    listed = LIST.read_text(encoding="utf-8").split()
    if listed[-1:] == [revision()]:
        return 0
    if revision() in listed:
        print(
            f"{LIST.name}: the functions are those of revision {revision()}, which later revisions have"
            " replaced: change a comment in one of them",
            file=sys.stderr,
        )
        return 1
    LIST.write_text("".join(f"{line}\n" for line in [*listed, revision()]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
