"""Runs of a LangGraph graph with three steps that do nothing: without a checkpointer, with LangGraph's own
savers, with ours, and through the coordinator, in turn.

With ours, threads are opened, closed and forgotten as the coordinator does it. Through the coordinator, each
run is admitted, launched and awaited. Every run has a thread of its own. CPU is that of this process, without
the server of PostgreSQL.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import operator
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, TypedDict, cast
from uuid import uuid4

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from bench import graph_cancels, graph_start
from bench.databases import fresh_database, running_server, scaled
from bench.report import Measure, at_least, at_most, median
from coordinator import open_coordinator
from coordinator.context import RunContext, current_run
from coordinator.langgraph import GraphAssistant
from coordinator.langgraph.savers.sqlite.behind import write_behind
from coordinator.langgraph.states import GraphStates, postgres_states, sqlite_states

RUNS, ONE_BY_ONE, LARGE_RUNS = 500, 150, 50
AT_ONCE = 50
LARGE = 256_000
CONNECTIONS = 10
ALONE, BUSY = "one after another", f"{AT_ONCE} at once"
LARGE_STATE, LARGE_INPUT = "state of 256 kB", "input of 256 kB"
Life = Callable[[dict[str, Any]], Awaitable[None]]
"""One run with this input, on a thread of its own."""
Sample = tuple[float, float]
"""ms a run, ms of CPU a run."""


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    text: str
    size: int
    """The first step adds a text of this length."""


async def run(rounds: int) -> list[Measure]:
    samples: dict[tuple[str, str], list[Sample]] = {}
    with running_server() as server:
        async with AsyncExitStack() as stack:
            lives = {name: await stack.enter_async_context(made) for name, made in _lives(server).items()}
            gc.freeze()  # as a server does when it has started
            for round_ in range(rounds + 1):
                for name, life in lives.items():
                    for case, sample in (await _round(life)).items():
                        if round_:  # the first one warms up
                            samples.setdefault((name, case), []).append(sample)
    return [*_judged(samples), *await graph_cancels.measured(rounds), *await graph_start.measured(rounds)]


def _lives(server: str) -> dict[str, Any]:
    return {
        "no checkpointer": _bare(),
        "SQLite, LangGraph's saver": _stock_sqlite(),
        "SQLite, LangGraph's saver, exit": _stock_sqlite("exit"),
        "SQLite": _sqlite(),
        "SQLite, coordinator": _coordinated_sqlite(),
        "SQLite, coordinator, exit": _coordinated_sqlite("exit"),
        "PostgreSQL, LangGraph's saver": _stock_postgres(server),
        "PostgreSQL": _postgres(server),
        "PostgreSQL, coordinator": _coordinated_postgres(server),
    }


async def _round(life: Life) -> dict[str, Sample]:
    large = scaled(LARGE_RUNS, 10)
    return {
        ALONE: await _timed(life, 1, scaled(ONE_BY_ONE, 20), {}),
        BUSY: await _timed(life, AT_ONCE, scaled(RUNS, AT_ONCE), {}),
        LARGE_STATE: await _timed(life, 1, large, {"size": LARGE}),
        LARGE_INPUT: await _timed(life, 1, large, {"text": "x" * LARGE}),
    }


async def _timed(life: Life, at_once: int, runs: int, given: dict[str, Any]) -> Sample:
    left = itertools.count()

    async def one_after_another() -> None:
        while next(left) < runs:
            await life(given)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    took, used = time.perf_counter() - began, time.process_time() - cpu
    return took / runs * 1e3, used / runs * 1e3


def _judged(samples: dict[tuple[str, str], list[Sample]]) -> list[Measure]:
    ms = {key: median([sample[0] for sample in each]) for key, each in samples.items()}
    cpu = {key: median([sample[1] for sample in each]) for key, each in samples.items()}
    measures = [
        Measure("graphs", f"{name}, {case}", ms[name, case], "ms a run", note=f"{cpu[name, case]:.2f} ms CPU")
        for name, case in ms
    ]

    def times(name: str, stock: str, case: str, *, rate: float) -> Measure:
        """The rate of `name`, as a multiple of that of `stock` in the same round."""
        rounds = zip(samples[name, case], samples[stock, case], strict=True)
        ratios = [(other[0] / own[0], other[1] / own[1]) for own, other in rounds]
        faster, less_cpu = (median([ratio[column] for ratio in ratios]) for column in (0, 1))
        what = f"{name}, {case}: rate"
        note = f"{less_cpu:.2f} x the runs a second of CPU"
        return at_least(Measure("graphs", what, faster, f"x {stock}", note=note), rate)

    for database, least in (("SQLite", 2.0), ("PostgreSQL", 1.0)):
        stock = f"{database}, LangGraph's saver"
        for name in (database, f"{database}, coordinator"):
            measures += [times(name, stock, ALONE, rate=1), times(name, stock, BUSY, rate=least)]
    own, stock = "SQLite, coordinator, exit", "SQLite, LangGraph's saver, exit"
    measures += [times(own, stock, case, rate=1) for case in (ALONE, BUSY)]
    for name in ("SQLite", "SQLite, coordinator"):
        rate = Measure("graphs", f"{name}, {BUSY}", 1e3 / ms[name, BUSY], "runs/s")
        large = Measure("graphs", f"{name}, {LARGE_STATE}", ms[name, LARGE_STATE], "ms a run")
        measures += [at_least(rate, 400), at_most(large, 12)]
    return measures


# -- the graph with each saver


def _graph() -> Any:
    async def node(state: State) -> State:
        if (size := state.get("size")) is not None and "text" not in state:
            return {"log": ["x"], "text": "x" * size}
        return {"log": ["x"]}

    builder: Any = StateGraph(State)
    names = ["one", "two", "three"]
    for name in names:
        builder.add_node(name, node)
    for source, target in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(source, target)
    return builder.compile()


def _life(graph: Any, durability: str | None = None) -> Life:
    async def life(given: dict[str, Any]) -> None:
        config = {"configurable": {"thread_id": uuid4().hex}}
        values = await graph.ainvoke(given, config, durability=durability)
        assert len(values["log"]) == 3

    return life


@asynccontextmanager
async def _bare() -> AsyncGenerator[Life]:
    yield _life(_graph())


@asynccontextmanager
async def _stock_sqlite(durability: str | None = None) -> AsyncGenerator[Life]:
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncSqliteSaver.from_conn_string(f"{folder}/checkpoints.db") as saver:
            yield _life(_graph().copy(update={"checkpointer": saver}), durability)


@asynccontextmanager
async def _stock_postgres(server: str) -> AsyncGenerator[Life]:
    async with fresh_database(server) as url:
        settings = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        pool: Any = AsyncConnectionPool(url, max_size=CONNECTIONS, kwargs=settings, open=False)
        async with pool:
            saver = AsyncPostgresSaver(pool)
            await saver.setup()
            yield _life(_graph().copy(update={"checkpointer": saver}))


@asynccontextmanager
async def _sqlite() -> AsyncGenerator[Life]:
    with tempfile.TemporaryDirectory() as folder:
        states = sqlite_states(Path(folder) / "checkpoints.db")
        async with states.opened():
            yield _fenced(states)


@asynccontextmanager
async def _postgres(server: str) -> AsyncGenerator[Life]:
    async with fresh_database(server) as url:
        states = postgres_states(url, connections=CONNECTIONS)
        async with states.opened():
            yield _fenced(states)


def _fenced(states: GraphStates) -> Life:
    graph = _graph().copy(update={"checkpointer": states.saver})

    async def life(given: dict[str, Any]) -> None:
        thread_id, run_id = uuid4().hex, uuid4().hex
        await states.open(thread_id, run_id, 1)
        run = SimpleNamespace(thread_id=thread_id, run_id=run_id)
        token = current_run.set(cast("RunContext", SimpleNamespace(run=run, fence=1)))
        try:
            config = {"configurable": {"thread_id": thread_id}, "metadata": {"run_id": run_id}}
            async with write_behind():
                values = await graph.ainvoke(given, config)
            assert len(values["log"]) == 3
        finally:
            current_run.reset(token)
            states.close(thread_id, 1)
        await states.forget([run_id])

    return life


# -- through the coordinator


@asynccontextmanager
async def _coordinated_sqlite(durability: str | None = None) -> AsyncGenerator[Life]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        states = sqlite_states(folder / "checkpoints.db")
        async with _coordinated(f"sqlite:///{folder / 'runs.db'}", states, durability) as life:
            yield life


@asynccontextmanager
async def _coordinated_postgres(server: str) -> AsyncGenerator[Life]:
    async with (
        fresh_database(server) as url,
        _coordinated(url, postgres_states(url, connections=CONNECTIONS), None) as life,
    ):
        yield life


@asynccontextmanager
async def _coordinated(store: str, states: GraphStates, durability: str | None) -> AsyncGenerator[Life]:
    assistant = GraphAssistant(_graph(), states, name="graph")
    options = {} if durability is None else {"durability": durability}
    async with open_coordinator(store, assistants=[assistant]) as manager:

        async def life(given: dict[str, Any]) -> None:
            kwargs = {"input": given, **options}
            run = await manager.create_or_reject(uuid4().hex, "graph", kwargs=kwargs)
            manager.launch(run)
            values = await manager.wait(run.run_id)
            assert len(values["log"]) == 3

        yield life
