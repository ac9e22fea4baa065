"""Where a request came from: proxies of ours are believed, nobody else (attack A25)."""

import pytest

from libs.web.forwarded import HOPS_MAX, address_of

PROXIES = frozenset({"10.0.0.1", "10.0.0.2"})


def seen(peer: str | None, *told: str) -> str | None:
    scope = {
        "client": (peer, 4711) if peer else None,
        "headers": [(b"x-forwarded-for", value.encode()) for value in told],
    }
    return address_of(scope, PROXIES)


@pytest.mark.parametrize(
    ("peer", "told", "address"),
    [
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1", "203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["2001:DB8::1"], "2001:db8::1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["203.0.113.9" + ", 10.0.0.2" * HOPS_MAX], "10.0.0.2"),
        ("203.0.113.7", ["1.1.1.1"], "203.0.113.7"),
        (None, ["1.1.1.1"], None),
    ],
)
def test_the_last_stranger_counts(peer: str | None, told: list[str], address: str | None) -> None:
    assert seen(peer, *told) == address
