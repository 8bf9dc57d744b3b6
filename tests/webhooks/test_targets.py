"""Which targets a webhook may have: every known spelling of an address that is not public is refused."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest

from coordinator.arguments import MAX_URL
from coordinator.webhooks.lookups import Lookups
from coordinator.webhooks.targets import IPAddress, NameUnknown, TargetRefused, Targets


def refused_hosts() -> dict[str, list[str]]:
    """The hosts of refused_hosts.txt by kind."""
    hosts: dict[str, list[str]] = {}
    kind: list[str] = []
    for line in Path(__file__).with_name("refused_hosts.txt").read_text("ascii").splitlines():
        if line.startswith("## "):
            kind = hosts.setdefault(line[3:], [])
        elif not line.startswith("#"):
            kind += [host.encode().decode("unicode_escape") for host in line.split()]
    return hosts


REFUSED = refused_hosts()
REFUSED_HOSTS = [host for hosts in REFUSED.values() for host in hosts]

REFUSED_URLS = [
    *(
        "",
        " ",
        "x",
        "/hook",
        "//example.com/",
        "example.com",
        "example.com/hook",
        "example.com:443/",
        "hook?x=1",
        "#",
        "?",
    ),
    *(
        "http://example.com/",
        "HTTP://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
    ),
    *(
        "javascript:alert(1)",
        "data:text/plain,x",
        "unix:///run/docker.sock",
        "redis://example.com/",
        "wss://example.com/",
    ),
    *(
        "https:",
        "https:/",
        "https://",
        "https:///",
        "https:///example.com/",
        "https:example.com/",
        "https:/example.com/",
    ),
    *(
        "https://?x",
        "https://#x",
        "https://:443/",
        "https://./",
        "https://../",
        "https:// /",
        "https://%20/",
        "//localhost/",
    ),
    *(
        " https://example.com/",
        "https://example.com/ ",
        "\thttps://example.com/",
        "https://example.com/\n",
        "\x00https://example.com/",
    ),
    *(
        "https://exam\tple.com/",
        "https://exam\nple.com/",
        "https://example.com\r\nHost: x/",
        "ht\ntps://localhost/",
        "https://a b.com/",
    ),
    *(
        "https://example.com\\@127.0.0.1/",
        "https:\\\\127.0.0.1\\",
        "https://127.0.0.1\\@example.com/",
        "https://example.com/\\x",
    ),
    *(
        "https://example.com/\u00fc",
        "https://example.com/?q=\x7f",
        "https://example.com/\ud800",
        "https://[::1",
        "https://::1/",
        "https://[/",
    ),
    *(
        "https://127.0.0.1#@example.com/",
        "https://127.0.0.1?@example.com/",
        "https://127.0.0.1/@example.com",
        "https://localhost:443/",
    ),
    "https://example.com/" + "x" * MAX_URL,
    "https://" + "a" * 64 + ".com/",
    "https://" + "a." * 127 + "com/",
]

ALLOWED = {
    "https://example.com": ("example.com", 443, "/"),
    "https://example.com/hook?token=a%20b&c": ("example.com", 443, "/hook?token=a%20b&c"),
    "HTTPS://Example.COM:443/Hook#fragment": ("example.com", 443, "/Hook"),
    "https://example.com:8443/": ("example.com", 8443, "/"),
    "https://example.com:/x": ("example.com", 443, "/x"),
    "https://example.com./": ("example.com", 443, "/"),
    "https://example.com?x=1": ("example.com", 443, "/?x=1"),
    "https://xn--exmple-cua.com/": ("xn--exmple-cua.com", 443, "/"),
    "https://a_b.example-1.co.uk/": ("a_b.example-1.co.uk", 443, "/"),
    "https://1.2.3.4.example.com/": ("1.2.3.4.example.com", 443, "/"),
    "https://localhost.example.com/": ("localhost.example.com", 443, "/"),
    "https://notlocal/": None,
    "https://8.8.8.8/": ("8.8.8.8", 443, "/"),
    "https://8.8.8.8./": ("8.8.8.8", 443, "/"),
    "https://172.32.0.1/": ("172.32.0.1", 443, "/"),
    "https://100.128.0.1/": ("100.128.0.1", 443, "/"),
    "https://[2606:4700:4700::1111]/": ("2606:4700:4700::1111", 443, "/"),
    "https://[2606:4700:4700:0:0:0:0:1111]:8443/": ("2606:4700:4700::1111", 8443, "/"),
    "https://example.com/#@127.0.0.1/": ("example.com", 443, "/"),
    "https://example.com/?@127.0.0.1": ("example.com", 443, "/?@127.0.0.1"),
}


class Names:
    """A name server that returns `answers` in order, and the last of them for every further query."""

    def __init__(self, *answers: Sequence[str] | Exception) -> None:
        self.answers = list(answers)
        self.queried: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.queried.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return list(answer)


async def resolved(targets: Targets, url: str) -> list[IPAddress]:
    return await targets.addresses(targets.parse(url))


def test_there_are_many() -> None:
    assert len(set(REFUSED_HOSTS)) == len(REFUSED_HOSTS) > 200
    assert len(set(REFUSED_URLS)) == len(REFUSED_URLS) > 50


@pytest.mark.parametrize("host", REFUSED_HOSTS)
def test_url_with_forbidden_host_is_refused(host: str) -> None:
    with pytest.raises(TargetRefused) as refused:
        Targets().parse(f"https://{host}/hook")
    assert refused.value.argument == "webhook"


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_url_that_is_not_public_https_is_refused(url: str) -> None:
    with pytest.raises(TargetRefused):
        Targets().parse(url)


def test_refusal_does_not_quote_the_url() -> None:
    with pytest.raises(TargetRefused) as refused:
        Targets().parse("https://user:hunter2@example.com/hook?token=hunter3")
    assert "hunter" not in str(refused.value)


@pytest.mark.parametrize("url", ALLOWED)
def test_public_https_url_is_accepted(url: str) -> None:
    expected = ALLOWED[url]
    if expected is None:
        with pytest.raises(TargetRefused):
            Targets().parse(url)
    else:
        target = Targets().parse(url)
        assert (target.scheme, *target[1:]) == ("https", *expected)


def test_origin_and_authority_of_a_target() -> None:
    target = Targets().parse("https://example.com/secret?token=x")
    assert (target.origin, target.authority) == ("https://example.com:443", "example.com")
    target = Targets().parse("https://[2606:4700:4700::1111]:8443/")
    assert target.origin == "https://[2606:4700:4700::1111]:8443"
    assert target.authority == "[2606:4700:4700::1111]:8443"


# -- names

ADDRESSES = [
    host.strip("[]")
    for kind in ("loopback", "private", "not unicast")
    for host in REFUSED[kind]
    if not host.endswith(".")
]


@pytest.mark.parametrize("address", [*ADDRESSES, "fe80::1%eth0"])
async def test_name_that_resolves_to_forbidden_address_is_refused(address: str) -> None:
    with pytest.raises(TargetRefused):
        await resolved(Targets(lookups=Lookups(Names([address]))), "https://example.com/")


@pytest.mark.parametrize(
    "addresses", [["8.8.8.8", "127.0.0.1"], ["10.0.0.1", "8.8.8.8"], ["2606:4700::1", "::1"]]
)
async def test_one_forbidden_address_refuses_the_name(addresses: list[str]) -> None:
    with pytest.raises(TargetRefused):
        await resolved(Targets(lookups=Lookups(Names(addresses))), "https://example.com/")


async def test_name_is_resolved_without_search_domains() -> None:
    names = Names(["8.8.8.8", "2606:4700:4700::1111", "8.8.8.8"])
    targets = Targets(lookups=Lookups(names))
    addresses = await targets.addresses(targets.parse("https://db.prod/"))
    assert addresses == [ip_address("8.8.8.8"), ip_address("2606:4700:4700::1111")]
    assert names.queried == ["db.prod."]


async def test_literal_address_is_not_resolved() -> None:
    names = Names(OSError("was queried"))
    targets = Targets(lookups=Lookups(names))
    assert await targets.addresses(targets.parse("https://8.8.8.8/")) == [ip_address("8.8.8.8")]
    assert names.queried == []


@pytest.mark.parametrize("answer", [OSError("no such name"), UnicodeError("label too long"), []])
async def test_unresolvable_name_raises_name_unknown(
    answer: Exception | list[str],
) -> None:
    targets = Targets(lookups=Lookups(Names(answer)))
    with pytest.raises(NameUnknown):
        await targets.addresses(targets.parse("https://example.com/"))


async def test_name_is_resolved_and_checked_for_every_attempt() -> None:
    targets = Targets(lookups=Lookups(Names(["8.8.8.8"], ["127.0.0.1"])))
    await resolved(targets, "https://rebinding.example.com/")
    with pytest.raises(TargetRefused):
        await resolved(targets, "https://rebinding.example.com/")


# -- for development


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8000/hook",
        "http://127.0.0.1:9/",
        "http://[::1]:9/",
        "https://10.1.2.3/",
        "http://receiver:8000/",
        "http://printer.local/",
        "http://[fd00::1]/",
        "https://example.com:6379/",
    ],
)
async def test_allow_private_accepts_private_targets(url: str) -> None:
    await resolved(Targets(allow_private=True, lookups=Lookups(Names(["127.0.0.1"]))), url)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/",
        "http://0.0.0.0:8000/",
        "http://224.0.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://127.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://user@localhost/",
        "http://localhost:0/",
        "ftp://localhost/",
    ],
)
async def test_allow_private_refuses_link_local_and_unusual_addresses(url: str) -> None:
    with pytest.raises(TargetRefused):
        await resolved(Targets(allow_private=True, lookups=Lookups(Names(["127.0.0.1"]))), url)


METADATA = [
    "100.100.100.200",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd00:42::42",
    "fd00:a9fe:a9fe::1",
    "fd00:100::100:200",
    "169.254.169.254",
    "168.63.129.16",
    "192.0.0.192",
]


@pytest.mark.parametrize("address", METADATA)
async def test_allow_private_does_not_reach_metadata_services(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(TargetRefused):
        Targets(allow_private=True).parse(f"http://{host}/latest/meta-data")
    with pytest.raises(TargetRefused):
        await resolved(
            Targets(allow_private=True, lookups=Lookups(Names([address]))), "http://metadata.example/"
        )
