"""`python -m tests.contract FOLDER [PYTEST ARGUMENT ...]`: a folder of contract tests, against three workers.

The folder is somebody else's: tests that speak HTTP to the address in BASE_URL, with a configuration of their
own. It is only read.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.serving import served


def main(arguments: list[str]) -> int:
    if not arguments or not (Path(arguments[0]) / "pytest.ini").is_file():
        given = arguments[0] if arguments else "nothing"
        sys.stderr.write(f"contract: give a folder of tests with a pytest.ini, not {given!r}\n")
        return 2
    folder = Path(arguments[0]).resolve()
    with served(workers=3) as base:
        # Neither the project's plugins for its own tests nor a cache in a folder that is not ours.
        options = ["-c", str(folder / "pytest.ini"), "--rootdir", str(folder)]
        options += ["-p", "no:cacheprovider", "-p", "no:randomly"]
        environment = os.environ | {"BASE_URL": base, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", *options, *arguments[1:], str(folder)]
        return subprocess.run(command, check=False, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
