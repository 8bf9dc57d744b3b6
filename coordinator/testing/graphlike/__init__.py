"""An assistant that behaves as compiled graphs do, without any graph library: for tests of what must hold
for both kinds, plain functions and graphs."""

from coordinator.testing.graphlike.assistant import GraphLikeAssistant, GraphLikeInput
from coordinator.testing.graphlike.states import CheckpointStates

__all__ = ["CheckpointStates", "GraphLikeAssistant", "GraphLikeInput"]
