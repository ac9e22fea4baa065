"""Statements at the ledger: who may ask for which, parts in any order, and what proves them whole."""

import random
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from ledger.callers import Api, publish_tenant
from ledger.facts import START
from libs.contracts.envelope import wrap
from libs.contracts.ledger import StatementRequested
from libs.contracts.stripe_sync import (
    StatementBalance,
    StatementLine,
    StatementPayout,
    StripeStatement,
    statement_digest,
)
from libs.contracts.tenants import PLATFORM_TENANT_ID, ConnectionRecord, TenantSnapshot
from libs.db.pool import Database
from libs.ids import new_id, public_id
from libs.testing.memory_log import MemoryLog
from services.ledger import statements

PAST = {"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}
FROM, TO = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)


async def ask(api: Api, key: str, body: Any, **headers: str) -> httpx.Response:
    return await api.client.post(
        "/api/v1/ledger/statements", json=body, headers={"X-API-Key": key} | headers
    )


def connected(log: MemoryLog, tenant_id: UUID, slug: str, account: str) -> None:
    """The tenant has an account of its own from now on."""
    connection = ConnectionRecord(
        connection_id=new_id(),
        mode="test",
        kind="CONNECT_STANDARD",
        status="CONNECTED",
        account_id=account,
        credential_version=0,
    )
    snapshot = TenantSnapshot(
        version=2,
        slug=slug,
        name=slug,
        tenant_type="organization",
        status="active",
        currency="EUR",
        locale="en",
        self_customer_id=new_id(),
        connections=(connection,),
    )
    log.publish(
        wrap(snapshot, tenant_id=tenant_id, mode=None, source="tenants", effective_at=START)
    )


def lines(count: int) -> list[StatementLine]:
    return [
        StatementLine(
            stripe_balance_transaction_id=f"txn_{number}",
            kind="charge" if number % 2 else "refund",
            source_id=f"ch_{number}" if number % 3 else None,
            amount_minor=100 * number,
            fee_minor=number,
            net_minor=99 * number,
            currency="EUR" if number % 5 else "USD",
            created_at=FROM + timedelta(seconds=number),
            available_at=FROM + timedelta(days=2, microseconds=number),
        )
        for number in range(count)
    ]


PAYOUT = StatementPayout(
    stripe_payout_id="po_1",
    stripe_balance_transaction_id=None,
    amount_minor=500,
    currency="EUR",
    status="paid",
    arrival_on=date(2026, 1, 5),
)


def parts(statement_id: UUID, size: int = 2, **changes: Any) -> list[StripeStatement]:
    """A statement of five lines and a payout, in three parts."""
    entries: list[Any] = [*lines(5), PAYOUT]
    chunks = [entries[at : at + size] for at in range(0, len(entries), size)]
    values: dict[str, Any] = {
        "statement_id": statement_id,
        "account": "platform",
        "listed_from": FROM,
        "listed_to": TO,
        "parts": len(chunks),
        "line_count": 5,
        "payout_count": 1,
        "digest": statement_digest(lines(5), [PAYOUT]),
        "listed_at": TO,
    }
    balance = StatementBalance(currency="EUR", available_minor=1, pending_minor=2)
    return [
        StripeStatement(
            **(values | changes),
            part=number,
            lines=tuple(each for each in chunk if isinstance(each, StatementLine)),
            payouts=tuple(each for each in chunk if isinstance(each, StatementPayout)),
            balances=(balance,) if number == 1 else (),
        )
        for number, chunk in enumerate(chunks, 1)
    ]


async def deliver(log: MemoryLog, facts: list[StripeStatement]) -> None:
    for fact in facts:
        log.publish(
            wrap(
                fact,
                tenant_id=PLATFORM_TENANT_ID,
                mode="test",
                source="stripe_sync",
                effective_at=START,
            )
        )
    await log.settle()


async def requested(api: Api) -> UUID:
    answer = await ask(api, api.operator, {"account": "platform", **PAST})
    assert answer.status_code == 202, answer.text
    return UUID(answer.json()["id"].removeprefix("stm_"))


