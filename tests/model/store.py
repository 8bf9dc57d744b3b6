"""The store's transactions, each atomic. A function returns None if the transaction is refused."""

from __future__ import annotations

from tests.model.states import NONE, OPEN, TERMINAL, Run, State

Weak = frozenset[str]


def live(s: State, epoch: int, weak: Weak) -> bool:
    return epoch not in s.declared_dead or "no_live_check" in weak


def owned(s: State, r: int, epoch: int, fence: int) -> bool:
    """The guard of every write of an owner."""
    run = s.runs[r]
    return run.holds and (run.owner, run.fence) == (epoch, fence) and epoch not in s.declared_dead


def next_fence(s: State, weak: Weak) -> int:
    return max(1, s.fence) if "no_new_fence" in weak else s.fence + 1


def admit(
    s: State, r: int, strategy: str, epoch: int, weak: Weak, *, dispatched: bool = False
) -> State | None:
    """`dispatched`: the worker executes none. The run waits without a home, also if the thread is free."""
    if not live(s, epoch, weak):
        return None
    if strategy in ("interrupt", "rollback"):
        for other in range(len(s.runs)):
            s = decide(s, other, weak, rollback=strategy == "rollback")
    busy = any(run.in_flight for run in s.runs) and "no_single_holder" not in weak
    if not busy and not dispatched:
        fence = next_fence(s, weak)
        return s.with_run(r, status="pending", holds=True, owner=epoch, fence=fence)._replace(fence=fence)
    if busy and strategy == "reject":
        return None
    keeps = not dispatched or "dispatched_keeps_home" in weak
    return s.with_run(r, status="pending", home=epoch if keeps else NONE)


def claim(s: State, epoch: int, portable: tuple[bool, ...], weak: Weak) -> State | None:
    """The head of the queue takes the free thread, if this epoch may execute it."""
    head = next((r for r, run in enumerate(s.runs) if run.waiting), None)
    held = s.holder is not None and "no_single_holder" not in weak
    if head is None or held or not live(s, epoch, weak):
        return None
    orphan = s.dead(s.runs[head].home) and portable[head] and "only_home_claims" not in weak
    if s.runs[head].home != epoch and not orphan:
        return None
    fence = next_fence(s, weak)
    return s.with_run(head, holds=True, owner=epoch, fence=fence)._replace(fence=fence)


def start(s: State, r: int, epoch: int, weak: Weak) -> State | None:
    """Start a run, after opening its fence: from then on the thread's values refuse older fences."""
    run = s.runs[r]
    mine = run.owner == epoch or "lost_run_starts" in weak
    if not run.holds or not mine or not live(s, epoch, weak):
        return None
    opened = s._replace(opened=max(s.opened, run.fence))
    if run.status == "running" and run.stopped:  # a further attempt: the first start stands
        base = NONE if "attempt_forgets_base" in weak else run.base
        return opened.with_run(r, stopped=False, base=base)
    if run.status != "pending":
        return None
    return opened.with_run(r, status="running", started=True, stopped=False, values_at_start=s.values)


def hand_over(s: State, r: int, epoch: int, fence: int) -> State | None:
    """The task of a draining worker has stopped undecided. The worker stays the owner."""
    if not owned(s, r, epoch, fence) or s.runs[r].status not in OPEN:
        return None
    return s.with_run(r, stopped=True)


def adopt_attempts(s: State, by: int, portable: tuple[bool, ...], retries: int, weak: Weak) -> State:
    """Become the owner of runs of dead workers that have not started or have retries, and of those that were
    handed over."""
    for r, run in enumerate(s.runs):
        leaves = run.stopped and any(w.epoch == run.owner and w.draining for w in s.workers)
        orphan = s.dead(run.owner) or leaves or "adopt_alive" in weak
        left = portable[r] and may_continue(run, retries, weak)
        if run.holds and run.status in OPEN and orphan and left and run.owner != by:
            fence = s.fence if "attempt_without_fence" in weak else s.fence + 1
            deaths = run.deaths + (not run.stopped and run.status == "running")
            s = s.with_run(r, owner=by, fence=fence, deaths=deaths, stopped=True)._replace(fence=fence)
    return s


