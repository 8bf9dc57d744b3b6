"""An assistant that behaves as compiled graphs do, without any graph library: for tests of what must hold
for both kinds, plain functions and graphs."""

from tests.graphlike.assistant import GraphLikeAssistant, GraphLikeInput
from tests.graphlike.states import CheckpointStates

__all__ = ["CheckpointStates", "GraphLikeAssistant", "GraphLikeInput"]
