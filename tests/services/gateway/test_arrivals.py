"""Webhooks that arrive at the same time: kept in few commits, each with its own answer."""

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from libs.clock import utc_now
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.tenant import Scope
from services.gateway import arrivals as arrivals_of_gateway
from services.gateway import keeping, store_erasure
from services.gateway.arrivals import TOGETHER_MAX, TURNS_BEFORE, WORTH_ANOTHER, Arrivals
from services.gateway.keeping import Place, Sender, Taken
from services.gateway.stripe_event import parse
from tests.services.gateway.conftest import (
    ACME,
    ACME_CUSTOMER,
    GLOBEX,
    Gateway,
    about,
    snapshot_event,
)

PLACE = Place(PLATFORM_TENANT_ID, "account")


def taken(event: dict[str, Any], **headers: str) -> Taken:
    body = json.dumps(event).encode()
    return Taken(parse(body), "platform", body, headers, utc_now(), None)


async def commits(gateway: Gateway) -> int:
    """In how many transactions the archive was written."""
    async with gateway.database.maintenance() as tx:
        return int(await tx.fetchval("select count(distinct xmin::text) from webhook_event"))


async def test_those_that_arrive_together_share_a_commit(gateway: Gateway) -> None:
    arrivals = Arrivals(gateway.database)
    number = 3 * TOGETHER_MAX
    outcomes = await asyncio.gather(
        *(arrivals.keep(taken(snapshot_event()), "test", None) for _ in range(number))
    )
    assert set(outcomes) == {"stored"}
    assert len(await gateway.published()) == len(await gateway.archived()) == number
    assert await commits(gateway) <= 5


async def test_whoever_is_at_the_door_goes_with_the_first(gateway: Gateway) -> None:
    """Between them lies the turn of the loop in which a request is read."""
    arrivals = Arrivals(gateway.database)
    first = asyncio.ensure_future(arrivals.keep(taken(snapshot_event()), "test", PLACE))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(arrivals.keep(taken(snapshot_event()), "test", PLACE))
    assert await asyncio.gather(first, second) == ["stored", "stored"]
    assert await commits(gateway) == 1


