"""Which address a request came from, behind proxies that are known and only those (attack A25)."""

import ipaddress
from collections.abc import Collection

from starlette.types import Scope

LOOPBACK = frozenset({"127.0.0.1", "::1"})
"""Trusted where nothing else is set: on a laptop the proxy is beside the services."""

HOPS_MAX = 10


def address_of(scope: Scope, proxies: Collection[str] = LOOPBACK) -> str | None:
    """The caller's address: the last one in the chain that is no proxy of ours.

    Each proxy adds the address it was called from at the end of `X-Forwarded-For`, so what stands
    before the last stranger is the stranger's own invention. Where all are ours, the first.
    """
    peer = scope["client"][0] if scope.get("client") else None
    if peer is None or peer not in proxies:
        return peer
    found: str = peer
    for told in reversed(_told(scope)[-HOPS_MAX:]):
        try:
            found = str(ipaddress.ip_address(told))
        except ValueError:
            break
        if found not in proxies:
            break
    return found


def _told(scope: Scope) -> list[str]:
    values = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
    if not values:
        return []
    return [part.strip() for part in b",".join(values).decode("latin-1").split(",")]