def may_continue(run: Run, retries: int, weak: Weak) -> bool:
    waits = run.status == "pending" and "taken_ends_with_taker" not in weak
    return run.stopped or waits or run.deaths < retries


def decide(s: State, r: int, weak: Weak, *, rollback: bool = False) -> State:
    """A cancel. A queued run settles at once. A holder keeps the thread until its task has stopped."""
    run = s.runs[r]
    if run.status not in OPEN:
        return s
    return s.with_run(
        r, status="interrupted", rollback=rollback, holds=run.holds and "free_on_cancel" not in weak
    )


def finish(s: State, r: int, epoch: int, fence: int, weak: Weak) -> State | None:
    """Decide and settle. An earlier decision stands. A rollback keeps the thread until `settle`."""
    run = s.runs[r]
    if not owned(s, r, epoch, fence) and "no_owner_guard" not in weak:
        return None
    if run.status in OPEN or "success_overwrites" in weak or "no_owner_guard" in weak:
        return s.with_run(r, status="success", holds=False)
    return settle(s, r, epoch, fence, weak)


def settle(s: State, r: int, epoch: int, fence: int, weak: Weak) -> State | None:
    run = s.runs[r]
    if not owned(s, r, epoch, fence) or run.status not in TERMINAL:
        return None
    if run.must_undo and "settle_before_restore" not in weak:
        return None
    return s.with_run(r, holds=False)


def refence(s: State, r: int, epoch: int, fence: int, weak: Weak) -> State | None:
    if not owned(s, r, epoch, fence):
        return None
    if "force_without_fence" in weak:
        return s
    return s.with_run(r, fence=s.fence + 1)._replace(fence=s.fence + 1)


def save(s: State, r: int, fence: int, weak: Weak) -> State | None:
    """A write of the thread's values. The store that holds them checks only the fence. The first save of a
    run also keeps the values before it, in the same transaction."""
    if fence < s.opened and "save_unfenced" not in weak:
        return None
    base = s.values if s.runs[r].base == NONE or "base_overwritten" in weak else s.runs[r].base
    return s.with_run(r, base=base)._replace(values=r + 1)


def restore(s: State, r: int, fence: int, weak: Weak) -> State | None:
    """Undo the saves of the run, after advancing the fence. Any worker with a fence that is new enough may
    repeat it; only the owner's answer proves that it is complete."""
    if fence < s.opened and "restore_unfenced" not in weak:
        return None
    values = s.values if s.runs[r].base == NONE else s.runs[r].base
    return s._replace(values=values, opened=max(s.opened, fence))


def declare_dead(s: State, epoch: int) -> State:
    return s._replace(declared_dead=s.declared_dead | {epoch})


def sweep(
    s: State, by: int, portable: tuple[bool, ...], attempts: int, weak: Weak, retries: int = 0
) -> State:
    """End orphaned runs. Adopts incomplete rollbacks, at most `attempts` times each. Runs that may have a
    further attempt wait for a worker that adopts them."""
    for r, run in enumerate(s.runs):
        responsible = run.owner if run.owner != NONE else run.home
        if not run.in_flight or not s.dead(responsible) or (run.waiting and portable[r]):
            continue
        if run.holds and run.status in OPEN and portable[r] and may_continue(run, retries, weak):
            continue
        if run.waiting and "drain_keeps_queue" in weak:
            continue
        s = _end_or_adopt(s, r, run, by, attempts, weak)
    return s


def give_up(s: State, r: int) -> State:
    """End a run that no live worker can execute. The product waits for a while: one may start."""
    return s.with_run(r, status="error", holds=False)


def _end_or_adopt(s: State, r: int, run: Run, by: int, attempts: int, weak: Weak) -> State:
    undo = run.must_undo and "no_adoption" not in weak
    if undo and (run.attempts < attempts or "adopt_for_ever" in weak):
        fence = s.fence if "adopt_without_fence" in weak else s.fence + 1
        s = s.with_run(r, owner=by, fence=fence, attempts=run.attempts + 1, undone=False)
        return s._replace(fence=fence)
    status = run.status if run.status in TERMINAL else "error"
    return s.with_run(r, status=status, holds=False, failed=run.failed or undo)