async def shown(api: Api, statement_id: UUID) -> dict[str, Any]:
    answer = await api.get(f"statements/{public_id('statement', statement_id)}", api.operator)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_request_is_told_once_and_shown(api: Api, log: MemoryLog) -> None:
    body = {"account": "platform", **PAST}
    answer = await ask(api, api.operator, body, **{"Idempotency-Key": "1"})
    again = await ask(api, api.operator, body, **{"Idempotency-Key": "1"})
    assert again.json() == answer.json()
    assert answer.json()["state"] == "requested"
    assert (answer.json()["from"], answer.json()["to"]) == (PAST["from"], PAST["to"])
    await log.settle()
    (told,) = log.events(StatementRequested)
    assert told.tenant_id == PLATFORM_TENANT_ID
    assert (told.data.account, told.data.listed_from, told.data.listed_to) == ("platform", FROM, TO)


async def test_what_is_under_way_is_joined_and_a_tenant_has_ten_an_hour(
    api: Api, log: MemoryLog, ledger: Database
) -> None:
    # Given a statement that is not listed yet
    body = {"account": "platform", **PAST}
    first = await ask(api, api.operator, body)
    # When the same is asked for, Then it is joined, and counts for nothing
    for _ in range(statements.ASKED_MAX):
        assert (await ask(api, api.operator, body)).json()["id"] == first.json()["id"]
    # When others are asked for, Then there are ten, and the next one waits
    answers = [
        await ask(api, api.operator, body | {"from": f"2026-01-{day:02}T00:00:00Z"})
        for day in range(2, 2 + statements.ASKED_MAX)
    ]
    assert [each.status_code for each in answers] == [202] * 9 + [429]
    refused = answers[-1]
    assert refused.json()["code"] == "too_many_statements"
    assert 0 < int(refused.headers["Retry-After"]) <= 3_600
    await log.settle()
    assert len(log.events(StatementRequested)) == 10
    # When it is answered, Then it is listed afresh once the oldest is an hour old
    await deliver(log, parts(UUID(first.json()["id"].removeprefix("stm_"))))
    assert (await ask(api, api.operator, body)).status_code == 429
    async with ledger.tenant(PLATFORM_TENANT_ID, "test") as tx:
        await tx.execute(
            "update statement set requested_at = requested_at - interval '1 hour' "
            "where state = 'complete'"
        )
    again = await ask(api, api.operator, body)
    assert (again.status_code, again.json()["state"]) == (202, "requested")
    assert again.json()["id"] != first.json()["id"]


async def test_whose_account(api: Api, log: MemoryLog) -> None:
    assert (await ask(api, api.globex, {"account": "platform", **PAST})).status_code == 404
    assert (await ask(api, api.globex, {"account": "acct_globex", **PAST})).status_code == 404
    assert (await ask(api, api.operator, {"account": "acct_globex", **PAST})).status_code == 404
    assert (await ask(api, api.acme, {"account": "platform", **PAST})).status_code == 403
    owner = new_id()
    key = publish_tenant(log, owner, "own", ("billing:manage",))
    await log.settle()
    assert (await ask(api, key, {"account": "acct_own", **PAST})).status_code == 404
    connected(log, owner, "own", "acct_own")
    await log.settle()
    named = {"X-Tenant-ID": "own"}
    answer = await ask(api, api.operator, {"account": "acct_own", **PAST}, **named)
    assert answer.status_code == 202, answer.text
    assert answer.json()["tenant_id"] == str(owner)
    path = f"statements/{answer.json()['id']}"
    assert (await api.get(path, api.operator, named)).status_code == 200
    for other in (api.globex, api.operator):
        assert (await api.get(path, other)).status_code == 404


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"from": "2026-02-01T00:00:00Z"}, 422),
        ({"from": "2026-03-01T00:00:00Z"}, 422),
        ({"from": "2020-01-01T00:00:00Z"}, 422),
        ({"to": "2099-01-01T00:00:00Z", "from": "2098-12-01T00:00:00Z"}, 422),
        ({"to": "2026-01-05"}, 422),
        ({"to": None}, 422),
        ({"account": ""}, 422),
        ({"account": "acct_1\x00"}, 422),
        ({"account": "a" * 101}, 422),
        ({"account": 5}, 422),
        ({"listed_from": "2026-01-01T00:00:00Z"}, 422),
        ({"tenant_id": "acme"}, 422),
    ],
)
async def test_bad_requests(api: Api, log: MemoryLog, changes: Any, status: int) -> None:
    answer = await ask(api, api.operator, {"account": "platform", **PAST, **changes})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    await log.settle()
    assert log.events(StatementRequested) == []
    for path in ("statements/nothing", f"statements/stm_{new_id()}", f"statements/ent_{new_id()}"):
        assert (await api.get(path, api.operator)).status_code == 404


