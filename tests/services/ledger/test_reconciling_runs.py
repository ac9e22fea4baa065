"""Runs of a reconciliation: step by step, one at a time, to their end whatever happens."""

from datetime import timedelta

import pytest

from ledger.facts import START, book
from ledger.stripe_side import TERMS, own_account
from libs.clock import utc_now
from libs.contracts.envelope import wrap
from libs.contracts.ledger import StatementRequested
from libs.db.pool import Database
from libs.ids import new_id
from libs.testing.memory_log import MemoryLog
from services.ledger import (
    chart,
    reconciling,
    reconciling_sides,
    repairing,
    statements,
    store_breaks,
    store_matching,
    store_reconciliations,
)
from services.ledger.entries import credit, debit, entry
from services.ledger.store_matching import Run


async def test_a_run_in_small_steps_comes_to_the_same(
    ledger: Database, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("PARTS_AT_ONCE", "ENTRIES_AT_ONCE", "MOVEMENTS_AT_ONCE"):
        monkeypatch.setattr(reconciling_sides, limit, 1)
    side = own_account(log)
    for number in range(8):
        side.pay(100 + number, 3)
    wrong = side.pay(1_000, 30, told_minor=999)
    late = side.pay(1_000, 30, untold=("transaction",))
    row = await side.reconcile(ledger)
    assert (row["line_count"], row["entry_count"], row["matched_count"]) == (10, 19, 8)
    assert await side.found(ledger) == {wrong: "amount", late: "late_fee"}


async def test_two_workers_do_not_advance_one_run(ledger: Database, log: MemoryLog) -> None:
    side = own_account(log)
    side.pay(1_000, 30)
    run_id = await side.begin(ledger)
    async with ledger.tenant(side.owner, "test") as tx:
        assert await store_reconciliations.lock(tx, run_id) is not None
        assert not await reconciling.advance(ledger, side.owner, "test", run_id, TERMS, utc_now())
    assert await reconciling.advance(ledger, side.owner, "test", run_id, TERMS, utc_now())


async def test_a_run_without_its_statement_fails_and_the_next_one_may_begin(
    ledger: Database, log: MemoryLog
) -> None:
    side = own_account(log)
    for error, hours in (("not_connected", 0), ("not_answered", 4), ("took_too_long", 25)):
        run_id = await side.begin(ledger)
        async with ledger.tenant(side.owner, "test") as tx:
            state = "requested" if hours else "failed"
            await tx.execute("update statement set state = $1, error = $2", state, error)
        later = utc_now() + timedelta(hours=hours)
        assert not await reconciling.advance(ledger, side.owner, "test", run_id, TERMS, later)
        async with ledger.tenant(side.owner, "test") as tx:
            row = await store_reconciliations.find(tx, run_id)
        assert row is not None
        assert (row["state"], row["error"]) == ("failed", error)
    side.pay(1_000, 30)
    assert (await side.reconcile(ledger))["matched_count"] == 1


async def test_lines_that_were_compared_are_dropped_after_a_week(
    ledger: Database, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciling, "LINES_DROPPED_AT_ONCE", 3)
    side = own_account(log)
    for _ in range(4):
        side.pay(1_000, 30)
    side.pay_out(500)
    await side.reconcile(ledger)
    counts = (
        "select (select count(*) from statement_line), (select count(*) from statement_payout), "
        "(select count(*) from statement_part), (select count(*) from listed_movement)"
    )
    seen = []
    for age in ("6 days", "8 days", "8 days", "8 days"):
        async with ledger.tenant(side.owner, "test") as tx:
            await tx.execute(f"update statement set requested_at = now() - interval '{age}'")
        await reconciling.drop_compared(ledger)
        async with ledger.tenant(side.owner, "test") as tx:
            seen.append(tuple(await tx.fetchrow(counts) or ()))
    assert seen == [(5, 1, 1, 5), (2, 1, 1, 5), (0, 0, 0, 5), (0, 0, 0, 5)]
    assert (await side.reconcile(ledger))["breaks_found"] == 0


async def test_statements_that_nobody_compares_are_dropped_as_well(
    ledger: Database, log: MemoryLog
) -> None:
    # Given statements that no run needs: one listed, one half listed, one failed
    side = own_account(log)
    for _ in range(8):
        side.pay(1_000, 30)
    await log.settle()
    now = utc_now()
    wanted = []
    async with ledger.tenant(side.owner, "test") as tx:
        for _ in range(3):
            since = now - timedelta(days=30)
            wanted.append(
                await statements.request(tx, "acct_acme", since, now, requested_by="x", now=now)
            )
    await log.settle()
    listed, half, failed = log.events(StatementRequested)
    told = [*side.statement(listed), side.statement(half)[0]]
    told.append(side.statement(failed)[0].model_copy(update={"error": "list_too_long"}))
    for part in told:
        log.publish(
            wrap(part, tenant_id=side.owner, mode="test", source="stripe_sync", effective_at=now)
        )
    await log.settle()
    # When a week has passed
    async with ledger.tenant(side.owner, "test") as tx:
        assert await tx.fetchval("select count(*) from statement_line") == 15
        await tx.execute("update statement set requested_at = now() - interval '8 days'")
    for _ in wanted:
        await reconciling.drop_compared(ledger)
    # Then their lines are gone, and what was never answered has failed
    async with ledger.tenant(side.owner, "test") as tx:
        assert await tx.fetchval("select count(*) from statement_line") == 0
        assert await tx.fetchval("select count(*) from statement_part") == 0
        rows = await tx.fetch("select state, error from statement where dropped_at is not null")
    assert {tuple(row) for row in rows} == {
        ("complete", None),
        ("failed", "not_answered"),
        ("failed", "list_too_long"),
    }


@pytest.mark.parametrize("decision", ["accept", "ignore"])
async def test_what_is_let_be_does_not_stretch_later_runs(
    ledger: Database, log: MemoryLog, decision: str
) -> None:
    # Given a payout that differs at Stripe itself, so that no repair makes it agree
    side = own_account(log)
    side.pay(5_000)
    side.pay_out(220, said_minor=230)
    await side.reconcile(ledger)
    (found,) = await side.breaks(ledger)
    assert found["proposal"]["action"] == "acknowledge"
    async with ledger.tenant(side.owner, side.mode) as tx:
        assert await store_breaks.oldest_unsettled(tx, side.account) == found["occurred_at"]
        # When it is acknowledged, or ignored
        if decision == "accept":
            await repairing.accept(tx, found["id"], account=None, actor="usr_x", now=utc_now())
        else:
            await repairing.ignore(tx, found["id"], reason="known", actor="usr_x", now=utc_now())
        # Then a run long after begins where any would
        assert await store_breaks.oldest_unsettled(tx, side.account) is None


async def test_what_stood_on_the_account_before_is_the_sum_of_its_postings(
    ledger: Database, log: MemoryLog
) -> None:
    side = own_account(log)
    run = Run(side.owner, "test", new_id(), "acct_acme", "tenant")
    clearing = chart.clearing("acct_acme")
    async with ledger.tenant(side.owner, "test", books=("platform", "tenant")) as tx:
        for batch in range(5):
            entries = [
                entry(
                    "tenant",
                    f"trial:{batch}:{number}",
                    "trial",
                    [debit(clearing, number + 1, "EUR"), credit(chart.BANK, number + 1, "EUR")],
                )
                for number in range(500)
            ]
            # The third batch is recorded before the others: blocks do not follow the clock.
            at = START + timedelta(days=0 if batch == 2 else batch + 1)
            await book(tx, *(each for each in entries if each), booked_at=at)
        for days in range(7):
            before = START + timedelta(days=days, hours=1)
            expected = await tx.fetchval(
                "select coalesce(sum(amount_minor), 0) from posting "
                "where account = $1 and booked_at < $2",
                clearing.code,
                before,
            )
            found = await store_matching.opening_balances(tx, run, clearing.code, before)
            assert found.get("EUR", 0) == expected
