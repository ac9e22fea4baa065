"""Rebuilds: the same books out of the topics, differences found, nothing live touched."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from ledger.callers import Api
from ledger.facts import START, Tenant, assert_sound, snapshot
from ledger.reading import MemoryTopicReader
from libs.clock import format_time, utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.ledger import RecognizeRevenue
from libs.contracts.stripe_sync import PaymentSucceeded
from libs.db.pool import Database, Tx
from libs.ids import new_id
from libs.messaging.outbox import emit
from libs.observability.metrics import STREAM_GAP_RECORDS_TOTAL
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.ledger import chart, rebuilding
from services.ledger.entries import Entry
from services.ledger.handlers import HANDLERS
from services.ledger.rules import RULES

ACME = {"X-Tenant-ID": "acme"}
WHY = {"reason": "booked twice by hand", "effective_at": "2026-02-16T10:30:00Z"}


@dataclass
class Rebuilds:
    """Asks for rebuilds of acme's books and works on them."""

    api: Api
    ledger: Database
    reader: MemoryTopicReader
    dsn: str

    async def ask(self, **query: Any) -> dict[str, Any]:
        path = "/api/v1/ledger/rebuilds"
        headers = {"X-API-Key": self.api.operator} | ACME
        answer = await self.api.client.post(path, json={}, params=query, headers=headers)
        assert answer.status_code == 202, answer.text
        asked: dict[str, Any] = answer.json()
        return asked

    async def work(self) -> None:
        reader: Any = self.reader
        await rebuilding.rebuild_next(self.ledger, reader, HANDLERS, self.dsn)

    async def run(self, **query: Any) -> dict[str, Any]:
        """A rebuild at its end."""
        asked = await self.ask(**query)
        await self.work()
        answer = await self.api.get(f"rebuilds/{asked['id']}", self.api.operator, ACME, **query)
        ended: dict[str, Any] = answer.json()
        return ended


@pytest.fixture
def rebuilds(api: Api, ledger: Database, log: MemoryLog, database: TestDatabase) -> Rebuilds:
    return Rebuilds(api, ledger, MemoryTopicReader(log), database.dsn("ledger"))


async def move_money(api: Api, log: MemoryLog) -> None:
    """More on acme's books: every kind of topic, both books, reversals of reversals, a late fact."""
    acme = api.acme_tenant
    events = [
        acme.created(),
        acme.grant(500),
        acme.invoice({"flat": 4900, "usage": 1200}, credits_minor=500, tax_minor=300),
        acme.transaction("payout", -1000),
        acme.transaction("who_knows", 77, 3),
        acme.payment(250, collected_by="tenant", account="acct_1", currency="JPY"),
        acme.event(acme.payment(1, stripe_charge_id="ch_twice").data),
    ]
    for event in [*events, acme.event(events[-1].data)]:
        log.publish(event)
    await log.settle()
    listed = await api.get("entries", api.operator, ACME, account="revenue:usage")
    entry_id = listed.json()["items"][0]["id"]
    for _ in range(2):
        answer = await api.post(f"entries/{entry_id}/reverse", api.operator, WHY, ACME)
        assert answer.status_code == 201, answer.text
        entry_id = answer.json()["id"]
    await log.settle()


async def live_rows(database: TestDatabase) -> dict[str, list[str]]:
    rows = await snapshot(database)
    del rows["outbox"], rows["ledger_rebuild"]
    return {name: found for name, found in rows.items() if name not in ("stream", "key_use")}


def missing_records() -> float:
    """How many events the consumers have missed, as the metrics say."""
    return sum(
        sample.value
        for metric in STREAM_GAP_RECORDS_TOTAL.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    )


@contextmanager
def patched_rule(monkeypatch: pytest.MonkeyPatch, make: Any) -> Iterator[None]:
    """Payments are booked by another version of their rule."""
    rule = RULES[PaymentSucceeded]
    with monkeypatch.context() as patched:
        patched.setitem(RULES, PaymentSucceeded, lambda fact: make(rule(fact)))  # type: ignore[arg-type]
        yield


