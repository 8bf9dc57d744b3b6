"""`coordinator webhooks` and `coordinator crons`."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest

from coordinator.cli.pending_work import pending_work
from stores.crons import CronRow
from stores.webhooks import WebhookReport
from tests.support.command_line import (
    DONE,
    EVIL,
    FAILED,
    USAGE,
    Busy,
)


class Deployment(NamedTuple):
    """A worker with three webhooks, of which one is dead and two wait, and two crons."""

    busy: Busy
    dead: str
    waiting: list[str]
    crons: list[str]


def cron_of(
    cron_id: str, *, enabled: bool = True, user_id: str | None = None, thread_id: str | None = None
) -> CronRow:
    return CronRow(
        cron_id=cron_id,
        user_id=user_id,
        assistant_id="agent",
        thread_id=thread_id,
        schedule="* * * * *",
        timezone=None,
        enabled=enabled,
        end_at=None,
        on_run_completed=None,
        payload={"assistant_id": "agent"},
        metadata={},
        next_at=None,
    )


@pytest.fixture
async def deployment(busy: Busy) -> Deployment:
    runs = [
        await busy.manager.create_or_reject(
            f"w{number}", webhook=f"https://example.com/{number}/s3cret", user_id="u"
        )
        for number in range(3)
    ]
    dead, *others = (run.run_id for run in runs)
    await busy.manager.cancel(dead)
    (claimed,) = await busy.manager.webhooks.claim(lease=60, limit=10)
    report = WebhookReport(delivered=False, status_code=500, error=f"answered {EVIL}")
    assert await busy.manager.webhooks.report(dead, attempt=claimed.attempt, report=report)
    made = [
        await busy.manager.crons.create(cron)
        for cron in (cron_of("c0", enabled=False, user_id="u"), cron_of("c1", thread_id="t1"))
    ]
    return Deployment(busy, dead, others, [cron.cron_id for cron in made])


@pytest.mark.parametrize("noun", ["webhooks", "crons"])
async def test_lists_in_pages(deployment: Deployment, noun: str) -> None:
    async def page(*args: str) -> tuple[list[str], int | None]:
        answer = await deployment.busy.cli(noun, "list", "--limit", "1", "--json", *args)
        return [one["run_id" if noun == "webhooks" else "cron_id"] for one in answer.document[noun]], (
            answer.document["offset"]
        )

    seen = list[str]()
    offset: int | None = 0
    while offset is not None:
        ids, offset = await page("--offset", str(offset))
        seen += ids
    assert sorted(seen) == sorted(
        [deployment.dead, *deployment.waiting] if noun == "webhooks" else deployment.crons
    )
    people = await deployment.busy.cli(noun, "list", "--limit", "1")
    assert "there are more: --offset 1" in people.err
    assert "more" not in (await deployment.busy.cli(noun, "list")).err


async def test_webhooks_list(deployment: Deployment) -> None:
    async def ids(*args: str) -> set[str]:
        answer = await deployment.busy.cli("webhooks", "list", "--json", *args)
        assert answer.code == DONE, answer.err
        return {one["run_id"] for one in answer.document["webhooks"]}

    assert await ids() == {deployment.dead, *deployment.waiting}
    assert await ids("--state", "waiting", "--state", "due") == {*deployment.waiting}
    assert await ids("--run", deployment.dead, "--user", "u") == {deployment.dead}
    assert len(await ids("--limit", "2")) == 2
    assert await ids("--user", "v") == set()
    answer = await deployment.busy.cli("webhooks", "list", "--state", "dead", "--json")
    (one,) = answer.document["webhooks"]
    assert (one["attempts"], one["status_code"]) == (1, 500)
    assert one["url"] == "https://example.com/…"
    people = await deployment.busy.cli("webhooks", "list")
    assert deployment.dead in people.out
    assert "s3cret" not in people.out + answer.out
    assert "\x1b[31mred" not in people.out


async def test_webhooks_retry(deployment: Deployment) -> None:
    async def dead() -> int:
        answer = await deployment.busy.cli("webhooks", "list", "--state", "dead", "--json")
        return len(answer.document["webhooks"])

    refused = await deployment.busy.cli("webhooks", "retry", deployment.dead, deployment.waiting[0], "--json")
    assert (refused.code, refused.error["type"]) == (FAILED, "WebhookNotDead")
    assert await dead() == 1, "nothing was written"
    unknown = await deployment.busy.cli("webhooks", "retry", deployment.busy.done.run_id, "--json")
    assert (unknown.code, unknown.error["type"]) == (FAILED, "WebhookNotFound")
    assert (
        await deployment.busy.cli("webhooks", "retry", "--all", "--user", "v")
    ).out == "no webhook is dead\n"
    answer = await deployment.busy.cli("webhooks", "retry", deployment.dead, "--json")
    assert (answer.code, answer.document) == (DONE, {"retried": [deployment.dead]})
    assert await dead() == 0
    (claimed,) = await deployment.busy.manager.webhooks.claim(lease=60, limit=10)
    assert (claimed.run_id, claimed.attempt) == (deployment.dead, 1)


async def test_retry_of_one_webhook_is_reported_in_the_singular(deployment: Deployment) -> None:
    assert (await deployment.busy.cli("webhooks", "retry", "--all")).out == "1 webhook is due again\n"


async def test_crons_list_and_delete(deployment: Deployment) -> None:
    async def ids(*args: str) -> list[str]:
        answer = await deployment.busy.cli("crons", "list", "--json", *args)
        assert answer.code == DONE, answer.err
        return sorted(one["cron_id"] for one in answer.document["crons"])

    assert await ids() == deployment.crons
    assert await ids("--disabled") == ["c0"]
    assert await ids("--enabled") == await ids("--thread", "t1") == ["c1"]
    assert await ids("--user", "u") == ["c0"]
    assert await ids("--assistant", "unknown") == []
    people = await deployment.busy.cli("crons", "list")
    assert "one per run" in people.out
    answer = await deployment.busy.cli("crons", "delete", "c0")
    assert (answer.code, answer.out) == (DONE, "cron c0 is deleted; its runs in flight continue\n")
    assert await ids() == ["c1"]
    again = await deployment.busy.cli("crons", "delete", "c0", "--json")
    assert (again.code, again.error["type"]) == (FAILED, "CronNotFound")


async def test_webhooks_stop(deployment: Deployment) -> None:
    async def pending() -> int:
        return await deployment.busy.manager.webhooks.count(states=("waiting", "due"))

    refused = await deployment.busy.cli("webhooks", "stop", deployment.waiting[0], deployment.dead, "--json")
    assert (refused.code, refused.error["type"]) == (FAILED, "WebhookNotPending")
    assert await pending() == 2, "nothing was written"
    for odd in ((), (deployment.waiting[0], "--user", "u"), (deployment.waiting[0], "--all")):
        assert (await deployment.busy.cli("webhooks", "stop", *odd)).code == USAGE
    answer = await deployment.busy.cli("webhooks", "stop", deployment.waiting[0], "--json")
    assert (answer.code, answer.document) == (DONE, {"stopped": [deployment.waiting[0]]})
    assert (await deployment.busy.cli("webhooks", "stop", "--user", "v")).out == "no webhook is pending\n"
    assert (await deployment.busy.cli("webhooks", "stop", "--user", "u")).out == "1 webhook stopped\n"
    assert await pending() == 0


async def test_all_crons_of_a_user_are_disabled_and_deleted(deployment: Deployment) -> None:
    manager = deployment.busy.manager
    for number in range(3):
        await manager.crons.create(replace(cron_of(f"u{number}", user_id="u"), next_at=2**53))
    assert await pending_work(manager, "u") == (3, 2)
    for odd in ((), ("u0", "--user", "u")):
        for command in ("disable", "delete"):
            assert (await deployment.busy.cli("crons", command, *odd)).code == USAGE
    answer = await deployment.busy.cli("crons", "disable", "u0")
    assert (answer.code, answer.out) == (DONE, "1 cron disabled; their runs in flight continue\n")
    assert (await deployment.busy.cli("crons", "disable", "u0")).out == "no such cron is enabled\n"
    unknown = await deployment.busy.cli("crons", "disable", "unknown", "--json")
    assert (unknown.code, unknown.error["type"]) == (FAILED, "CronNotFound")
    answer = await deployment.busy.cli("crons", "disable", "--user", "u", "--json")
    assert sorted(answer.document["disabled"]) == ["u1", "u2"]
    assert await pending_work(manager, "u") == (0, 2)
    assert {cron.next_at for cron in await manager.crons.search(user_id="u")} == {None}
    answer = await deployment.busy.cli("crons", "delete", "--user", "u", "--json")
    assert sorted(answer.document["deleted"]) == ["c0", "u0", "u1", "u2"]
    assert [cron.cron_id for cron in await manager.crons.search()] == ["c1"], "crons of other users stay"
    assert (await deployment.busy.cli("crons", "delete", "--user", "u")).code == DONE