async def test_another_commit_sets_out_beside_one_where_enough_wait(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals = Arrivals(gateway.database)
    fetchrow, go_on, begun = gateway.database.fetchrow, asyncio.Event(), 0

    async def held_up(sql: str, *args: Any) -> Any:
        nonlocal begun
        begun += 1
        await go_on.wait()
        return await fetchrow(sql, *args)

    monkeypatch.setattr(gateway.database, "fetchrow", held_up)
    waiting = []
    for number, commits_begun in ((1, 1), (WORTH_ANOTHER - 1, 1), (1, 2)):
        for _ in range(number):
            kept = arrivals.keep(taken(snapshot_event()), "test", PLACE)
            waiting.append(asyncio.ensure_future(kept))
        for _ in range(TURNS_BEFORE + 2):
            await asyncio.sleep(0)
        assert begun == commits_begun
    go_on.set()
    assert set(await asyncio.gather(*waiting)) == {"stored"}


async def test_nobody_waits_for_a_commit_that_hangs(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals = Arrivals(gateway.database)
    fetchrow, go_on, begun = gateway.database.fetchrow, asyncio.Event(), 0

    async def first_held_up(sql: str, *args: Any) -> Any:
        nonlocal begun
        begun += 1
        if begun == 1:
            await go_on.wait()
        return await fetchrow(sql, *args)

    monkeypatch.setattr(gateway.database, "fetchrow", first_held_up)
    hanging = asyncio.ensure_future(arrivals.keep(taken(snapshot_event()), "test", PLACE))
    async with asyncio.timeout(60):
        while not begun:
            await asyncio.sleep(0)
        # One that came before it is known to hang, and one after.
        for _ in range(2):
            assert await arrivals.keep(taken(snapshot_event()), "test", PLACE) == "stored"
    assert not hanging.done()
    go_on.set()
    assert await hanging == "stored"


async def test_each_goes_to_its_own_tenant_and_mode(gateway: Gateway) -> None:
    arrivals = Arrivals(gateway.database)
    wanted = [
        (about(customer="cus_acme"), "test", ACME),
        (about(metadata={"tenant_id": str(GLOBEX)}), "test", GLOBEX),
        (about(metadata={"tenant_id": str(GLOBEX)}) | {"livemode": True}, "live", GLOBEX),
        (about(customer="cus_nobody"), "test", PLATFORM_TENANT_ID),
        (about(), "test", PLATFORM_TENANT_ID),
    ]
    await asyncio.gather(*(arrivals.keep(taken(e), mode, None) for e, mode, _ in wanted))  # type: ignore[arg-type]
    kept = {row["stripe_event_id"]: row for row in await gateway.archived()}
    told = {e["data"]["stripe_event_id"]: (t, mode) for t, mode, e in await gateway.published()}
    for event, mode, tenant_id in wanted:
        row = kept[event["id"]]
        assert (row["tenant_id"], row["mode"]) == (tenant_id, mode) == told[event["id"]]


async def test_one_that_cannot_be_kept_takes_no_other_with_it(gateway: Gateway) -> None:
    arrivals = Arrivals(gateway.database)
    good, other = snapshot_event(), snapshot_event()
    odd = taken(snapshot_event(), agent="\x00")
    outcomes = await asyncio.gather(
        arrivals.keep(taken(good), "test", PLACE),
        arrivals.keep(odd, "test", PLACE),
        arrivals.keep(taken(other), "test", PLACE),
        arrivals.keep(taken(good), "test", PLACE),
        return_exceptions=True,
    )
    assert [outcomes[0], outcomes[2], outcomes[3]] == ["stored", "stored", "duplicate"]
    assert isinstance(outcomes[1], asyncpg.UntranslatableCharacterError)
    assert {row["stripe_event_id"] for row in await gateway.archived()} == {
        good["id"],
        other["id"],
    }


async def test_without_postgres_everybody_is_told_and_may_come_back(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals = Arrivals(gateway.database)
    events = [snapshot_event() for _ in range(5)]

    async def everybody() -> list[Any]:
        return await asyncio.gather(
            *(arrivals.keep(taken(event), "test", PLACE) for event in events),
            return_exceptions=True,
        )

    with monkeypatch.context() as away:
        away.setattr(gateway.database, "fetchrow", _away)
        assert {type(each) for each in await everybody()} == {ConnectionRefusedError}
    assert await gateway.archived() == []
    assert set(await everybody()) == {"stored"}


async def test_whoever_comes_back_at_once_finds_no_writer_that_has_ended(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals_of_gateway, "WRITERS_MAX", 1)
    arrivals = Arrivals(gateway.database)
    async with asyncio.timeout(60):
        for _ in range(5):
            # In the turn of the loop right after the one in which the writer found nothing more.
            assert await arrivals.keep(taken(snapshot_event()), "test", PLACE) == "stored"


async def test_nobody_is_told_before_it_is_durable(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals = Arrivals(gateway.database)
    fetchrow = gateway.database.fetchrow
    seen = []

    async def watched(sql: str, *args: Any) -> Any:
        answer = await fetchrow(sql, *args)
        seen.append((waiting.done(), await gateway.count("webhook_event")))
        return answer

    monkeypatch.setattr(gateway.database, "fetchrow", watched)
    waiting = asyncio.ensure_future(arrivals.keep(taken(snapshot_event()), "test", PLACE))
    assert await waiting == "stored"
    assert seen == [(False, 1)]


async def test_of_those_that_name_an_erased_customer_nothing_personal_is_kept_or_told(
    gateway: Gateway,
) -> None:
    arrivals = Arrivals(gateway.database)
    async with gateway.database.tenant(ACME, "test") as tx:
        await store_erasure.remember_erased(tx, [ACME_CUSTOMER], utc_now())
    other, erased = about(customer="cus_other"), about(customer=ACME_CUSTOMER)
    for event in (other, erased):
        event["data"]["object"]["email"] = f"{event['id']}@example.test"
    place = Place(ACME, "account")
    sent = (other, erased, erased, other)
    outcomes = await asyncio.gather(*(arrivals.keep(taken(each), "test", place) for each in sent))
    assert outcomes == ["stored", "stored", "duplicate", "duplicate"]
    payloads = {row["stripe_event_id"]: bytes(row["payload"]) for row in await gateway.archived()}
    told = {
        e["data"]["stripe_event_id"]: e["data"]["payload"] for _, _, e in await gateway.published()
    }
    assert payloads.keys() == told.keys() == {other["id"], erased["id"]}
    assert payloads[other["id"]] == json.dumps(other).encode()
    for event in (other, erased):
        assert payloads[event["id"]].decode() == told[event["id"]]
    assert "@example.test" not in told[erased["id"]]


async def test_where_one_names_an_erased_customer_they_are_still_kept_in_one_commit(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the second statement fails, nothing is kept that nobody is told of."""
    async with gateway.database.tenant(ACME, "test") as tx:
        await store_erasure.remember_erased(tx, [ACME_CUSTOMER], utc_now())
    sent = [taken(about(customer=each)) for each in ("cus_other", ACME_CUSTOMER)]
    arrivals = [(Place(ACME, "account"), each) for each in sent]
    sender = Sender(gateway.database.service, Scope((ACME,), "test"))
    fetchrow, committed = gateway.database.fetchrow, []

    async def watched(sql: str, *args: Any) -> Any:
        answer = await fetchrow(sql, *args)
        committed.append(await gateway.count("webhook_event"))
        return answer

    monkeypatch.setattr(gateway.database, "fetchrow", watched)
    kept = await keeping.keep(gateway.database, sender, arrivals)
    assert kept.outcomes == ["stored", "stored"]
    assert committed == [0, 2]
    assert [e["data"]["stripe_event_id"] for _, _, e in await gateway.published()] == [
        each.event.id for each in sent
    ]


def _away(*_: object) -> Any:
    raise ConnectionRefusedError
