"""Holds: what is set aside is nobody else's, and every capture, release and expiry happens once."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from cli.ledger_proof import LedgerProof
from ledger.callers import Api
from ledger.facts import START, Tenant, assert_sound, book, snapshot
from ledger.test_rebooking import contents, forget_everything, read_anew
from libs.contracts.ledger import Book
from libs.contracts.ledger_holds import CaptureHold, HoldAmount, ReleaseHold
from libs.db.pool import Database
from libs.ids import new_id, parse_public_id, public_id
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.ledger import chart, holds, store_holds
from services.ledger.entries import Entry, credit, debit

pytestmark = pytest.mark.usefixtures("hooli")

LATER = datetime(2030, 1, 1, tzinfo=UTC)
CREDITS = chart.CUSTOMER_CREDITS.code
WISH = {
    "book": "tenant",
    "key": "order-1",
    "account": CREDITS,
    "amount_minor": 1000,
    "currency": "EUR",
    "expires_at": (datetime.now(UTC) + timedelta(days=1)).isoformat(),
}


async def grant(
    ledger: Database,
    tenant: Tenant,
    amount_minor: int,
    key: str = "grant",
    in_book: Book = "tenant",
) -> None:
    """Credit of this amount, as if somebody had paid it in."""
    lines = (
        debit(chart.BANK, amount_minor, "EUR"),
        credit(chart.CUSTOMER_CREDITS, amount_minor, "EUR"),
    )
    async with ledger.tenant(tenant.id, "test", books=("platform", "tenant")) as tx:
        await book(tx, Entry(in_book, key, "trial", lines))


@pytest.fixture
async def hooli(api: Api, ledger: Database) -> Tenant:
    """A tenant with 50.00 EUR of credit, whose key may post."""
    await grant(ledger, api.poster_tenant, 5000)
    return api.poster_tenant


async def hold(api: Api, **changes: Any) -> httpx.Response:
    return await api.post("holds", api.poster, WISH | changes)


async def capture(api: Api, held: str, **changes: Any) -> httpx.Response:
    body = {"key": "c-1", "to": "revenue:usage"} | changes
    return await api.post(f"holds/{held}/capture", api.poster, body)


async def standing(api: Api) -> tuple[int, int, int]:
    """Balance, held and available of the account."""
    answer = await api.get(f"accounts/{CREDITS}/balance", api.poster)
    (balance,) = answer.json()["balances"]
    return balance["balance_minor"], balance["held_minor"], balance["available_minor"]


async def assert_held(database: TestDatabase) -> None:
    """What is held of an account is what its open holds hold, and each hold is its steps."""
    async with database.admin() as admin:
        assert not await admin.fetch(
            """
            select from ledger.account_guard g full join (
                select tenant_id, mode, book, account, currency, sum(remaining_minor) as held,
                    count(*) filter (where ended_by is null) as open
                from ledger.hold group by 1, 2, 3, 4, 5) h
                using (tenant_id, mode, book, account, currency)
            where coalesce(g.held_minor, 0) <> coalesce(h.held, 0)
                or coalesce(g.open_holds, 0) <> coalesce(h.open, 0)
            """
        ), "what is held is not the sum of the holds"
        assert not await admin.fetch(
            """
            select from ledger.hold h where captured_minor <> (
                select coalesce(sum(s.captured_minor), 0) from ledger.hold_step s
                where s.tenant_id = h.tenant_id and s.hold_id = h.id)
            """
        ), "a hold is not its steps"
        assert not await admin.fetch(
            "select from ledger.hold_step s where kind = 'capture' and not exists (select from "
            "ledger.journal_entry e where e.tenant_id = s.tenant_id and e.id = s.entry_id)"
        ), "a capture is not booked"
    await assert_sound(database)


async def test_five_of_six_fit(api: Api, database: TestDatabase) -> None:
    answers = [await hold(api, key=f"order-{number}") for number in range(6)]
    assert [answer.status_code for answer in answers] == [201] * 5 + [409]
    refused = answers[5].json()
    assert refused["code"] == "account_overrun"
    assert {name: refused[name] for name in ("account", "available_minor", "asked_minor")} == {
        "account": CREDITS,
        "available_minor": 0,
        "asked_minor": 1000,
    }
    assert await standing(api) == (5000, 5000, 0)
    listed = (await api.get("accounts", api.poster)).json()["items"]
    (row,) = [each for each in listed if each["account"] == CREDITS]
    assert (row["balance_minor"], row["held_minor"], row["available_minor"]) == (5000, 5000, 0)
    await assert_held(database)


async def test_five_of_twenty_at_the_same_time(api: Api, database: TestDatabase) -> None:
    answers = await asyncio.gather(*(hold(api, key=f"order-{number}") for number in range(20)))
    assert sorted(answer.status_code for answer in answers) == [201] * 5 + [409] * 15
    assert await standing(api) == (5000, 5000, 0)
    await assert_held(database)


async def test_a_key_holds_once_also_at_the_same_time(
    api: Api, log: MemoryLog, database: TestDatabase
) -> None:
    answers = await asyncio.gather(*(hold(api) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    replayed = [answer.headers.get("idempotent-replayed") for answer in answers]
    assert sorted(map(str, replayed)) == ["None"] + ["true"] * 19
    for other in ({"amount_minor": 999}, {"currency": "USD"}, {"expires_at": str(LATER)}):
        answer = await hold(api, **other)
        assert (answer.status_code, answer.json()["code"]) == (409, "hold_key_reused")
    keyed = {"Idempotency-Key": "x"}
    same = [await api.post("holds", api.poster, WISH | {"key": "order-2"}, keyed) for _ in "ab"]
    assert same[0].json() == same[1].json()
    await log.settle()
    assert len(log.events(HoldAmount)) == 2
    assert await standing(api) == (5000, 2000, 3000)
    await assert_held(database)


async def test_captured_in_parts(api: Api, log: MemoryLog, database: TestDatabase) -> None:
    held = (await hold(api)).json()["id"]
    first = await capture(api, held, amount_minor=300, rest="stays")
    assert first.status_code == 201, first.text
    assert first.json()["hold"] | {"state": "open"} == first.json()["hold"]
    assert [
        (line["account"], line["side"], line["amount_minor"])
        for line in first.json()["entry"]["postings"]
    ] == [(CREDITS, "debit", 300), ("revenue:usage", "credit", 300)]
    assert await standing(api) == (4700, 700, 4000)

    too_much = await capture(api, held, key="c-2", amount_minor=701)
    assert (too_much.status_code, too_much.json()["code"]) == (409, "hold_exceeded")
    assert too_much.json()["remaining_minor"] == 700
    second = await capture(api, held, key="c-2", amount_minor=200)
    shown = second.json()["hold"]
    assert (shown["state"], shown["captured_minor"], shown["remaining_minor"]) == (
        "captured",
        500,
        0,
    )
    assert await standing(api) == (4500, 0, 4500)

    again = await capture(api, held, key="c-2", amount_minor=200)
    assert (again.status_code, again.json()) == (201, second.json())
    assert again.headers["idempotent-replayed"] == "true"
    for other in ({"amount_minor": 199}, {"to": "revenue:flat"}, {"rest": "stays"}):
        answer = await capture(api, held, **({"key": "c-2", "amount_minor": 200} | other))
        assert (answer.status_code, answer.json()["code"]) == (409, "hold_key_reused"), other
    ended = await capture(api, held, key="c-3")
    assert (ended.status_code, ended.json()["code"]) == (409, "hold_captured")
    await log.settle()
    assert [event.data.amount_minor for event in log.events(CaptureHold)] == [300, 200]
    await assert_held(database)


async def test_all_of_it_by_default_and_the_last_part_ends_it(
    api: Api, database: TestDatabase
) -> None:
    whole, parts = [(await hold(api, key=key)).json()["id"] for key in ("order-1", "order-2")]
    assert (await capture(api, whole)).json()["hold"]["state"] == "captured"
    for number in range(2):
        answer = await capture(api, parts, key=f"c-{number}", amount_minor=500, rest="stays")
    assert answer.json()["hold"]["state"] == "captured"
    assert answer.json()["hold"]["ended_at"] is not None
    assert await standing(api) == (3000, 0, 3000)
    await assert_held(database)


async def test_what_is_released_is_free_again(api: Api, database: TestDatabase) -> None:
    held = (await hold(api, amount_minor=5000)).json()["id"]
    assert (await hold(api, key="order-2")).status_code == 409
    released = [await api.post(f"holds/{held}/release", api.poster, None) for _ in "ab"]
    assert [answer.status_code for answer in released] == [200, 200]
    assert released[0].json() == released[1].json()
    assert released[0].json()["state"] == "released"
    assert (await capture(api, held)).json()["code"] == "hold_released"
    assert (await hold(api, key="order-2", amount_minor=5000)).status_code == 201
    open_ones = (await api.get("holds", api.poster, open=True)).json()["items"]
    assert [each["key"] for each in open_ones] == ["order-2"]
    assert (await api.get(f"holds/{held}", api.poster)).json() == released[0].json()
    await assert_held(database)


async def test_what_expires_is_free_again(
    api: Api, ledger: Database, hooli: Tenant, log: MemoryLog, database: TestDatabase
) -> None:
    held = parse_public_id("hold", (await hold(api, amount_minor=5000)).json()["id"])
    wish = holds.Capture("c-1", "revenue:usage", None, "released", START)
    # Its time is over, and the job has not come yet: it is not captured, and others may hold.
    async with ledger.tenant(hooli.id, "test", books=("tenant",)) as tx:
        row = await store_holds.find(tx, ("tenant",), held)
        assert row is not None
        with pytest.raises(holds.EndedError, match="expired"):
            await holds.capture(tx, row, wish, actor="x", now=LATER)
    async with ledger.tenant(hooli.id, "test", books=("tenant",)) as tx:
        other = holds.Wish("order-2", CREDITS, "EUR", 5000, LATER + timedelta(days=1))
        second, _ = await holds.place(tx, "tenant", other, actor="x", now=LATER)
    assert (await api.get(f"holds/{public_id('hold', held)}", api.poster)).json()[
        "state"
    ] == "expired"
    for _ in range(2):
        await holds.expire(ledger, LATER + timedelta(days=2))
    async with ledger.tenant(hooli.id, "test", books=("tenant",)) as tx:
        assert await store_holds.find(tx, ("tenant",), second["id"]) != second
    await log.settle()
    assert [event.data.because for event in log.events(ReleaseHold)] == ["expiry", "expiry"]
    assert await standing(api) == (5000, 0, 5000)
    await assert_held(database)


async def test_one_outcome_where_several_end_it_at_once(
    api: Api, ledger: Database, database: TestDatabase
) -> None:
    for number in range(4):
        held = (await hold(api, key=f"order-{number}", amount_minor=500)).json()["id"]
        outcomes = [
            capture(api, held),
            api.post(f"holds/{held}/release", api.poster, None),
            holds.expire(ledger, datetime.now(UTC) + timedelta(days=2)),
            capture(api, held, key="c-2"),
        ]
        shift = number % 4
        await asyncio.gather(*outcomes[shift:], *outcomes[:shift])
        shown = (await api.get(f"holds/{held}", api.poster)).json()
        assert shown["captured_minor"] == (500 if shown["state"] == "captured" else 0)
        entries = await api.get("entries", api.poster, account="revenue:usage", limit=100)
        booked = [e for e in entries.json()["items"] if held.partition("_")[2] in e["source_key"]]
        assert len(booked) == (shown["state"] == "captured")
    await assert_held(database)


async def test_who_may(api: Api, ledger: Database, hooli: Tenant) -> None:
    held = (await hold(api)).json()["id"]
    for key in (api.acme, api.globex, api.usage_only):
        assert (await api.post("holds", key, WISH)).status_code == 403
    refused = await hold(api, book="platform")
    assert (refused.status_code, refused.json()["permission"]) == (403, "operator")
    assert (await api.get(f"holds/{held}", api.acme)).status_code == 404
    assert (await api.get("holds", api.acme)).json()["items"] == []
    await grant(ledger, hooli, 5000, in_book="platform")
    named = {"X-Tenant-ID": "hooli"}
    theirs = await api.post("holds", api.operator, WISH | {"book": "platform"}, named)
    assert theirs.status_code == 201, theirs.text
    assert (await api.get(f"holds/{theirs.json()['id']}", api.poster)).status_code == 404
    path = f"holds/{theirs.json()['id']}/capture"
    body = {"key": "c-1", "to": "revenue:usage"}
    assert (await api.post(path, api.poster, body)).status_code == 404
    assert (await api.post(path, api.operator, body, named)).status_code == 201
    whole = (await api.get("holds", api.operator, book="platform")).json()["items"]
    assert [each["id"] for each in whole] == [theirs.json()["id"]]


async def test_what_cannot_be_held_or_captured(api: Api, database: TestDatabase) -> None:
    held = (await hold(api)).json()["id"]
    before = await snapshot(database)
    for changes, status in (
        ({"amount_minor": 0}, 422),
        ({"amount_minor": -1}, 422),
        ({"amount_minor": 1.5}, 422),
        ({"amount_minor": 10**15}, 422),
        ({"currency": "XXX"}, 422),
        ({"key": ""}, 422),
        ({"key": "a b"}, 422),
        ({"key": "a\x00"}, 422),
        ({"expires_at": "2026-01-01T00:00:00Z"}, 422),
        ({"expires_at": "2126-01-01T00:00:00Z"}, 422),
        ({"expires_at": "2026-01-01T00:00:00"}, 422),
        ({"account": "asset:receivable"}, 422),
        ({"account": "liability:nothing"}, 404),
        ({"account": "liability:own:nothing"}, 404),
        ({"state": "captured"}, 422),
    ):
        answer = await hold(api, **({"key": "order-9"} | changes))
        assert answer.status_code == status, (changes, answer.text)
    for changes, status in (
        ({"to": CREDITS}, 422),
        ({"to": "revenue:nothing"}, 404),
        ({"amount_minor": 0}, 422),
        ({"rest": "kept"}, 422),
        ({"effective_at": "2026-01-01"}, 422),
    ):
        answer = await capture(api, held, **changes)
        assert answer.status_code == status, (changes, answer.text)
    for name in (public_id("hold", new_id()), "hld_x", str(new_id())):
        assert (await capture(api, name)).status_code == 404
        assert (await api.post(f"holds/{name}/release", api.poster, None)).status_code == 404
        assert (await api.get(f"holds/{name}", api.poster)).status_code == 404
    after = await snapshot(database)
    assert {name for name in after if after[name] != before[name]} <= {"outbox"}


async def test_books_made_anew_hold_the_same(
    api: Api, ledger: Database, log: MemoryLog, database: TestDatabase
) -> None:
    """Commands alone bring holds and captures back, whichever of them is read first."""
    first, second, third = [
        (await hold(api, key=f"order-{number}")).json()["id"] for number in range(3)
    ]
    await capture(api, first, amount_minor=300, rest="stays")
    await capture(api, second, amount_minor=100)
    await api.post(f"holds/{third}/release", api.poster, None)
    await log.settle()
    tables = ("hold", "hold_step")
    before = {name: rows for name, rows in (await snapshot(database)).items() if name in tables}
    entries = [text for text in await contents(database) if "grant" not in text]
    await log.replay(clear_inboxes=True)
    after = await snapshot(database)
    assert {name: after[name] for name in tables} == before

    topics = sorted({name for each in log.consumers(ledger) for name in each.topics})
    await forget_everything(database)
    await read_anew(log, ledger, topics)
    after = await snapshot(database)
    assert {name: after[name] for name in tables} == before
    assert await contents(database) == entries
    await assert_held(database)


TAMPERED = (
    "update hold set captured_minor = captured_minor + 1",
    "update hold set ended_by = 'release', ended_at = now()",
    "update hold set amount_minor = amount_minor + 1",
    "update hold_step set captured_minor = captured_minor + 1",
    "update hold_step set entry_id = hold_id",
    "delete from hold_step",
    "update account_guard set held_minor = held_minor - 1",
    "update account_guard set open_holds = 0",
    "delete from account_guard",
)


async def test_verifying_computes_holds_anew(api: Api, database: TestDatabase) -> None:
    held = (await hold(api)).json()["id"]
    assert (await capture(api, held, amount_minor=400, rest="stays")).status_code == 201
    unseen = []
    async with database.admin() as admin:
        await admin.execute("set search_path = ledger; set session_replication_role = replica")
        for statement in (*TAMPERED, None):
            change = admin.transaction(isolation="repeatable_read")
            await change.start()
            if statement is not None:
                assert await admin.execute(statement) in ("UPDATE 1", "DELETE 1")
            proof = LedgerProof(admin)
            books = await proof.books(str(api.poster_tenant.id), {})
            found = [await proof.check(each, {}, lambda _: None) for each in books]
            if not any(each.faults for each in found):
                unseen.append(statement)
            await change.rollback()
    assert unseen == [None]


async def test_the_services_role_cannot_write_what_a_hold_comes_to(
    ledger: Database, hooli: Tenant, api: Api, database: TestDatabase
) -> None:
    await hold(api)
    before = await snapshot(database)
    for statement in (
        "update account_guard set held_minor = 0",
        "insert into account_guard select * from account_guard",
        "delete from account_guard",
        "update hold set captured_minor = 1",
        "update hold set ended_by = 'release', ended_at = now()",
        "delete from hold",
        "insert into hold select * from hold",
        "update hold_step set captured_minor = 1",
        "delete from hold_step",
        "insert into account_overrun select * from account_overrun",
        "delete from account_overrun",
    ):
        async with ledger.tenant(hooli.id, "test", books=("tenant",)) as tx:
            with pytest.raises(asyncpg.PostgresError) as refused:
                await tx.execute(statement)
            assert refused.type in (
                asyncpg.InsufficientPrivilegeError,
                asyncpg.GeneratedAlwaysError,
            ), statement
    async with ledger.tenant(hooli.id, "test", books=("tenant",)) as tx:
        with pytest.raises(asyncpg.CheckViolationError):
            await tx.execute(
                "insert into hold_step select tenant_id, mode, book, id, 'x', 'capture', 1001, "
                "false, 'revenue:usage', id, now() from hold"
            )
    assert await snapshot(database) == before
