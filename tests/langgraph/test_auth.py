"""The key `auth` of langgraph.json: users are identified, and what no function permits is refused."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from langgraph_sdk import Auth
from starlette.exceptions import HTTPException
from starlette.routing import Route

from coordinator import InvalidArgument
from coordinator.gateway.middleware.authorization import Authorization
from coordinator.gateway.rules import RULES
from coordinator.langgraph.access import Filter, UnusableFilter
from coordinator.langgraph.auth import AuthHandlers
from coordinator.langgraph.extension import Extension
from tests.gateway.matrix import ENDLESS, ROWS, SOCKETS, Needs, new_ids
from tests.support.asgi import serving

AGENT: dict[str, Any] = {"assistant_id": "agent", "input": {}}
CRON: dict[str, Any] = {**AGENT, "schedule": "0 0 1 1 *"}


def handlers(auth: object, timeout: float = 5) -> AuthHandlers:
    return AuthHandlers(auth, "auth.path", timeout)


def named() -> Auth:
    """The header is the user's id."""
    auth = Auth()

    @auth.authenticate
    async def authenticate(authorization: str | None) -> dict[str, Any]:
        if authorization is None:
            raise Auth.exceptions.HTTPException(status_code=401, detail="no name", headers={"x-why": "none"})
        return {"identity": authorization, "permissions": ["chat"], "team": "red"}

    return auth


