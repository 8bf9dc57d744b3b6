"""The real browser that pages are tested in, where it is installed."""

from __future__ import annotations

import os
import shutil

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
# Without these a browser looks for updates and hosts of its maker, which a closed network refuses one by one.
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")

needs_chromium = pytest.mark.skipif(
    not CHROMIUM, reason="NOT RUN: needs Chromium: install it, or name it in CHROMIUM"
)