async def test_a_rebuild_gives_the_same_books(
    rebuilds: Rebuilds, api: Api, log: MemoryLog, database: TestDatabase
) -> None:
    await move_money(api, log)
    # What a tenant is told of in both modes is numbered in one row.
    for number, mode in enumerate(("test", "live", "live", "test"), start=1):
        event = api.acme_tenant.payment(number)
        log.publish(event.model_copy(update={"mode": mode, "stream_seq": number}))
    await log.settle()
    before, missing = await live_rows(database), missing_records()
    run = await rebuilds.run()
    assert run["state"] == "equal", run
    assert missing_records() == missing
    found = run["found"]
    entries, balances = (found["compared"][name] for name in ("journal_entry", "account_balance"))
    assert entries["live"] == entries["rebuilt"] == 4 + 6 + 2 + 2
    assert balances["live"] == balances["rebuilt"] > 10
    assert (found["faults"], found["other_versions"], found["set_aside"]) == ([], 0, 0)
    assert run["records_read"] == run["records_expected"] > entries["live"]
    assert await live_rows(database) == before
    await log.settle()
    actions = [event.data.action for event in log.events(ConfigurationChanged)]
    assert actions.count("ledger.rebuild_requested") == 1
    assert (await rebuilds.run(mode="live"))["found"]["compared"]["journal_entry"]["live"] == 2
    await assert_sound(database)


async def test_what_was_booked_on_request_comes_back(
    rebuilds: Rebuilds, api: Api, ledger: Database, log: MemoryLog
) -> None:
    """Accounts opened, entries posted, holds captured, a month closed, revenue earned and late facts."""
    acme = api.acme_tenant
    log.publish(acme.grant(500))
    await log.settle()
    account = {"book": "platform", "type": "revenue", "name": "shipping", "purpose": "parcels"}
    held_on, shipping = "liability:customer_credits", "revenue:own:shipping"
    sides = [
        {"account": name, "side": side, "amount_minor": 120, "currency": "EUR"}
        for name, side in (("asset:receivable", "debit"), (shipping, "credit"))
    ]
    entry = {"book": "platform", "source_key": "order-1", "postings": sides}
    hold = {
        "book": "platform",
        "key": "reservation-1",
        "account": held_on,
        "amount_minor": 300,
        "currency": "EUR",
        "expires_at": format_time(utc_now() + timedelta(days=1)),
    }
    await asked(api, "accounts", account)
    await asked(api, "entries", entry)
    held = await asked(api, "holds", hold)
    capture = {"key": "c-1", "to": shipping, "amount_minor": 80, "rest": "stays"}
    await asked(api, f"holds/{held['id']}/capture", capture)
    await asked(api, "periods/2026-01/close", {"book": "platform"}, 200)
    late = acme.payment(75).model_copy(update={"effective_at": START - timedelta(days=2)})
    earned = RecognizeRevenue(
        book="platform",
        invoice_id=new_id(),
        line_id=new_id(),
        kind="flat",
        month=date(2026, 2, 1),
        revision=0,
        amount_minor=900,
        currency="EUR",
    )
    for event in (late, acme.event(earned)):
        log.publish(event)
    await log.settle()
    await asked(api, "entries", {**entry, "source_key": "o-2", "effective_at": format_time(START)})
    async with ledger.tenant(acme.id, "test", books=("platform", "tenant")) as tx:
        # Told and not read yet: it is in neither book.
        emit(tx, earned.model_copy(update={"month": date(2026, 3, 1)}), effective_at=START)
    run = await rebuilds.run()
    assert run["state"] == "equal", run
    entries = run["found"]["compared"]["journal_entry"]
    assert entries["live"] == entries["rebuilt"] == 4 + 1 + 2 + 1 + 1 + 1
    await log.settle()
    run = await rebuilds.run()
    assert (run["state"], run["found"]["compared"]["journal_entry"]["live"]) == ("equal", 11)


