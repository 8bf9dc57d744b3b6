"""`python -m coordinator`: the command line, for environments without `coordinator` on PATH."""

from __future__ import annotations

import sys

from coordinator.cli import main

sys.exit(main())
