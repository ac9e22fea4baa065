"""Closed months: what they say stays, and what comes late is booked after them with a link."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import pytest

from ledger.callers import Api
from ledger.facts import assert_sound, book, net_balances, snapshot, transfer
from ledger.test_rebooking import contents, forget_everything, read_anew
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.ledger import JournalEntryPosted
from libs.contracts.ledger_periods import (
    ClosePeriod,
    PeriodClosed,
    PeriodReopened,
    ReopenPeriod,
)
from libs.db.pool import Cause, Database
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.ledger import posting, store
from services.ledger.periods import Period
from services.ledger.store import Booking

ACME = {"X-Tenant-ID": "acme"}
BOTH = ("platform", "tenant")
FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)
IN_JANUARY = datetime(2026, 1, 20, 12, tzinfo=UTC)
LAST_OF_JANUARY = "2026-01-31T23:59:59.999999Z"


async def close(api: Api, period: str = "2026-01", **changes: Any) -> httpx.Response:
    return await api.post(f"periods/{period}/close", api.operator, changes, ACME)


async def reopen(api: Api, period: str = "2026-01", **changes: Any) -> httpx.Response:
    body = {"reason": "the bank's statement was wrong"} | changes
    return await api.post(f"periods/{period}/reopen", api.operator, body, ACME)


async def january(api: Api) -> list[Any]:
    """All that January says of acme: its trial balance, each balance at its end, its postings."""
    trial = await api.get("trial-balance", api.operator, ACME, period="2026-01")
    assert trial.status_code == 200, trial.text
    said: list[Any] = [trial.json()]
    for row in trial.json()["rows"]:
        path = f"accounts/{row['account']}"
        at = await api.get(f"{path}/balance", api.operator, ACME, at=LAST_OF_JANUARY)
        listed = await api.get(f"{path}/statement", api.operator, ACME, currency=row["currency"])
        before = [e for e in listed.json()["items"] if e["effective_at"] < "2026-02-01"]
        said += [
            [(each["currency"], each["balance_minor"]) for each in at.json()["balances"]],
            before,
        ]
    return said


async def test_a_late_fact_is_booked_in_the_open_month(
    api: Api, log: MemoryLog, database: TestDatabase
) -> None:
    before = await january(api)
    sums = before[0]["totals"]
    assert sums == [{"currency": "EUR", "debit_minor": 4900, "credit_minor": 4900}]
    assert (await close(api)).status_code == 200
    late = api.acme_tenant.invoice({"usage": 700}).model_copy(update={"effective_at": IN_JANUARY})
    log.publish(late)
    log.publish(late)
    await log.settle()

    assert await january(api) == before
    (entry,) = (await api.get("entries", api.operator, ACME, account="revenue:usage")).json()[
        "items"
    ]
    assert entry["effective_at"] == "2026-02-01T00:00:00Z"
    assert entry["belongs_to"] == "2026-01"
    assert entry["true_effective_at"] == "2026-01-20T12:00:00Z"
    (told,) = [event for event in log.events(JournalEntryPosted) if event.data.belongs_to]
    assert told.effective_at == FEBRUARY
    assert (told.data.belongs_to, told.data.true_effective_at) == ("2026-01", IN_JANUARY)
    after = await api.get("trial-balance", api.operator, ACME, period="2026-02")
    assert after.json()["totals"] != sums
    await log.settle()
    state = await snapshot(database)
    await log.replay(clear_inboxes=True)
    assert await snapshot(database) == state
    await assert_sound(database)


async def test_a_reversal_of_a_closed_month_is_booked_in_the_open_one(
    api: Api, database: TestDatabase
) -> None:
    (entry,) = (await api.get("entries", api.operator, ACME, account="revenue:flat")).json()[
        "items"
    ]
    assert entry["belongs_to"] is None
    before = await january(api)
    await close(api)
    body = {"reason": "x", "effective_at": "2026-01-31T00:00:00Z"}
    made = (await api.post(f"entries/{entry['id']}/reverse", api.operator, body, ACME)).json()
    assert (made["effective_at"], made["belongs_to"]) == ("2026-02-01T00:00:00Z", "2026-01")
    assert await january(api) == before
    await assert_sound(database)


async def test_closing_is_told_once_and_shown(api: Api, log: MemoryLog) -> None:
    answers = await asyncio.gather(*(close(api) for _ in range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({answer.text for answer in answers}) == 1
    body = answers[0].json()
    assert (body["period"], body["book"], body["state"]) == ("2026-01", "platform", "closed")
    assert (body["starts_at"], body["ends_at"]) == ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z")
    (step,) = body["steps"]
    assert (step["kind"], step["reason"], step["chain_seq"]) == ("close", None, 3)
    await log.settle()
    (told,) = log.events(PeriodClosed)
    (command,) = log.events(ClosePeriod)
    (change,) = log.events(ConfigurationChanged)
    assert told.tenant_id == api.acme_tenant.id
    assert (told.data.period, told.data.step, told.data.chain_seq) == ("2026-01", 1, 3)
    assert (command.causation_id, told.causation_id) == (change.id, change.id)
    assert change.data.action == "ledger_period.closed"
    listed = (await api.get("periods", api.operator, ACME)).json()
    assert listed == {"items": [body], "next_cursor": None}
    assert (await api.get("periods", api.operator)).json()["items"] == [body]
    assert (await api.get("periods", api.acme)).json()["items"] == []
    assert (await api.get("periods", api.acme, book="platform")).status_code == 403


async def test_months_are_closed_one_after_the_other(api: Api) -> None:
    assert (await close(api, "2999-01")).json()["code"] == "period_not_over"
    assert (await close(api, "2026-01")).status_code == 200
    skipped = (await close(api, "2026-03")).json()
    assert (skipped["code"], skipped["period"]) == ("earlier_period_open", "2026-02")
    assert (await close(api, "2025-12")).json()["code"] == "later_period_closed"
    assert (await close(api, "2026-02")).status_code == 200
    assert (await reopen(api, "2026-03")).json()["code"] == "period_open"
    earlier = (await reopen(api, "2026-01")).json()
    assert (earlier["code"], earlier["period"]) == ("later_period_closed", "2026-02")
    assert (await close(api, "2026-01", book="tenant")).status_code == 200
    listed = (await api.get("periods", api.operator, ACME, limit=1)).json()
    assert [each["period"] for each in listed["items"]] == ["2026-02"]
    rest = await api.get("periods", api.operator, ACME, cursor=listed["next_cursor"])
    assert [each["period"] for each in rest.json()["items"]] == ["2026-01"]


async def test_the_last_month_is_opened_again(
    api: Api, log: MemoryLog, database: TestDatabase
) -> None:
    acme = api.acme_tenant
    await close(api)
    first = acme.invoice({"usage": 700}).model_copy(update={"effective_at": IN_JANUARY})
    log.publish(first)
    await log.settle()
    assert (await reopen(api, reason="")).status_code == 422
    body = (await reopen(api)).json()
    assert body["state"] == "open"
    assert [step["kind"] for step in body["steps"]] == ["close", "reopen"]
    assert body["steps"][1]["reason"] == "the bank's statement was wrong"
    second = acme.invoice({"usage": 800}).model_copy(update={"effective_at": IN_JANUARY})
    log.publish(second)
    await log.settle()
    items = (await api.get("entries", api.operator, ACME, account="revenue:usage")).json()["items"]
    assert sorted((each["effective_at"][:10], each["belongs_to"]) for each in items) == [
        ("2026-01-20", None),
        ("2026-02-01", "2026-01"),
    ]
    assert (await close(api)).json()["steps"][2]["step"] == 3
    await log.settle()
    assert [event.data.step for event in log.events(PeriodClosed)] == [1, 3]
    (told,) = log.events(PeriodReopened)
    assert told.data.reason == "the bank's statement was wrong"
    (change,) = [
        event.data
        for event in log.events(ConfigurationChanged)
        if event.data.action == "ledger_period.reopened"
    ]
    assert change.after is not None
    assert change.after["reason"] == told.data.reason
    await assert_sound(database)


async def test_whoever_books_meanwhile_is_before_it_or_late(
    api: Api, ledger: Database, database: TestDatabase
) -> None:
    """Twenty book into January while it is being closed: what the closing saw is all there is."""
    acme = api.acme_tenant.id

    async def book_one(number: int) -> None:
        async with ledger.tenant(acme, "test", books=BOTH) as tx:
            await book(tx, transfer(1, f"t{number}"), effective_at=IN_JANUARY)

    booking = [book_one(number) for number in range(20)]
    await asyncio.gather(*booking[:10], close(api), *booking[10:])
    async with database.admin() as admin:
        counts = await admin.fetchrow(
            """
            select p.chain_seq, count(*) filter (where e.chain_seq > p.chain_seq) as after,
                count(*) filter (where e.chain_seq > p.chain_seq
                    and e.effective_at < p.ends_at) as wrong,
                (select count(*) from ledger.late_entry) as late
            from ledger.period_step p join ledger.journal_entry e using (tenant_id, mode, book)
            group by p.chain_seq
            """
        )
    assert counts["wrong"] == 0
    assert counts["late"] == counts["after"]
    assert counts["chain_seq"] + counts["after"] == 23
    await assert_sound(database)


async def test_the_database_refuses_entries_of_a_closed_month(
    api: Api, ledger: Database, database: TestDatabase
) -> None:
    await close(api)
    acme = api.acme_tenant.id
    before = await net_balances(database)
    booking = Booking(
        new_id(), acme, transfer(5, "sneaked in"), IN_JANUARY, IN_JANUARY, Cause(new_id(), new_id())
    )
    with pytest.raises(asyncpg.PostgresError, match="that month is closed"):
        async with ledger.tenant(acme, "test", books=BOTH) as tx:
            await posting.open_books(tx)
            await store.post_entries(tx, [booking])
    for statement in ("update period_step set kind = 'reopen'", "delete from period_step"):
        async with ledger.tenant(acme, "test", books=BOTH) as tx:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await tx.execute(statement)
        async with database.admin() as admin:
            await admin.execute("set search_path = ledger")
            with pytest.raises(asyncpg.PostgresError, match="never changed"):
                await admin.execute(statement)
    assert await net_balances(database) == before


async def test_books_made_anew_are_closed(
    api: Api, ledger: Database, log: MemoryLog, database: TestDatabase
) -> None:
    await close(api)
    await reopen(api)
    await close(api)
    await close(api, "2026-02")
    await log.settle()
    assert len(log.events(ReopenPeriod)) == 1
    steps = (await snapshot(database))["period_step"]
    entries = await contents(database)
    topics = sorted({name for each in log.consumers(ledger) for name in each.topics})
    await forget_everything(database)
    await read_anew(log, ledger, ["payments.events", "billing.events", *topics])
    assert (await snapshot(database))["period_step"] == steps
    assert sorted(text.split()[4] for text in await contents(database)) == sorted(
        text.split()[4] for text in entries
    )
    assert (await close(api, "2026-02")).json()["steps"][0]["step"] == 1


async def test_who_may(api: Api, database: TestDatabase) -> None:
    before = await snapshot(database)
    for key in (api.acme, api.globex, api.poster):
        for path, sent in (("close", {}), ("reopen", {"reason": "x"})):
            refused = await api.post(f"periods/2026-01/{path}", key, sent)
            assert (refused.status_code, refused.json()["permission"]) == (403, "operator")
    for period in ("2026", "2026-13", "2026-1", "26-01", "0000-01", "2026-01-01", "x"):
        assert (await close(api, period)).status_code == 422, period
    bodies: list[dict[str, Any]] = [{"book": "both"}, {"reason": "x"}, {"book": None}]
    for body in bodies:
        assert (await close(api, **body)).status_code == 422, body
    whole = await api.get("trial-balance", api.operator, period="2026-01")
    assert whole.status_code == 422
    after = await snapshot(database)
    assert {name for name in after if after[name] != before[name]} <= {"outbox"}


@pytest.mark.parametrize(
    ("at", "name", "ends"),
    [
        ("2026-01-31T23:59:59.999999+00:00", "2026-01", "2026-02-01"),
        ("2026-02-01T00:30:00+01:00", "2026-01", "2026-02-01"),
        ("2025-12-31T23:30:00-01:00", "2026-01", "2026-02-01"),
        ("2024-12-01T00:00:00+00:00", "2024-12", "2025-01-01"),
    ],
)
def test_months_are_calendar_months_in_utc(at: str, name: str, ends: str) -> None:
    period = Period.of(datetime.fromisoformat(at))
    assert period.name == name
    assert Period.named(name) == period
    assert period.ends_at.date().isoformat() == ends
    assert period.starts_at <= datetime.fromisoformat(at) < period.ends_at
