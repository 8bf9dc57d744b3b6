"""Conformance checks of stores: the promises of `stores.base.CoordinationStore`, for any database."""

from coordinator.testing.conformance.stores.admission import ADMISSION
from coordinator.testing.conformance.stores.attempts import ATTEMPTS
from coordinator.testing.conformance.stores.builders import StoreCase, StoreClock
from coordinator.testing.conformance.stores.checkpoints import CHECKPOINTS
from coordinator.testing.conformance.stores.children import CHILDREN
from coordinator.testing.conformance.stores.dispatch import DISPATCH
from coordinator.testing.conformance.stores.fields import FIELDS
from coordinator.testing.conformance.stores.finding import FINDING
from coordinator.testing.conformance.stores.lists import LISTS
from coordinator.testing.conformance.stores.ownership import OWNERSHIP
from coordinator.testing.conformance.stores.queues import QUEUES
from coordinator.testing.conformance.stores.records import RECORDS
from coordinator.testing.conformance.stores.recovery import RECOVERY
from coordinator.testing.conformance.stores.rollbacks import ROLLBACKS
from coordinator.testing.conformance.stores.thread_states import THREAD_STATES
from coordinator.testing.conformance.suite import Check

__all__ = ["STORE", "StoreCase", "StoreClock"]

STORE: tuple[Check[StoreCase], ...] = (
    *ADMISSION,
    *FIELDS,
    *QUEUES,
    *OWNERSHIP,
    *CHILDREN,
    *DISPATCH,
    *ROLLBACKS,
    *RECOVERY,
    *ATTEMPTS,
    *RECORDS,
    *LISTS,
    *FINDING,
    *CHECKPOINTS,
    *THREAD_STATES,
)
