"""Which store URLs are accepted, and the errors of the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator import InvalidArgument, Settings
from coordinator.bootstrap import store_from_url
from stores.sqlite import SQLiteStore


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///%3Amemory%3A", "memory://"),
        ("sqlite:///a?mode=ro", "takes no options"),
        ("sqlite:///file:x.db", "plain path"),
        ("sqlite:///file:x.db?mode=ro", "takes no options"),
        ("sqlite:///./file:x.db", "plain path"),
        ("sqlite:///a%00b.db", "NUL"),
        ("sqlite://x.db", "three slashes"),
        ("sqlite:///", "three slashes"),
        ("mysql://x", "is not a store URL"),
    ],
)
def test_urls_that_do_not_name_a_store_are_refused_before_anything_is_made(url: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        store_from_url(url, Settings())
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///a.db", "a.db"),
        ("sqlite:////tmp/a.db", "/tmp/a.db"),
        ("sqlite:///b%3F%25%23 é.db", "b?%# é.db"),
        ("sqlite:///a:memory:.db", "a:memory:.db"),
        ("sqlite:///files/x.db", "files/x.db"),
    ],
)
def test_a_sqlite_url_names_a_path(url: str, path: str) -> None:
    store = store_from_url(url, Settings())
    assert isinstance(store, SQLiteStore)
    assert store.path == Path(path)
