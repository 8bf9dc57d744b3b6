"""Takes over queued runs whose worker is dead or has drained, if their assistant is registered here."""

from __future__ import annotations

import logging

from coordinator.assistants.registry import Assistants
from coordinator.runs.admission import Admissions
from coordinator.runs.execution import Execution
from coordinator.runs.registry import Registry
from stores.base import ReadStore
from stores.rows import Admission, Ownership
from stores.spec import AdmissionRequest, RunSpec

logger = logging.getLogger(__name__)


class Takeover:
    def __init__(
        self,
        store: ReadStore,
        registry: Registry,
        *,
        admissions: Admissions,
        execution: Execution,
        assistants: Assistants,
    ) -> None:
        self._store, self._registry = store, registry
        self._admissions, self._execution, self._assistants = admissions, execution, assistants

    async def run(self, own: Ownership) -> bool:
        """Executes a run that was claimed with `own` and that another worker admitted. Returns False if its
        assistant is not registered here. Claims and decisions that arrive meanwhile are applied."""
        with self._registry.admitting(own.thread_id, own.run_id):
            row = await self._store.row(own.run_id)
            if row is None or (assistant := self._assistants.get(row.assistant_id)) is None:
                return False
            thread = await self._store.thread(own.thread_id)
            admission = Admission(
                own.run_id,
                holds=True,
                fence=own.fence,
                seq=row.seq,
                temporary=thread is not None and thread.temporary,
            )
            request = AdmissionRequest(row.run_id, RunSpec.of(row), row.created_at, portable=row.portable)
            record = self._admissions.register(request, admission, own)
        logger.info(
            "Run %r is taken over by this worker, because the worker that admitted it has ended or drains",
            own.run_id,
        )
        self._execution.launch(record, assistant)
        return True
