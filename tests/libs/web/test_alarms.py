"""Security events of requests: each is counted, and a flood of them fills no log."""

import pytest

from libs.contracts.audit import SecurityEventRaised
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.observability.metrics import SECURITY_EVENTS_TOTAL
from libs.web import alarms
from libs.web.alarms import Telling
from tests.libs.web.test_auth import ACME, GLOBEX, World, world  # noqa: F401

AT_ONCE, ASKED = 3, 8
SOME_TIME = 1e9
"""Seconds until one is told again: no machine is so slow that the refusals of a test take as long."""


async def left_out(world: World, kind: str) -> list[int | None]:  # noqa: F811
    """What each event of the kind that is told says was left out before it."""
    await world.log.settle()
    events = [event.data for event in world.log.events(SecurityEventRaised)]
    return [event.left_out for event in events if event.kind == kind]


@pytest.mark.parametrize(
    ("kind", "path", "headers"),
    [
        ("permission_denied", "/manage", {}),
        ("tenant_denied", "/read", {"X-Tenant-ID": str(GLOBEX)}),
    ],
)
async def test_refusals_beyond_a_few_are_counted_and_told_as_a_number(
    world: World,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    path: str,
    headers: dict[str, str],
) -> None:
    monkeypatch.setattr(alarms, "REFUSALS_TOLD_AT_ONCE", AT_ONCE)
    monkeypatch.setattr(alarms, "TOLD_PER_SECOND", 1 / SOME_TIME)
    telling = world.gate.alarms._telling = Telling()
    key, other = [await world.add_key(ACME, "billing:read") for _ in range(2)]
    counted = SECURITY_EVENTS_TOTAL.labels(kind=kind, severity="warning")
    before = counted._value.get()
    for _ in range(ASKED):
        assert (await world.get(path, key, **headers)).status_code == 403
    assert await left_out(world, kind) == [None] * AT_ONCE
    assert counted._value.get() - before == ASKED
    # One caller's haste hides nobody else's.
    assert (await world.get(path, other, **headers)).status_code == 403
    assert await left_out(world, kind) == [None] * (AT_ONCE + 1)
    # When some time has passed, one is told again, and says how many were not.
    telling._refusals._buckets.clear()
    for _ in range(2):
        assert (await world.get(path, key, **headers)).status_code == 403
    assert (await left_out(world, kind))[AT_ONCE + 1 :] == [ASKED - AT_ONCE, None]


async def test_what_an_operator_does_for_a_tenant_is_told_each_time(
    world: World,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alarms, "REFUSALS_TOLD_AT_ONCE", AT_ONCE)
    world.gate.alarms._telling = Telling()
    staff = await world.add_key(PLATFORM_TENANT_ID, operator=True)
    for _ in range(ASKED):
        assert (await world.get("/read", staff, **{"X-Tenant-ID": str(ACME)})).status_code == 200
    assert await left_out(world, "operator_access") == [None] * ASKED


def test_what_is_left_out_is_remembered_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarms, "REFUSALS_TOLD_AT_ONCE", 1)
    monkeypatch.setattr(alarms, "LEFT_OUT_KEYS_MAX", 2)
    telling = Telling()
    for actor in ("key_1", "key_2", "key_3"):
        assert telling.left_out("permission_denied", ACME, actor) == 0
        assert telling.left_out("permission_denied", ACME, actor) is None
    assert len(telling._left_out) == 2