async def asked(api: Api, path: str, body: Any, status: int = 201) -> Any:
    """What staff has done in acme's books."""
    answer = await api.post(path, api.operator, body, ACME)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_differences_are_found_and_told(
    rebuilds: Rebuilds, api: Api, log: MemoryLog, database: TestDatabase
) -> None:
    """An entry that somebody removed, one that was changed, and one of no fact at all."""
    await move_money(api, log)
    async with database.admin() as admin, admin.transaction():
        await admin.execute("set local session_replication_role = replica")
        await admin.execute(
            "delete from ledger.journal_entry where source_key like 'credit:%' and tenant_id = $1",
            api.acme_tenant.id,
        )
        await admin.execute(
            "update ledger.journal_entry set content_hash = sha256('x') "
            "where source_key = 'payment:platform:ch_twice'"
        )
        await admin.execute(
            "update ledger.account_balance set debit_minor = debit_minor + 1 "
            "where account = 'expense:stripe_fees' and tenant_id = $1",
            api.acme_tenant.id,
        )
    run = await rebuilds.run()
    assert run["state"] == "different"
    found = run["found"]
    entries, balances = (found["compared"][name] for name in ("journal_entry", "account_balance"))
    assert (entries["only_live"], entries["only_rebuilt"]) == (1, 2)
    assert "ch_twice" in entries["live_rows"][0]
    assert any("credit:" in row for row in entries["rebuilt_rows"])
    assert (balances["only_live"], balances["only_rebuilt"]) == (1, 1)
    assert "stripe_fees" in balances["live_rows"][0]
    assert any("it does not fit the chain" in fault for fault in found["faults"])
    assert (
        "platform expense:stripe_fees EUR: its balance is not the sum of its postings"
        in (found["faults"])
    )
    assert rebuilding.LEDGER_REBUILD_DIFFERENCES._value.get() == 5 + len(found["faults"])


async def test_a_difference_is_shown_until_the_same_books_are_equal(
    rebuilds: Rebuilds, api: Api, log: MemoryLog, database: TestDatabase
) -> None:
    """Given acme's test books differ: no rebuild of others, no failure, no restart hides it."""
    await move_money(api, log)
    shown = rebuilding.LEDGER_REBUILD_DIFFERENCES

    async def add_to_fees(minor: int) -> None:
        async with database.admin() as admin, admin.transaction():
            await admin.execute("set local session_replication_role = replica")
            await admin.execute(
                "update ledger.account_balance set debit_minor = debit_minor + $2 "
                "where account = 'expense:stripe_fees' and tenant_id = $1",
                api.acme_tenant.id,
                minor,
            )

    await add_to_fees(1)
    assert (await rebuilds.run())["state"] == "different"
    differences = shown._value.get()
    assert differences > 0
    # When the books of the other mode are equal.
    assert (await rebuilds.run(mode="live"))["state"] == "equal"
    assert shown._value.get() == differences
    # When a run cannot compare.
    rebuilds.reader.begins["billing.events"] = 1
    assert (await rebuilds.run())["state"] == "failed"
    rebuilds.reader.begins.clear()
    # When the process begins anew.
    shown.set(0)
    await rebuilding.measure(rebuilds.ledger)
    assert shown._value.get() == differences
    # Then only the same books, put right, end it.
    await add_to_fees(-1)
    assert (await rebuilds.run())["state"] == "equal"
    assert shown._value.get() == 0


