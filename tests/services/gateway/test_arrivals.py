"""Webhooks that arrive at the same time: kept in few commits, each with its own answer."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from libs.clock import utc_now
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Tx
from services.gateway import arrivals as arrivals_of_gateway
from services.gateway.arrivals import TOGETHER_MAX, Arrivals
from services.gateway.keeping import Place, Taken
from services.gateway.stripe_event import parse
from tests.services.gateway.conftest import ACME, GLOBEX, Gateway, about, snapshot_event

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
        away.setattr(gateway.database, "transaction", _away)
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


async def test_what_is_committed_is_told_whatever_becomes_of_the_connection(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals = Arrivals(gateway.database)
    transaction = gateway.database.transaction

    @asynccontextmanager
    async def breaks_after() -> AsyncGenerator[Tx, None]:
        async with transaction() as tx:
            yield tx
        raise ConnectionResetError

    monkeypatch.setattr(gateway.database, "transaction", breaks_after)
    outcomes = await asyncio.gather(
        *(arrivals.keep(taken(snapshot_event()), "test", PLACE) for _ in range(3))
    )
    assert outcomes == ["stored"] * 3


async def test_nobody_is_told_before_the_commit(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals = Arrivals(gateway.database)
    transaction = gateway.database.transaction
    told_before = []

    @asynccontextmanager
    async def watched() -> AsyncGenerator[Tx, None]:
        async def look(_: Tx) -> None:
            await asyncio.sleep(0)
            told_before.append(waiting.done())

        async with transaction() as tx:
            yield tx
            tx.before_commit.append(look)

    monkeypatch.setattr(gateway.database, "transaction", watched)
    waiting = asyncio.ensure_future(arrivals.keep(taken(snapshot_event()), "test", PLACE))
    assert await waiting == "stored"
    assert told_before == [False]


def _away(*_: object, **__: object) -> Any:
    raise ConnectionRefusedError
