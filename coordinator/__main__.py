"""`python -m coordinator`: the command line, where its program is not on PATH."""

from __future__ import annotations

import sys

from coordinator.cli import main

sys.exit(main())