async def test_what_another_version_of_a_rule_made_is_no_difference(
    rebuilds: Rebuilds, api: Api, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Today's rule books payments elsewhere; what stands in the book stays, taken back or not."""
    acme = api.acme_tenant
    log.publish(acme.payment(700, stripe_charge_id="ch_old"))
    await log.settle()
    listed = await api.get(
        "entries", api.operator, ACME, book="platform", source_key="payment:platform:ch_old"
    )
    entry_id = listed.json()["items"][0]["id"]
    await api.post(f"entries/{entry_id}/reverse", api.operator, WHY, ACME)
    await log.settle()

    def elsewhere(entry: Entry) -> Entry:
        lines = tuple(
            replace(line, account=chart.BANK) if line.side == "debit" else line
            for line in entry.lines
        )
        return replace(entry, lines=lines, rule_version=entry.rule_version + 1)

    with patched_rule(monkeypatch, elsewhere):
        run = await rebuilds.run()
        assert run["state"] == "equal", run
        assert (run["found"]["other_versions"], run["found"]["other_contents"]) == (3, 3)

    with patched_rule(monkeypatch, lambda entry: replace(entry, rule_version=9)):
        run = await rebuilds.run()
        assert run["state"] == "equal", run
        assert (run["found"]["other_versions"], run["found"]["other_contents"]) == (3, 0)

    # The same version with other content is a difference.
    with patched_rule(monkeypatch, lambda entry: replace(elsewhere(entry), rule_version=1)):
        run = await rebuilds.run()
    assert run["state"] == "different"
    assert run["found"]["compared"]["journal_entry"]["only_live"] == 3 + 1


async def test_what_is_booked_meanwhile_is_no_difference(
    rebuilds: Rebuilds, api: Api, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More facts come in, and a command is booked whose telling is still in the outbox."""
    await move_money(api, log)
    listed = await api.get("entries", api.operator, ACME, account="revenue:flat")
    entry_id = listed.json()["items"][0]["id"]
    begin, told = rebuilding.Rebuild._begin, rebuilding.Rebuild._told

    async def busy(self: Any) -> None:
        """After the ends were fixed."""
        await begin(self)
        log.publish(api.acme_tenant.payment(50))
        await log.settle()
        answer = await api.post(f"entries/{entry_id}/reverse", api.operator, WHY, ACME)
        assert answer.status_code == 201, answer.text

    async def late(self: Any, tx: Tx) -> Any:
        """After the snapshot was taken."""
        log.publish(api.acme_tenant.payment(60))
        await log.settle()
        return await told(self, tx)

    monkeypatch.setattr(rebuilding.Rebuild, "_begin", busy)
    monkeypatch.setattr(rebuilding.Rebuild, "_told", late)
    run = await rebuilds.run()
    assert run["state"] == "equal", run


async def test_what_cannot_be_rebuilt_is_said(rebuilds: Rebuilds, api: Api, log: MemoryLog) -> None:
    rebuilds.reader.begins["billing.events"] = 1
    run = await rebuilds.run()
    assert (run["state"], run["found"]) == ("failed", None)
    assert "billing.events[0] begins at 1" in run["error"]
    rebuilds.reader.begins.clear()
    log.publish(api.acme_tenant.invoice({"flat": 100}, total_minor=7))
    await log.settle()
    run = await rebuilds.run()
    assert run["state"] == "failed"
    assert "billing.events are parked" in run["error"]


async def test_a_run_that_was_left_is_begun_again_and_given_up_in_the_end(
    rebuilds: Rebuilds, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> None:
        raise ArithmeticError("each time")

    monkeypatch.setattr(rebuilding.Rebuild, "_compare", crash)
    asked = await rebuilds.ask()
    for _ in range(rebuilding.ATTEMPTS_MAX):
        with pytest.raises(ArithmeticError):
            await rebuilds.work()
        await rebuilds.work()
        async with rebuilds.ledger.maintenance() as tx:
            await tx.execute("update ledger_rebuild set worked_at = now() - interval '1 hour'")
    again = await rebuilds.api.post("rebuilds", rebuilds.api.operator, {}, ACME)
    assert (again.status_code, again.json()["code"]) == (409, "rebuild_under_way")
    await rebuilds.work()
    run = (await rebuilds.api.get(f"rebuilds/{asked['id']}", rebuilds.api.operator, ACME)).json()
    assert run["state"] == "failed"
    assert "begun 3 times" in run["error"]


async def test_a_shadow_reaches_nothing_live(ledger: Database, database: TestDatabase) -> None:
    """Its functions and triggers are its own; whatever is aimed at a live table is refused."""
    tenant = Tenant()
    async with rebuilding.open_shadow(database.dsn("ledger"), ledger.service) as shadow:
        async with shadow.transaction() as tx:
            await tx.execute(
                "insert into account (tenant_id, mode, book, code, type, normal_side) "
                "values ($1, 'test', 'tenant', 'asset:x', 'asset', 'debit')",
                tenant.id,
            )
        for sql in (
            "delete from account",
            "insert into ledger.account select * from account",
            """
            insert into posting (tenant_id, mode, book, account, currency, account_seq, entry_id,
                line, side, amount_minor, balance_after_minor, effective_at, booked_at)
            select tenant_id, mode, book, code, 'EUR', 1, tenant_id, 1, 'debit', 5, 5, now(), now()
            from account
            """,
        ):
            with pytest.raises(asyncpg.PostgresError) as refused:
                async with shadow.transaction() as tx:
                    await tx.execute(sql)
            assert refused.value.sqlstate in ("SL003", "25006", "SL001")
    async with database.admin() as admin:
        assert not await admin.fetchval("select count(*) from ledger.account")


async def test_only_the_staff_rebuilds(api: Api) -> None:
    assert (await api.post("rebuilds", api.acme, {})).status_code == 403
    assert (await api.get("rebuilds/rbd_x", api.operator, ACME)).status_code == 404
