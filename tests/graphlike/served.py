"""For `coordinator serve --assistants tests.graphlike.served`: the assistant `graphlike`.

Its checkpoints are in the file that COORDINATOR_TEST_GRAPHLIKE names, the same for all workers of a host.
"""

from __future__ import annotations

import os

from tests.graphlike.assistant import GraphLikeAssistant
from tests.graphlike.states import CheckpointStates

assistants = {
    "graphlike": GraphLikeAssistant(
        CheckpointStates(os.environ.get("COORDINATOR_TEST_GRAPHLIKE", "graphlike.db"))
    )
}
