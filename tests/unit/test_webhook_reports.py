"""What a report of an attempt may contain."""

from __future__ import annotations

import pytest

from stores.webhooks import WebhookReport


@pytest.mark.parametrize("fields", [{"delivered": False}, {"delivered": True, "retry_in": 1}])
def test_report_that_postpones_for_ever_or_after_delivery_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="postponed"):
        WebhookReport(**fields, postponed=True)  # type: ignore[arg-type]  # refused, which is tested
