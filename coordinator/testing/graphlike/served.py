"""For `coordinator serve --assistants coordinator.testing.graphlike.served`: the assistant `graphlike`.

Its checkpoints are in the file that COORDINATOR_GRAPHLIKE names, the same for all workers of a host.
"""

from __future__ import annotations

import os

from coordinator.testing.graphlike.assistant import GraphLikeAssistant
from coordinator.testing.graphlike.states import CheckpointStates

assistants = {
    "graphlike": GraphLikeAssistant(CheckpointStates(os.environ.get("COORDINATOR_GRAPHLIKE", "graphlike.db")))
}
