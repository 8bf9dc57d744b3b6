"""Values of columns that this program does not know."""

from __future__ import annotations

import pytest

from stores.states import (
    CancelAction,
    Cause,
    DisconnectMode,
    RunStatus,
    WebhookState,
    WorkerState,
    may_become,
)


@pytest.mark.parametrize("kind", [RunStatus, CancelAction, Cause, DisconnectMode, WorkerState, WebhookState])
def test_unknown_value_equals_its_text_and_no_member(
    kind: type[RunStatus | CancelAction | Cause | DisconnectMode | WorkerState | WebhookState],
) -> None:
    unknown = kind.stored("of the future")
    assert (unknown, unknown.value, unknown.name) == ("of the future", "of the future", "unknown")
    assert unknown not in list(kind)
    assert f"{unknown}" == "of the future"
    assert {unknown: 1}["of the future"] == 1  # type: ignore[index]  # equal to its text, which is tested
    assert kind.stored(unknown) == unknown
    for member in kind:
        assert kind.stored(member.value) is member
    with pytest.raises(ValueError, match="of the future"):
        kind("of the future")


def test_unknown_status_may_become_nothing() -> None:
    assert not any(may_become(RunStatus.stored("of the future"), status) for status in RunStatus)