@pytest.mark.parametrize("seed", range(4))
async def test_parts_in_any_order_and_twice_make_one_statement(
    api: Api, log: MemoryLog, seed: int
) -> None:
    chance = random.Random(seed)
    statement_id = await requested(api)
    facts = parts(statement_id)
    order = [*facts, *chance.choices(facts, k=3)]
    chance.shuffle(order)
    await deliver(log, order)
    body = await shown(api, statement_id)
    assert (body["state"], body["error"]) == ("complete", None)
    assert (body["parts"], body["line_count"], body["payout_count"]) == (3, 5, 1)
    assert body["balances"] == [{"currency": "EUR", "available_minor": 1, "pending_minor": 2}]
    assert body["totals"] == [
        total("EUR", "charge", 2, 400, 4, 396),
        total("EUR", "refund", 2, 600, 6, 594),
        total("USD", "refund", 1, 0, 0, 0),
    ]
    await log.replay(clear_inboxes=True)
    assert await shown(api, statement_id) == body


def total(
    currency: str, kind: str, count: int, amount: int, fee: int, net: int
) -> dict[str, str | int]:
    return {
        "currency": currency,
        "kind": kind,
        "lines": count,
        "amount_minor": amount,
        "fee_minor": fee,
        "net_minor": net,
    }


async def test_until_the_last_part_it_is_not_complete(api: Api, log: MemoryLog) -> None:
    statement_id = await requested(api)
    await deliver(log, parts(statement_id)[:2])
    assert (await shown(api, statement_id))["state"] == "requested"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda fact: fact.model_copy(update={"digest": "0" * 64}), "different statements"),
        (lambda fact: fact.model_copy(update={"lines": fact.lines[:1]}), "missing"),
        (
            lambda fact: fact.model_copy(
                update={
                    "lines": (fact.lines[0].model_copy(update={"net_minor": 7}), *fact.lines[1:])
                }
            ),
            "digest",
        ),
        (lambda fact: fact.model_copy(update={"part": 7}), "numbered"),
    ],
)
async def test_what_does_not_hold_together_is_contradictory(
    api: Api, log: MemoryLog, spoil: Any, reason: str
) -> None:
    statement_id = await requested(api)
    first, second, third = parts(statement_id)
    await deliver(log, [first, spoil(second), third])
    body = await shown(api, statement_id)
    assert body["state"] == "contradictory"
    assert reason in body["error"]
    await deliver(log, [second])
    assert (await shown(api, statement_id))["state"] == "contradictory"


async def test_what_could_not_be_listed_has_failed(api: Api, log: MemoryLog) -> None:
    statement_id = await requested(api)
    failed = StripeStatement(
        statement_id=statement_id,
        account="platform",
        listed_from=FROM,
        listed_to=TO,
        part=0,
        parts=0,
        line_count=0,
        payout_count=0,
        digest=statement_digest((), ()),
        listed_at=TO,
        error="not_connected",
    )
    await deliver(log, [failed])
    body = await shown(api, statement_id)
    assert (body["state"], body["error"], body["parts"]) == ("failed", "not_connected", None)


async def test_a_rebuilt_ledger_keeps_a_statement_that_it_does_not_know(
    api: Api, log: MemoryLog
) -> None:
    statement_id = new_id()
    await deliver(log, parts(statement_id))
    assert (await shown(api, statement_id))["state"] == "complete"
