"""One sequence: calls that are drawn from a seed, over the whole surface of the store port."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

from stores.assistants import AssistantQuery, AssistantRow
from stores.catalogue import NewThread, ThreadPatch, ThreadQuery
from stores.claims import ClaimableQuery
from stores.crons import CronQuery, CronRow, Firing
from stores.events import NewEvents
from stores.finding import ListPosition, RunQuery
from stores.pruning import Retention
from stores.rows import COUNTERS, Limits, Outcome, Ownership
from stores.spec import AdmissionRequest, RunSpec
from stores.states import CancelAction, Cause, RunStatus
from stores.thread_states import RemovedState
from stores.times import instant
from stores.webhooks import ClaimedWebhook, Shares, WebhookReport
from tests.differential.engines import Engines
from tests.differential.values import TEXTS, created_at, json_object, json_value, part_of, text
from tests.support.builders import StoreClock, new_worker

THREADS = ("t1", "t2", "t3")
USERS = (None, None, "u1", "u2")
ASSISTANTS = ("agent", "other")
SECOND = 1_000_000  # us
RECENT = 30
"""How far back a call may lie that is made again."""
NOT_MADE_AGAIN = frozenset({"register", "create_cron", "create_assistant"})
"""`register` numbers a worker each time. An existing cron is refused by the caller, which draws the id. The
id of an assistant is then in use."""


class Sequence:
    def __init__(self, seed: int, engines: Engines, clock: StoreClock) -> None:
        self.random, self._engines, self._clock = Random(seed), engines, clock
        self._number = 0
        self._epochs: list[int] = []
        self._owns: list[Ownership] = []
        self._run_ids: list[str] = []
        self._crons: list[CronRow] = []
        self._assistants: list[AssistantRow] = []
        self._claimed: list[ClaimedWebhook] = []
        self._metadata: list[dict[str, Any]] = []

    async def run(self, steps: int) -> None:
        """Raises Difference."""
        await self.register()
        await self.register()
        names, weights = zip(*WEIGHTS.items(), strict=True)
        for name in self.random.choices(names, weights, k=steps):
            operation: Callable[[], Awaitable[None]] = getattr(self, name)
            await operation()

    async def time_passes(self) -> None:
        self._clock.advance(self.random.choice((1, 1, 2, 10, 60, 400)))

    async def again(self) -> None:
        """A call whose answer was lost is made again, at any time later."""
        recent = [call for call in self._engines.calls[-RECENT:] if call[0] not in NOT_MADE_AGAIN | {"prune"}]
        if recent:
            await self._engines.again(self.random.choice(recent))

    # -- what is drawn

    def _one_in(self, number: int) -> bool:
        return self.random.randrange(number) == 0

    def _epoch(self) -> int:
        return self.random.choice(self._epochs)

    def _run_id(self) -> str:
        return "unknown" if not self._run_ids or self._one_in(20) else self.random.choice(self._run_ids)

    def _thread(self) -> str | None:
        return self.random.choice((None, *THREADS))

    def _user(self) -> str | None:
        return self.random.choice(USERS)

    def _text(self) -> str | None:
        return text(self.random)

    def _object(self) -> dict[str, Any]:
        self._metadata.append(json_object(self.random))
        return self._metadata[-1]

    def _contained(self) -> dict[str, Any]:
        """The metadata that a search requires: none, a part of existing metadata, or other metadata."""
        part = part_of(self.random, self.random.choice(self._metadata)) if self._metadata else {}
        return self.random.choice(({}, part, json_object(self.random)))

    def _own(self) -> Ownership:
        """Mostly a recent ownership; occasionally one with another fence or epoch."""
        if not self._owns:
            return Ownership("unknown", "t1", 1, 1)
        own = self.random.choice(self._owns if self._one_in(5) else self._owns[-8:])
        if self._one_in(20):
            own = own._replace(fence=own.fence + self.random.choice((-1, 1)))
        return own._replace(epoch=self._epoch()) if self._one_in(20) else own

    def _moment(self) -> int | None:
        return self.random.choice((None, self._clock.micros))

    def _outcome(self) -> Outcome:
        random = self.random
        return Outcome(
            random.choice((RunStatus.success, RunStatus.success, *RunStatus)) if self._one_in(2) else
            random.choice((RunStatus.error, RunStatus.timeout, RunStatus.interrupted, RunStatus.success)),
            self._text(),
            json_value(random),
            json_value(random),
            paused=self._one_in(5),
            interrupts=random.choice((None, None, [json_value(random)])),
            delivered_at=self._moment(),
            stopped_at=self._moment(),
            log_end=random.choice((None, 0, 7)),
        )  # fmt: skip

    # -- admission

    def _new_run(self) -> AdmissionRequest:
        random = self.random
        self._number += 1
        key = random.choice((None, None, None, None, None, "k1", "k2", "ключ"))
        again = bool(self._run_ids) and self._one_in(20)
        stamp = {"graph_id": self.random.choice(("g", "é")), "assistant_id": "a"}
        stamps: dict[str, Any] = {
            "thread_metadata": stamp if self._one_in(3) else None,
            "new_thread_metadata": {"m": "ü", **stamp} if self._one_in(3) else None,
            "run_id": self._run_id() if again else f"r{random.randrange(10**6):06}{self._number:04}",
        }
        fields: dict[str, Any] = {"thread_id": random.choice(THREADS)}
        stamps["created_at"] = created_at(random, self._number)
        fields |= {
            "kind": "op" if self._one_in(7) else "run",
            "user_id": self._user(),
            "assistant_id": random.choice((None, *ASSISTANTS)),
            "multitask_strategy": random.choice(("reject", "enqueue", "interrupt", "rollback")),
            "on_disconnect": random.choice(("cancel", "continue")),
            "metadata": self._object(),
            "kwargs": json_object(random),
            "model_name": self._text(),
        }
        stamps["portable"] = self._one_in(3)
        stamps["request_hash"] = key and random.choice(("h1", "h2"))
        fields |= {
            "idempotency_key": key,
            "parent_run_id": self._run_id() if self._one_in(6) else None,
            "timeout_ms": random.choice((None, None, 1, 5000)),
            "idle_timeout_ms": random.choice((None, 1000)),
            "retries": random.choice((0, 0, 1, 2)),
            "queue_timeout_ms": random.choice((None, None, 2000, 30_000)),
            "webhook": f"https://example.org/{self._number}" if self._one_in(4) else None,
            "thread_must_exist": self._one_in(7),
            "adopt_thread": not self._one_in(5),
            "temporary_ms": 5000 if self._one_in(6) else None,
            "delay_ms": random.choice((None, None, None, None, None, 0, 1000, 10_000)),
        }
        return AdmissionRequest(spec=RunSpec(**fields), **stamps)

    def _fired(self, **changes: Any) -> AdmissionRequest:
        request = self._new_run()
        return request._replace(spec=replace(request.spec, firing=self._firing(), **changes))

    def _firing(self) -> Firing | None:
        if not self._crons or not self._one_in(10):
            return None
        cron = self.random.choice(self._crons)
        return Firing(
            cron.cron_id, cron.next_at or 5, self.random.choice((None, self._clock.micros + 10 * SECOND))
        )

    def _admitted(self, request: AdmissionRequest, epoch: int, admission: Any) -> None:
        if admission is not None and admission.existing is None:
            self._run_ids.append(request.run_id)
            self._owns.append(Ownership(request.run_id, request.spec.thread_id, epoch, admission.fence))

    async def admit(self) -> None:
        run, epoch = self._fired(), self._epoch()
        limits = Limits(self.random.choice((None, 2)), self.random.choice((None, 2)))
        self._admitted(run, epoch, await self._engines.call("admit", run, epoch=epoch, limits=limits))

    async def insert(self) -> None:
        run, epoch = self._fired(delay_ms=None), self._epoch()
        self._admitted(run, epoch, await self._engines.call("insert", run, epoch=epoch))

    async def claim(self) -> None:
        thread_id, epoch = self.random.choice(THREADS), self._epoch()
        if claimed := await self._engines.call("claim", thread_id, epoch=epoch):
            self._owns.append(Ownership(claimed.run_id, thread_id, epoch, claimed.fence))

    async def withdraw(self) -> None:
        await self._engines.call("withdraw", self._run_id(), epoch=self._epoch())

    # -- decisions, and what an owner writes

    async def decide(self) -> None:
        random = self.random
        await self._engines.call(
            "decide",
            self._run_id(),
            random.choice((RunStatus.interrupted, RunStatus.timeout, RunStatus.error, RunStatus.success)),
            action=random.choice(tuple(CancelAction)),
            cause=random.choice(tuple(Cause)),
            reason=self._text(),
            actor=self._text(),
            error=self._text(),
            while_waiting=self._one_in(5),
            home=self._epoch() if self._one_in(4) else None,
        )

    async def start(self) -> None:
        ref = self.random.choice(
            (None, {"kind": "values"}, {"x": json_value(self.random)}, *({"kind": kind} for kind in KINDS))
        )
        await self._engines.call("start", self._own(), ref)

    async def finish(self) -> None:
        await self._engines.call("finish", self._own(), self._outcome(), hold=self._one_in(4))

    async def settle(self) -> None:
        state = self.random.choice((None, "done", "failed"))
        await self._engines.call("settle", self._own(), self._outcome(), state)

    async def save(self) -> None:
        await self._engines.call("save", self._own(), json_value(self.random), last=self._one_in(3))

    async def restore(self) -> None:
        await self._engines.call("restore", self._own())

    async def keep_latest_checkpoint(self) -> None:
        await self._engines.call("keep_latest_checkpoint", self._own())

    async def renew_fence(self) -> None:
        if own := await self._engines.call(
            self.random.choice(("refence", "readopt", "readopt")), self._own()
        ):
            self._owns.append(own)

    async def hand_over(self) -> None:
        await self._engines.call("hand_over", self._own())

    async def delete_thread(self) -> None:
        await self._engines.call("delete_thread", self._own())

    # -- workers

    async def register(self) -> None:
        assistants = self.random.choice(((), ("agent",), ASSISTANTS))
        worker = new_worker(assistants=assistants, worker_id=f"w{len(self._epochs)}")
        self._epochs.append(await self._engines.call("register", worker))

    async def beat(self) -> None:
        await self._engines.call("beat", self._epoch())

    async def drain(self) -> None:
        await self._engines.call("drain", self._epoch())

    async def request_drain(self) -> None:
        epoch = self.random.choice((None, self._epoch()))
        await self._engines.call("request_drain", epoch, grace=self.random.choice((None, 1.5)))

    async def retire(self) -> None:
        if len(self._epochs) > 2:
            await self._engines.call("retire", self._epoch())

    async def fence_worker(self) -> None:
        if rows := await self._engines.call("workers", alive_only=False):
            peer = self.random.choice(rows)
            await self._engines.call("fence_worker", peer, by=self._epoch(), proven=self._one_in(2))

    async def declare_dead(self) -> None:
        actor = self.random.choice(("admin", *TEXTS))
        await self._engines.call("declare_dead", self._epoch(), by=self._epoch(), actor=actor)

    async def sweep(self) -> None:
        before = "2026-01-01T00:00:10+00:00" if self._one_in(3) else None
        error = self._text() or "gone"
        orphans = await self._engines.call("sweep", by=self._epoch(), error=error, before=before)
        self._owns += [orphan.adopted for orphan in orphans or () if orphan.adopted is not None]

    async def read_workers(self) -> None:
        await self._engines.call("workers", alive_only=self._one_in(2))
        executing = [own.run_id for own in self._owns[-8:]]
        await self._engines.call("tick", self._epoch(), executing)

    # -- reads

    async def read(self) -> None:
        call, random = self._engines.call, self.random
        thread_id, run_id = random.choice(THREADS), self._run_id()
        await random.choice(
            (
                lambda: call("row", run_id, user_id=self._user()),
                lambda: call("waiting_line", thread_id),
                lambda: call("pending_on", self._epoch()),
                lambda: call("transitions", run_id),
                lambda: call("thread", thread_id, user_id=self._user()),
                lambda: call("holder", thread_id),
                lambda: call("claimants", thread_id),
                lambda: call("claimable", self._claimable_query(), epoch=self._epoch()),
                lambda: call("claimable_children", self.random.choice((1, 20)), epoch=self._epoch()),
                lambda: call("unclaimed"),
                lambda: call("standing", run_id),
                lambda: call("has_expired_threads"),
            )
        )()

    def _claimable_query(self) -> ClaimableQuery:
        full = tuple(user for user in USERS if self._one_in(4))
        return ClaimableQuery(self.random.choice((1, 3, 20)), self._user(), full)

    async def read_runs(self) -> None:
        statuses = self.random.choice(((), ("pending", "running"), ("error",)))
        limit = self.random.choice((1, 3, 100))
        await self._engines.call(
            "runs", thread_id=self._thread(), statuses=statuses, limit=limit, in_flight=self._one_in(3)
        )

    # -- the catalogue

    async def search_threads(self) -> None:
        random = self.random
        query = ThreadQuery(
            ids=random.choice((None, None, ("t1", "t3"), ())),
            metadata=self._contained(),
            values=self._contained() if self._one_in(3) else {},
            status=random.choice((None, None, "idle", "busy", "interrupted", "error")),
            sort_by=random.choice(("thread_id", "status", "created_at", "updated_at", "state_updated_at")),
            sort_order=random.choice(("asc", "desc")),
            limit=random.choice((0, 1, 2, 10)),
            offset=random.choice((0, 0, 1, 5)),
            temporary=self._one_in(3),
            max_bytes=random.choice((None, None, 5, 200)),
        )
        user_id = self._user()
        await self._engines.call("threads", query, user_id=user_id)
        await self._engines.call("count_threads", query, user_id=user_id)

    async def create_thread(self) -> None:
        ttl_ms = self.random.choice((None, 5000, 60_000))
        new = NewThread(
            self.random.choice(THREADS),
            self._user(),
            self._object(),
            ttl_ms,
            temporary=self._one_in(5),
            existing_ok=self._one_in(2),
        )
        await self._engines.call("create_thread", new)

    async def patch_thread(self) -> None:
        patch = ThreadPatch(self._object(), self.random.choice((None, 3000)), sets_ttl=self._one_in(2))
        await self._engines.call("patch_thread", self.random.choice(THREADS), patch, user_id=self._user())

    async def update_extra(self) -> None:
        extra = self._object()
        max_bytes = self.random.choice((16, 16_384))
        run_id = self._run_id()
        await self._engines.call("update_extra", run_id, extra, user_id=self._user(), max_bytes=max_bytes)

    async def read_catalogue(self) -> None:
        call, random = self._engines.call, self.random
        statuses = random.choice(((), ("running",), ("success", "error"), ("pending", "interrupted")))
        scope: Any = {"thread_id": self._thread(), "user_id": self._user()}
        await call("run", self._run_id(), **scope)
        await call("thread_of_key", random.choice(("k1", "k2", "ключ", "free")), user_id=self._user())
        limit, offset = random.choice((0, 1, 5, 100)), random.choice((0, 1, 3))
        thread_id = random.choice((*THREADS, "unknown"))
        await call(
            "thread_runs",
            thread_id,
            statuses=statuses,
            limit=limit,
            offset=offset,
            user_id=self._user(),
            without=frozenset(random.choice(((), ("kwargs",), ("kwargs", "result", "rollback_ref")))),
        )
        which: Any = random.choice(({}, {"run_id": self._run_id()}, {"before": self._run_id()}))
        await call("checkpoints", thread_id, limit=limit, **which)
        await call("started_runs", thread_id, after=random.randrange(4), limit=limit, user_id=self._user())
        await call("inflight_runs", statuses=statuses, after=random.choice(("", "r5")), limit=100, **scope)

    async def find_runs(self) -> None:
        call, random = self._engines.call, self.random
        created = instant(created_at(random, random.randrange(self._number + 1))) or 0
        query = RunQuery(
            thread_id=self._thread(),
            statuses=random.choice(((), (), ("running",), ("pending", "success"))),
            assistant_id=random.choice((None, None, "agent", "other")),
            metadata=self._contained() if self._one_in(3) else {},
            created_from=created if self._one_in(4) else None,
            created_before=created if self._one_in(4) else None,
            silent_since=self._clock.micros - random.choice((0, 5, 60)) * SECOND if self._one_in(4) else None,
            in_flight=self._one_in(2),
        )
        behind = ListPosition(created, self._run_id()) if self._one_in(3) else None
        await call("find_runs", query, user_id=self._user(), behind=behind, limit=random.choice((0, 2, 50)))
        await call("open_run_ids", query, user_id=self._user(), limit=random.choice((0, 2, 50)))
        kind = random.choice(("run", "thread", "cron", "webhook"))
        await call("ids_from", kind, random.choice(("", "t", "r", "p1", "x")), limit=random.choice((1, 20)))

    async def delete_run(self) -> None:
        await self._engines.call("delete_run", self._run_id(), thread_id=self._thread(), user_id=self._user())

    async def expire_threads(self) -> None:
        await self._engines.call("expire_threads", limit=self.random.choice((1, 10)))

    # -- state outside of the store

    async def remove_states(self) -> None:
        kinds = self.random.sample(KINDS, self.random.choice((1, 2)))
        claimed = await self._engines.call("claim_removed_states", kinds, limit=self.random.choice((1, 10)))
        if self._one_in(2):
            other = RemovedState(
                self.random.choice(THREADS), self.random.choice(KINDS), self.random.randrange(9)
            )
            await self._engines.call("forget_removed_states", claimed or [other])
        await self._engines.call("note_states", self._own(), (*kinds, "values"))
        await self._engines.call("removed_state", self.random.choice(THREADS), self.random.choice(KINDS))

    # -- records

    async def put(self) -> None:
        random = self.random
        self._number += 1
        run_id = self._run_id() if self._one_in(2) else f"p{random.randrange(1000):03}{self._number:04}"
        await self._engines.call(
            "put",
            run_id,
            thread_id=random.choice(THREADS),
            user_id=self._user(),
            status=random.choice((None, "pending", "running", "success", "error")),
            metadata=self._object(),
            kwargs=json_object(random),
            error=self._text(),
            created_at=random.choice((None, created_at(random, self._number))),
            model_name=self._text(),
        )
        self._run_ids.append(run_id)

    async def read_records(self) -> None:
        call, random = self._engines.call, self.random
        before = random.choice((None, "2026-01-01T00:00:10+00:00"))
        await call("get", self._run_id(), user_id=self._user())
        await call(
            "list_by_thread", random.choice(THREADS), user_id=self._user(), limit=random.choice((0, 1, 100))
        )
        await call(random.choice(("list_inflight", "list_pending")), before=before)
        await call("aggregate_tokens_by_thread", random.choice(THREADS), include_active=self._one_in(2))

    async def update_record(self) -> None:
        call, random, run_id = self._engines.call, self.random, self._run_id()
        status = random.choice(("pending", "running", "success", "error", "interrupted"))
        await random.choice(
            (
                lambda: call("update_status", run_id, status, error=self._text()),
                lambda: call("update_model_name", run_id, self._text()),
                lambda: call("update_run_completion", run_id, status=status, **self._counters()),
                lambda: call("update_run_progress", run_id, **self._counters()),
            )
        )()

    def _counters(self) -> dict[str, Any]:
        drawn = {
            name: self.random.choice((None, 0, 5, 2**40, 2**63 - 1)) for name in COUNTERS if self._one_in(3)
        }
        messages = {"last_ai_message": self._text(), "first_human_message": self._text()}
        return {**drawn, **messages, **({"error": self._text()} if self._one_in(3) else {})}

    async def delete_record(self) -> None:
        await self._engines.call("delete", self._run_id())

    # -- crons

    def _cron_id(self) -> str:
        return self.random.choice(self._crons).cron_id if self._crons else "unknown"

    async def create_cron(self) -> None:
        random, now = self.random, self._clock.micros
        self._number += 1
        cron = CronRow(
            cron_id=f"c{self._number}",
            user_id=self._user(),
            assistant_id=random.choice(ASSISTANTS),
            thread_id=self._thread(),
            schedule="* * * * *",
            timezone=random.choice((None, "UTC")),
            enabled=not self._one_in(5),
            end_at=random.choice((None, now + 100 * SECOND)),
            on_run_completed=random.choice((None, "keep", "delete")),
            payload=json_object(random),
            metadata=self._object(),
            next_at=random.choice((None, now, now + SECOND)),
        )
        must_exist, limit = self._one_in(3), random.choice((None, None, 2))
        if made := await self._engines.call("create_cron", cron, thread_must_exist=must_exist, limit=limit):
            self._crons.append(made)

    async def replace_cron(self) -> None:
        if not self._crons:
            return
        next_at = self.random.choice((None, self._clock.micros, 5))
        cron = replace(
            self.random.choice(self._crons),
            metadata=self._object(),
            next_at=next_at,
            enabled=not self._one_in(5),
        )
        if replaced := await self._engines.call("replace_cron", cron, user_id=self._user()):
            self._crons.append(replaced)

    async def skip_cron(self) -> None:
        if self._crons:
            cron = self.random.choice(self._crons)
            next_at = self.random.choice((None, self._clock.micros + 10 * SECOND))
            firing = Firing(cron.cron_id, cron.next_at or 5, next_at)
            await self._engines.call("skip_cron", firing, error=self._text())

    async def delete_cron(self) -> None:
        await self._engines.call("delete_cron", self._cron_id(), user_id=self._user())

    # -- assistants of clients

    def _new_assistant(self) -> AssistantRow:
        random = self.random
        return AssistantRow(
            assistant_id=f"a{random.randrange(6)}",
            user_id=self._user(),
            graph_id=random.choice(ASSISTANTS),
            name=random.choice(("Brief", "brief", "Lang \xe4", "")),
            description=self._text(),
            config=json_object(random),
            context=json_object(random),
            metadata=self._object(),
        )

    async def create_assistant(self) -> None:
        if made := await self._engines.call("create_assistant", self._new_assistant()):
            self._assistants.append(made)

    async def change_assistant(self) -> None:
        if not self._assistants:
            return
        row, user_id = self.random.choice(self._assistants), self._user()
        content = self._new_assistant()
        changed = replace(content, assistant_id=row.assistant_id, user_id=row.user_id, revision=row.revision)
        if written := await self._engines.call("change_assistant", changed, user_id=user_id):
            self._assistants.append(written)
        version = self.random.randrange(4)
        await self._engines.call("set_assistant_version", row.assistant_id, version, user_id=user_id)

    async def delete_assistant(self) -> None:
        await self._engines.call("delete_assistant", self._new_assistant().assistant_id, user_id=self._user())

    async def read_assistants(self) -> None:
        call, random = self._engines.call, self.random
        query = AssistantQuery(
            graph_id=random.choice((None, *ASSISTANTS)),
            name=random.choice((None, "BRIEF", "\xc4", "")),
            metadata=self._contained(),
            sort_by=random.choice(ASSISTANT_ORDERS),
            sort_order=random.choice(("asc", "desc")),
            limit=random.choice((1, 10)),
            offset=random.choice((0, 1)),
            max_bytes=random.choice((None, 5)),
        )
        user_id, known = self._user(), self._new_assistant().assistant_id
        await call("assistant", known, user_id=user_id)
        await call("assistants", query, user_id=user_id)
        await call("count_assistants", query, user_id=user_id)
        await call("assistant_versions", known, query, user_id=user_id)

    async def read_crons(self) -> None:
        call, random = self._engines.call, self.random
        query = CronQuery(
            assistant_ids=random.choice((None, ("agent",), ())),
            thread_id=self._thread(),
            enabled=random.choice((None, True, False)),
            metadata=self._contained(),
            sort_by=random.choice(CRON_ORDERS),
            sort_order=random.choice(("asc", "desc")),
            limit=random.choice((1, 10)),
            offset=random.choice((0, 1)),
            max_bytes=random.choice((None, 5)),
        )
        user_id = self._user()
        await call("cron", self._cron_id(), user_id=user_id)
        await call("crons", query, user_id=user_id)
        await call("count_crons", query, user_id=user_id)
        await call("next_cron", ["agent"])
        await call("due_crons", random.choice((["agent"], list(ASSISTANTS))), limit=random.choice((1, 5)))

    # -- webhooks

    async def claim_webhooks(self) -> None:
        random = self.random
        lease, limit, held = (
            random.choice((1.0, 30.0)),
            random.choice((1, 3, 10)),
            random.choice(({}, {"u1": 1})),
        )
        shares = random.choice((None, Shares(random.choice((1, 2)), held)))
        claimed = await self._engines.call(
            "claim_webhooks", epoch=self._epoch(), lease=lease, limit=limit, shares=shares
        )
        self._claimed += claimed or ()

    async def report_webhook(self) -> None:
        if not self._claimed:
            return
        claimed, error = self.random.choice(self._claimed), self._text()
        report = self.random.choice(
            (
                WebhookReport(delivered=True, status_code=200),
                WebhookReport(delivered=False, status_code=500, error=error),
                WebhookReport(delivered=False, error=error, retry_in=SECOND),
                WebhookReport(delivered=False, error=error, retry_in=SECOND, postponed=True),
            )
        )
        await self._engines.call("report_webhook", claimed.run_id, attempt=claimed.attempt, report=report)

    async def read_webhooks(self) -> None:
        states = self.random.choice(((), ("due",), ("dead", "delivered")))
        run_id = self.random.choice((None, self._run_id()))
        limit = self.random.choice((1, 100))
        await self._engines.call("next_webhook")
        await self._engines.call("webhooks", states=states, run_id=run_id, user_id=self._user(), limit=limit)
        await self._engines.call("count_webhooks", states=states, user_id=self._user())

    async def revive_webhooks(self) -> None:
        run_ids = self.random.choice((None, [self._run_id()]))
        await self._engines.call("revive_webhooks", run_ids, user_id=self._user())

    async def stop_webhooks(self) -> None:
        run_ids = self.random.choice((None, [self._run_id()]))
        await self._engines.call("stop_webhooks", run_ids, user_id=self._user())

    # -- event logs

    async def append_events(self) -> None:
        random = self.random
        owns = {own.run_id: own for own in (self._own() for _ in range(random.choice((1, 1, 3))))}
        logs = [
            NewEvents(
                own.run_id,
                own.fence,
                tuple(
                    (number, random.choice(("custom", "values", "")), json.dumps(json_value(random)))
                    for number in sorted(random.sample(range(1, 9), k=random.choice((1, 2, 5))))
                ),
                (own.fence, random.choice((2, 4))) if self._one_in(4) else (0, 0),
            )
            for own in owns.values()
        ]
        await self._engines.call("append_events", logs, ttl=random.choice((5.0, 60.0)))

    async def read_events(self) -> None:
        random, own = self.random, self._own()
        after = random.choice((None, (own.fence, 3), (own.fence - 1, 2)))
        await self._engines.call(
            "events", own.run_id, after, limit=random.choice((1, 100)), max_bytes=random.choice((20, 1000))
        )
        await self._engines.call("log_tops", [own.run_id, self._run_id()])

    async def follow_runs(self) -> None:
        run_ids = sorted({self._run_id(), self._run_id()})
        seconds = self.random.choice((2.0, 30.0))
        await self._engines.call("follow_runs", run_ids, seconds=seconds, logs=self._one_in(2))

    async def expire_events(self) -> None:
        max_bytes = self.random.choice((None, 0, 100))
        await self._engines.call("expire_events", limit=self.random.choice((2, 100)), max_bytes=max_bytes)

    # -- upkeep

    async def prune(self) -> None:
        random = self.random
        keep = Retention(
            runs=random.choice((None, 0, 30.5)),
            transitions=random.choice((None, 0, 30)),
            workers=random.choice((None, 0, 10)),
            keys=random.choice((0.0, 50.0)),
            webhooks=random.choice((None, 0, 5)),
        )
        await self._engines.prune(keep, limit=random.choice((3, 500)), dry_run=self._one_in(3))


ASSISTANT_ORDERS = ("assistant_id", "graph_id", "name", "created_at", "updated_at")
CRON_ORDERS = (
    "cron_id",
    "assistant_id",
    "thread_id",
    "created_at",
    "updated_at",
    "next_run_date",
    "end_time",
)
KINDS = ("graph", "other\0")
"""Of state outside of the store."""
WEIGHTS = {
    "admit": 14,
    "insert": 2,
    "claim": 6,
    "withdraw": 2,
    "decide": 6,
    "start": 8,
    "finish": 9,
    "settle": 4,
    "save": 3,
    "restore": 2,
    "keep_latest_checkpoint": 1,
    "renew_fence": 3,
    "hand_over": 2,
    "delete_thread": 1,
    "register": 1,
    "beat": 1,
    "drain": 1,
    "request_drain": 1,
    "retire": 1,
    "fence_worker": 2,
    "declare_dead": 1,
    "sweep": 3,
    "read_workers": 3,
    "read": 6,
    "read_runs": 2,
    "search_threads": 4,
    "create_thread": 2,
    "patch_thread": 2,
    "update_extra": 2,
    "find_runs": 3,
    "read_catalogue": 3,
    "delete_run": 1,
    "expire_threads": 2,
    "remove_states": 2,
    "put": 1,
    "read_records": 2,
    "update_record": 3,
    "delete_record": 1,
    "create_cron": 2,
    "replace_cron": 1,
    "skip_cron": 1,
    "delete_cron": 1,
    "read_crons": 2,
    "create_assistant": 2,
    "change_assistant": 2,
    "delete_assistant": 1,
    "read_assistants": 2,
    "claim_webhooks": 4,
    "report_webhook": 2,
    "read_webhooks": 1,
    "revive_webhooks": 1,
    "stop_webhooks": 1,
    "append_events": 6,
    "read_events": 2,
    "follow_runs": 2,
    "expire_events": 2,
    "prune": 2,
    "again": 4,
    "time_passes": 5,
}
"""How often each operation is drawn."""