def owned() -> Auth:
    """The example of LangGraph's documentation."""
    auth = named()

    @auth.on
    async def own(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> dict[str, str]:
        value.setdefault("metadata", {})["owner"] = ctx.user.identity
        return {"owner": ctx.user.identity}

    return auth


@asynccontextmanager
async def gateway(auth: Auth, timeout: float = 5, **more: Any) -> AsyncGenerator[httpx.AsyncClient]:
    extension = Extension(handlers=handlers(auth, timeout), **more)
    async with serving(extension=extension, headers={"authorization": "ann"}) as (_, client):
        yield client


async def status(client: httpx.AsyncClient, method: str, path: str, body: Any = None, **headers: str) -> int:
    return (await client.request(method, path, json=body, headers=headers)).status_code


async def new_thread(client: httpx.AsyncClient, **body: Any) -> str:
    made = await client.post("/threads", json=body)
    assert made.status_code == 200, made.text
    return made.json()["thread_id"]


GUARDED = sorted(key for key, row in ROWS.items() if row.needs is not Needs.public)


def filled(path: str) -> str:
    ids = new_ids()
    values = {"thread_id": ids.thread_id, "run_id": ids.run_id, "cron_id": ids.cron_id, "namespace": "n"}
    return path.format(**values, assistant_id="agent", checkpoint_id="c")


def body_of(key: tuple[str, str]) -> Any:
    make = ROWS[key].body
    return None if make is None else make(new_ids())


# -- every route


async def test_no_route_answers_a_caller_that_is_not_identified() -> None:
    async with gateway(named()) as client:
        del client.headers["authorization"]
        for method, path in GUARDED:
            answer = await client.request(method, filled(path), json=body_of((method, path)))
            assert answer.status_code == 401, (method, path)
            assert answer.headers["x-why"] == "none"


async def test_every_route_is_decided_by_a_function() -> None:
    """Also with a body in a form that only FastAPI reads."""
    auth, calls = named(), list[tuple[str, str]]()

    @auth.on
    async def deny(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> bool:
        calls.append((ctx.resource, ctx.action))
        return False

    undecided: set[str] = set()
    async with gateway(auth) as client:
        for method, path in GUARDED:
            for more in ({}, {"content-type": "application/json; charset=UTF-8", "x": "1"}):
                calls.clear()
                answer = await client.request(
                    method, filled(path), json=body_of((method, path)), headers=more
                )
                if not calls:
                    undecided.add(path)
                elif answer.status_code != 404:  # a run that does not exist has no thread
                    assert answer.status_code == 403, (method, path, answer.text)
                    assert answer.json() == {"detail": "Forbidden"}
        assert await status(client, "GET", "/metrics") == 403
        assert await status(client, "GET", "/coordinator/workers") == 403
        assert await status(client, "POST", "/coordinator/drain", {}) == 403
    of_unknown_runs = {path for _, path in GUARDED if "{run_id}" in path and "{thread_id}" not in path}
    assert undecided == of_unknown_runs | {
        "/coordinator/health",
        "/coordinator/workers",
        "/coordinator/drain",
        "/metrics",
    }


async def test_runs_without_a_thread_in_their_path_are_decided_as_well() -> None:
    auth = named()

    @auth.on.threads.read
    async def deny(ctx: Auth.types.AuthContext, value: Any) -> bool:
        assert str(value["thread_id"])
        return False

    async with gateway(auth) as client:
        run = (await client.post("/runs", json={**AGENT, "on_completion": "keep"})).json()["run_id"]
        for path in ("", "/join", "/stream"):
            assert await status(client, "GET", f"/runs/{run}{path}") == 403
        for path in ("explain", "receipt"):
            assert await status(client, "GET", f"/coordinator/runs/{run}/{path}") == 403


def test_rules_are_those_of_the_routes() -> None:
    assert set(RULES) == set(GUARDED) | SOCKETS
    assert ENDLESS in RULES


def test_route_without_a_rule_cannot_be_served() -> None:
    async def endpoint() -> None: ...

    with pytest.raises(LookupError, match="/new has no rule"):
        Authorization(endpoint, handlers(named()), [Route("/new", endpoint, methods=["GET"])])  # type: ignore[arg-type]


# -- users and their resources


async def test_users_are_separate_without_any_function_that_authorises() -> None:
    async with gateway(named()) as client:
        thread = await new_thread(client)
        assert await status(client, "GET", f"/threads/{thread}") == 200
        assert await status(client, "GET", f"/threads/{thread}", authorization="bob") == 404
        assert (await client.post("/threads/search", json={}, headers={"authorization": "bob"})).json() == []


async def test_documented_example_of_owners() -> None:
    async with gateway(owned()) as client:
        thread = await new_thread(client, metadata={"a": 1})
        assert (await client.get(f"/threads/{thread}")).json()["metadata"] == {"a": 1, "owner": "ann"}
        assert await status(client, "POST", f"/threads/{thread}/runs/wait", AGENT) == 200
        (row,) = (await client.post("/threads/search", json={"metadata": {"owner": "bob"}})).json()
        assert row["thread_id"] == thread
        run = (await client.post("/runs", json={**AGENT, "on_completion": "keep"})).json()
        assert run["metadata"]["owner"] == "ann"
        assert await status(client, "GET", f"/runs/{run['run_id']}/join") == 200
        assert (await client.get(f"/threads/{run['thread_id']}")).json()["metadata"]["owner"] == "ann"
        own = f"/threads/{new_ids().thread_id}"
        assert await status(client, "POST", f"{own}/runs/wait", {**AGENT, "if_not_exists": "create"}) == 200
        assert (await client.get(own)).json()["metadata"]["owner"] == "ann"
        cron = (await client.post("/runs/crons", json=CRON)).json()
        assert cron["metadata"] == {"owner": "ann"}
        assert [one["cron_id"] for one in (await client.post("/runs/crons/search", json={})).json()] == [
            cron["cron_id"]
        ]
        assert (await client.post("/assistants/search", json={})).json() == []
        assert await status(client, "GET", "/assistants/agent") == 404
        bob = {"authorization": "bob"}
        for method, path in (
            ("GET", f"/threads/{thread}"),
            ("GET", f"/threads/{thread}/state"),
            ("DELETE", f"/threads/{thread}"),
            ("GET", f"/runs/{run['run_id']}"),
            ("GET", f"/runs/crons/{cron['cron_id']}"),
        ):
            assert await status(client, method, path, **bob) == 404, path


async def test_stateless_run_with_owner_leaves_no_thread() -> None:
    async with gateway(owned()) as client:
        assert await status(client, "POST", "/runs/wait", AGENT) == 200
        assert (await client.post("/threads/search", json={})).json() == []


async def test_filter_restricts_a_user_further() -> None:
    """For the caller a resource that does not match is one that does not exist."""
    auth = named()

    @auth.on
    async def of_case(ctx: Auth.types.AuthContext, value: Any) -> Any:
        if ctx.action == "create":
            return None
        return {"case": {"$eq": "open"}, "people": {"$contains": ["ann", "bob"]}}

    async with gateway(auth) as client:
        shown = await new_thread(client, metadata={"case": "open", "people": ["bob", "ann", "eve"]})
        hidden = [
            await new_thread(client, metadata=metadata)
            for metadata in (
                {},
                {"case": "open", "people": ["ann"]},
                {"case": "shut", "people": ["ann", "bob"]},
            )
        ]
        matching = (await client.post("/threads/search", json={})).json()
        assert [one["thread_id"] for one in matching] == [shown]
        assert (await client.post("/threads/count", json={})).json() == 1
        assert (await client.post("/threads/search", json={"metadata": {"case": "shut"}})).json() == []
        assert (await client.post("/threads/count", json={"metadata": {"people": "ann"}})).json() == 0
        assert await status(client, "POST", f"/threads/{shown}/runs", AGENT) == 200
        missing = new_ids().thread_id
        requests: list[tuple[str, str, Any]] = [
            ("GET", "", None),
            ("PATCH", "", {"metadata": {}}),
            ("DELETE", "", None),
            ("GET", "/state", None),
            ("POST", "/state", {"values": {}}),
            ("POST", "/history", {}),
            ("POST", "/copy", None),
            ("GET", "/runs", None),
            ("POST", "/runs", AGENT),
            ("POST", "/runs/crons", CRON),
            ("GET", "/stream", None),
        ]
        for thread in (*hidden, missing):
            for method, path, body in requests:
                answer = await client.request(method, f"/threads/{thread}{path}", json=body)
                assert answer.status_code == 404, (path, answer.text)
                assert answer.json() == {"detail": f"Thread {thread!r} not found"}
        create = {**AGENT, "if_not_exists": "create"}
        assert await status(client, "POST", f"/threads/{hidden[0]}/runs", create) == 404
        assert await status(client, "POST", "/runs/batch", [{**AGENT, "thread_id": hidden[0]}]) == 404
        assert await status(client, "POST", "/runs/batch", [AGENT] * 10_000) == 422
        assert await status(client, "POST", "/runs/cancel", {"status": "all"}) == 403
        assert await status(client, "POST", "/runs/cancel", {"thread_id": hidden[0], "status": "all"}) == 404


async def test_function_decides_about_the_body_that_the_endpoint_gets() -> None:
    auth, delays = named(), list[int]()

    @auth.on.threads.create_run
    async def limit(ctx: Auth.types.AuthContext, value: Any) -> None:
        assert value["assistant_id"].version == 5
        delays.append(value["after_seconds"])
        value["kwargs"]["input"]["tag"] = ctx.user["team"]
        value["kwargs"].setdefault("config", {})["recursion_limit"] = 3

    @auth.on.threads.update
    async def rename(ctx: Auth.types.AuthContext, value: Any) -> None:
        value["metadata"]["by"] = ctx.user.display_name

    async with gateway(auth) as client:
        thread = await new_thread(client)
        values = (await client.post(f"/threads/{thread}/runs/wait", json=AGENT)).json()
        assert values["log"] == ["red:1"]
        assert await status(client, "POST", f"/threads/{thread}/runs", {**AGENT, "after_seconds": 60}) == 200
        assert delays == [0, 60]
        changed = await client.patch(f"/threads/{thread}", json={"metadata": {"a": 1}})
        assert changed.json()["metadata"] | {"a": 1, "by": "ann"} == changed.json()["metadata"]


async def test_command_is_decided_as_the_run_that_it_starts() -> None:
    auth, seen = owned(), list[Any]()

    @auth.on.threads.create_run
    async def limit(ctx: Auth.types.AuthContext, value: Any) -> Any:
        seen.append(dict(value["kwargs"]))
        if "input" in value["kwargs"]:
            value["kwargs"]["input"] = {"tag": ctx.user["team"]}
        value["metadata"]["owner"] = ctx.user.identity
        return {"owner": ctx.user.identity}

    async with gateway(auth) as client:
        thread = await new_thread(client)
        command = {"id": 1, "method": "run.start", "params": {**AGENT, "config": {"tags": ["a"]}}}
        began = (await client.post(f"/threads/{thread}/commands", json=command)).json()
        run = f"/threads/{thread}/runs/{began['result']['run_id']}"
        assert (await client.get(f"{run}/join")).json()["log"] == ["red:1"]
        assert (await client.get(run)).json()["metadata"]["owner"] == "ann"
        assert seen == [{"input": {}, "config": {"tags": ["a"]}}]
        for method in ("run.start", "input.respond", "agent.getTree", "other"):
            path, body = f"/threads/{thread}/commands", {**command, "method": method}
            assert await status(client, "POST", path, body, authorization="bob") == 404, method
        stream = f"/threads/{thread}/stream/events"
        assert await status(client, "POST", stream, {"channels": ["values"]}, authorization="bob") == 404
        answer = {"id": 2, "method": "input.respond", "params": {"interrupt_id": "i", "response": 5}}
        refused = (await client.post(f"/threads/{thread}/commands", json=answer)).json()
        assert refused["error"] == "no_such_interrupt"
        assert seen[-1] == {"command": {"resume": 5}}


async def test_change_without_effect_refuses_the_request(caplog: pytest.LogCaptureFixture) -> None:
    auth = named()

    @auth.on.threads.create_run
    async def other(ctx: Auth.types.AuthContext, value: Any) -> None:
        value["assistant_id"] = "another"

    async with gateway(auth) as client:
        answer = await client.post("/runs", json=AGENT)
    assert answer.status_code == 500
    assert "has changed assistant_id, which has no effect here" in caplog.text


async def test_cancel_on_disconnect_needs_the_permission_to_cancel() -> None:
    auth = named()

    @auth.on.threads.update
    async def deny(ctx: Auth.types.AuthContext, value: Any) -> bool:
        return False

    async with gateway(auth) as client:
        thread = await new_thread(client)
        run = (await client.post(f"/threads/{thread}/runs", json=AGENT)).json()["run_id"]
        path = f"/threads/{thread}/runs/{run}/join"
        assert await status(client, "GET", path) == 200
        assert await status(client, "GET", f"{path}?cancel_on_disconnect=true") == 403
        assert await status(client, "POST", f"/threads/{thread}/runs/{run}/cancel") == 403


async def test_most_specific_function_decides() -> None:
    auth = named()

    @auth.on
    async def deny(ctx: Auth.types.AuthContext, value: Any) -> bool:
        return False

    @auth.on.threads
    async def threads(ctx: Auth.types.AuthContext, value: Any) -> bool:
        return ctx.action == "read"

    @auth.on.threads.create
    async def create(ctx: Auth.types.AuthContext, value: Any) -> bool:
        return "chat" in ctx.permissions

    async with gateway(auth) as client:
        thread = await new_thread(client)
        assert await status(client, "GET", f"/threads/{thread}") == 200
        assert await status(client, "DELETE", f"/threads/{thread}") == 403
        assert await status(client, "POST", "/assistants/search", {}) == 403


# -- functions that fail


async def _hang() -> None:
    await asyncio.Event().wait()


async def _block() -> None:
    time.sleep(0.3)  # noqa: ASYNC251 - what must not be done


def _raises(error: Exception) -> Callable[[], Any]:
    async def fail() -> None:
        raise error

    return fail


FAILURES = {
    "exception": (_raises(RuntimeError("secret")), 500, None),
    "own": (_raises(Auth.exceptions.HTTPException(status_code=418, detail="short")), 418, "short"),
    "starlette": (_raises(HTTPException(451, "law")), 451, "law"),
    "unknown status": (_raises(Auth.exceptions.HTTPException(499, "left")), 499, "left"),
    "no error": (_raises(HTTPException(200, "fine")), 500, None),
    "timeout of its own": (_raises(TimeoutError("secret")), 500, None),
    "hangs": (_hang, 503, None),
    "blocks": (_block, 503, None),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("where", ["authenticate", "on"])
async def test_failure_of_a_function_refuses_the_request(
    name: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    fail, expected, detail = FAILURES[name]
    auth = Auth()

    @auth.authenticate
    async def authenticate() -> str:
        if where == "authenticate":
            await fail()
        return "ann"

    @auth.on
    async def permit(ctx: Auth.types.AuthContext, value: Any) -> None:
        await fail()

    async with gateway(auth, timeout=0.1) as client:
        answer = await client.post("/threads", json={})
    assert answer.status_code == expected
    assert "secret" not in answer.text
    if detail is not None:
        assert answer.json() == {"detail": detail}
    else:
        assert any(one.levelno == logging.ERROR and "was refused" in one.message for one in caplog.records)


async def test_assertion_in_a_function_that_authorises_is_forbidden() -> None:
    auth = named()

    @auth.on
    async def permit(ctx: Auth.types.AuthContext, value: Any) -> None:
        raise AssertionError("not you")

    async with gateway(auth) as client:
        answer = await client.post("/threads", json={})
    assert (answer.status_code, answer.json()) == (403, {"detail": "not you"})


@pytest.mark.parametrize(
    "given",
    [
        "yes",
        1,
        {"$or": [{"a": 1}, {"b": 2}]},
        {"a": {"$gt": 1}},
        {"a": {"$eq": 1, "$contains": 2}},
        {"a": [1]},
    ],
    ids=repr,
)
async def test_result_that_cannot_be_enforced_refuses_the_request(
    given: Any, caplog: pytest.LogCaptureFixture
) -> None:
    auth = named()

    @auth.on
    async def permit(ctx: Auth.types.AuthContext, value: Any) -> Any:
        return given

    async with gateway(auth) as client:
        assert await status(client, "GET", f"/threads/{new_ids().thread_id}") == 500
        assert await status(client, "POST", "/threads/search", {}) == 500
    assert "cannot be enforced" in caplog.text


async def test_function_that_is_not_async_is_bounded_as_well() -> None:
    auth, release = Auth(), threading.Event()

    def authenticate(path: str) -> str:
        if path == "/threads/count":
            release.wait(10)
        return "ann"

    auth.authenticate(cast("Any", authenticate))

    async with gateway(auth, timeout=0.2) as client:
        try:
            assert await status(client, "POST", "/threads/count", {}) == 503
            assert await status(client, "POST", "/threads/search", {}) == 200
        finally:
            release.set()


# -- users


class Account:
    def __init__(self) -> None:
        self.identity, self.permissions, self.seat = "ann", ["a", "b"], 4
        self._hidden = 1

    @property
    def title(self) -> str:
        return "Dr"


@pytest.mark.parametrize(
    ("given", "permissions", "attributes"),
    [
        ("ann", (), {}),
        ({"identity": "ann"}, (), {}),
        ({"identity": "ann", "permissions": ["a"], "org": "o"}, ("a",), {"org": "o"}),
        ((["a"], {"identity": "ann", "permissions": ["b"]}), ("a",), {}),
        ((("a",), "ann"), ("a",), {}),
        (SimpleNamespace(identity="ann", display_name="Ann"), (), {"display_name": "Ann"}),
        (Account(), ("a", "b"), {"seat": 4}),
        (Auth.types.StudioUser("ann", is_authenticated=True), ("authenticated",), {}),
    ],
    ids=["text", "dict", "fields", "pair", "pair of text", "object", "class", "slots"],
)
async def test_forms_of_a_user(given: Any, permissions: tuple[str, ...], attributes: dict[str, Any]) -> None:
    auth = Auth()

    @auth.authenticate
    async def authenticate() -> Any:
        return given

    identity = await handlers(auth).identify({})
    assert (identity.user_id, identity.permissions, identity.attributes) == ("ann", permissions, attributes)
    user: Any = identity.user
    assert (user.identity, user["identity"], user.display_name) == (
        "ann",
        "ann",
        attributes.get("display_name", "ann"),
    )
    if isinstance(given, Account):
        assert (user.title, user.seat) == ("Dr", 4)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, 500),
        ("", 500),
        ({}, 500),
        ({"identity": 7}, 500),
        ({"identity": "ann", "permissions": [1]}, 500),
        ("a\nb", 500),
        ("x" * 256, 500),
        ({"identity": "ann", "is_authenticated": False}, 401),
    ],
    ids=repr,
)
async def test_unusable_user_is_refused(given: Any, expected: int) -> None:
    auth = Auth()

    @auth.authenticate
    async def authenticate() -> Any:
        return given

    async with gateway(auth) as client:
        assert await status(client, "POST", "/threads/search", {}) == expected


async def test_parameters_of_authenticate() -> None:
    auth, seen = Auth(), dict[str, Any]()

    @auth.authenticate
    async def authenticate(  # noqa: PLR0917 - all that there are
        request: Any,
        path: str,
        method: str,
        path_params: Any,
        query_params: Any,
        headers: Any,
        authorization: str | None,
        scope: Any,
        scopes: Any,
        user: Any,
        other: int = 3,
    ) -> str:
        seen.update(locals())
        return "ann"

    async with gateway(auth) as client:
        thread = new_ids().thread_id
        await client.get(f"/threads/{thread}?include=ttl")
    assert (seen["path"], seen["method"], seen["other"]) == (f"/threads/{thread}", "GET", 3)
    assert str(seen["path_params"]["thread_id"]) == thread
    assert seen["query_params"]["include"] == "ttl"
    assert (seen["headers"][b"authorization"], seen["authorization"]) == (b"ann", "ann")
    assert (seen["request"].url.path, seen["scope"]["path"]) == (f"/threads/{thread}", f"/threads/{thread}")
    assert (seen["scopes"], seen["user"]) == ([], None)


async def test_two_authorization_headers_are_refused() -> None:
    async with gateway(named()) as client:
        twice = [("authorization", "ann"), ("authorization", "bob")]
        answer = await client.request("POST", "/threads/search", json={}, headers=twice)
    assert answer.status_code == 400


# -- what is refused at the start


def _with(*names: str) -> Auth:
    auth = Auth()
    source = f"async def authenticate({', '.join(names)}): return 'ann'"
    made: dict[str, Any] = {}
    exec(source, {"Depends": type("Depends", (), {})}, made)  # noqa: S102 - a signature for each test
    auth.authenticate(made["authenticate"])
    return auth


def _on(resource: str, action: str) -> Auth:
    auth = named()

    @auth.on(resources=resource, actions=action)
    async def never(ctx: Auth.types.AuthContext, value: Any) -> bool:
        return False

    return auth


@pytest.mark.parametrize(
    ("auth", "why"),
    [
        (object(), "is of type object, not a langgraph_sdk.Auth"),
        (Auth(), "has no function with @auth.authenticate"),
        (_with("body"), "body is not available"),
        (_with("token"), "the parameter 'token' is none of authorization"),
        (_with("path=Depends()"), "Depends \\(path\\) is not supported"),
        (_with("path, /"), "must not be positional-only"),
        (_on("runs", "read"), r"no request would call the function for runs.read"),
        (_on("threads", "list"), r"no request would call the function for threads.list"),
        (_on("*", "list"), r"no request would call the function for \*.list"),
    ],
    ids=["object", "no function", "body", "unknown", "depends", "positional", "runs", "action", "any"],
)
def test_auth_that_could_not_be_enforced_is_refused_at_the_start(auth: Any, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        handlers(auth)


def test_optional_parameters_and_functions_of_the_store_are_accepted() -> None:
    assert handlers(_with("path", "other=1", "*args", "**options")).parameters == {"path"}
    handlers(_on("store", "put"))


# -- filters


@pytest.mark.parametrize(
    ("given", "metadata", "matches"),
    [
        ({}, {}, True),
        ({"a": "x"}, {"a": "x", "b": 1}, True),
        ({"a": "x"}, {}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": {"$eq": "x"}}, {"a": ["x"]}, False),
        ({"a": {"$contains": "x"}}, {"a": ["y", "x"]}, True),
        ({"a": {"$contains": "x"}}, {"a": "xyz"}, False),
        ({"a": {"$contains": ["x", "y"]}}, {"a": ["y"]}, False),
        ({"a": {"$contains": []}}, {"a": []}, True),
    ],
)
def test_filter_matches(given: Any, metadata: Any, matches: bool) -> None:
    assert Filter.of(given).matches(metadata) is matches


@pytest.mark.parametrize(
    ("metadata", "narrowed"),
    [
        ({}, {"a": 1, "b": ["x"]}),
        ({"c": 2}, {"a": 1, "b": ["x"], "c": 2}),
        ({"a": 1, "b": ["y"]}, {"a": 1, "b": ["y", "x"]}),
        ({"a": 2}, None),
        ({"a": True}, None),
        ({"b": "x"}, None),
    ],
)
def test_filter_narrows_a_search(metadata: Any, narrowed: Any) -> None:
    assert Filter.of({"a": 1, "b": {"$contains": "x"}}).narrowed(metadata) == narrowed


@pytest.mark.parametrize(
    "given", [{"a": None}, {"a": {}}, {"a": {"b": 1}}, {"a": {"$contains": [["x"]]}}], ids=repr
)
def test_filter_that_a_search_cannot_enforce_is_unusable(given: Any) -> None:
    with pytest.raises(UnusableFilter):
        Filter.of(given)
