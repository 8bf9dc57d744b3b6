"""The function assistant and the graph-like assistant, on the same suite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coordinator.assistants.demo import agent
from tests.conformance.assistants import AssistantSuite
from tests.conformance.graphs import GraphSuite


class TestFunctionAssistant(AssistantSuite):
    @pytest.fixture
    def make(self) -> Callable[[], Any]:
        return lambda: agent


class TestGraphLikeAssistant(GraphSuite):
    """On checkpoints of its own."""
