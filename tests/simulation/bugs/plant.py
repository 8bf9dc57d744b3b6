"""For pytest: `PLANT=a-stranger-sees pytest -p tests.simulation.bugs.plant …` plants that bug."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from tests.simulation.bugs import BUGS


@pytest.fixture(autouse=True, scope="session")
def _planted() -> Generator[None]:
    with BUGS[os.environ["PLANT"]].planted():
        yield
