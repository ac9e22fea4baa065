"""Reconciliation: each planted error is one break of its kind, and repairing it clears it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from ledger.facts import Tenant, assert_sound
from ledger.stripe_side import TERMS, StripeSide, own_account, platforms_account, settling
from libs.clock import utc_now
from libs.contracts.billing import InvoiceCredited
from libs.contracts.ledger import (
    BreakFound,
    BreakResolved,
    PostEntry,
    ReconciliationCompleted,
    TellTransactionsAgain,
)
from libs.contracts.stripe_sync import StatementPayout
from libs.db.pool import Database
from libs.ids import new_id, public_id
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.ledger import reconciling, repairing, store_reconciliations

STAFF = f"usr_{new_id()}"


async def accept(ledger: Database, side: StripeSide, found: dict[str, Any]) -> None:
    """Accept what is proposed for a break, as staff does."""
    account = "expense:stripe_fees" if found["kind"] == "unknown_type" else None
    async with ledger.tenant(side.owner, side.mode) as tx:
        await repairing.accept(tx, found["id"], account=account, actor=STAFF, now=utc_now())


async def test_what_agrees_is_no_break(ledger: Database, log: MemoryLog) -> None:
    side = own_account(log)
    charges = [side.pay(1_000 * number, 30 + number) for number in range(1, 20)]
    side.pay(500, 20, currency="USD")
    side.pay(900, 900)
    side.move("refund", -300)
    side.move("adjustment", -1_500)
    side.pay_out(sum(line.net_minor for line in side.lines[:5]), made_of=charges[:5])
    row = await side.reconcile(ledger)
    assert (row["matched_count"], row["waiting_count"], row["breaks_found"]) == (24, 0, 0)
    assert await side.breaks(ledger) == []
    held = {each["currency"]: each for each in row["balances"]}
    assert held["EUR"]["stripe_minor"] == held["EUR"]["ledger_minor"]
    assert held["EUR"]["unexplained_minor"] == held["USD"]["unexplained_minor"] == 0
    assert held["EUR"]["held_since"] is not None
    (told,) = log.events(ReconciliationCompleted)
    assert (told.data.matched_count, told.data.breaks_found) == (24, 0)


def plant(side: StripeSide, deleted: str) -> dict[str, str]:
    """Everything that can be wrong with an account, each once: its kind by its reference."""
    listed_twice = side.pay(700, 0)
    side.enlist("charge", "txn_twice", 700, 0, "EUR", listed_twice)
    side.delete(deleted)
    late = utc_now().date() - timedelta(days=20)
    made_of = side.pay(4_000, 100)
    wrong_sum = side.pay_out(3_000, made_of=[made_of])
    return {
        side.pay(1_100, 40, untold=("payment", "transaction")): "missing_in_ledger",
        side.pay(1_200, 40, untold=("payment",)): "missing_in_ledger",
        side.move("refund", -110, told=False): "missing_in_ledger",
        side.move("payout", -120, told=False): "missing_in_ledger",
        side.move("stripe_fee", -25, told=False): "missing_in_ledger",
        deleted: "missing_at_stripe",
        side.pay(1_300, 0, listed=False): "missing_at_stripe",
        side.move("refund", -130, listed=False): "missing_at_stripe",
        side.move("topup", 135, listed=False): "missing_at_stripe",
        side.pay(1_400, 50, told_minor=1_500): "amount",
        side.pay(1_600, 50, told_fee_minor=55): "amount",
        side.move("refund", -160, told_minor=-170): "amount",
        side.move("payout", -180, told_minor=-108): "amount",
        side.pay(1_800, 0, told_currency="USD"): "currency",
        side.move("refund", -190, told_currency="GBP"): "currency",
        listed_twice: "duplicate",
        side.pay(1_900, 60, untold=("transaction",)): "late_fee",
        side.move("anticipation_repayment", -70): "unknown_type",
        side.move("climate_order_purchase", 75): "unknown_type",
        side.pay_out(210, status="in_transit", arrival_on=late): "timing",
        side.pay_out(220, said_minor=230): "amount",
        wrong_sum: "amount",
    }


async def test_each_planted_error_is_one_break_and_its_proposal_clears_it(
    ledger: Database, log: MemoryLog, database: TestDatabase
) -> None:
    # Given an account on which all agrees, but that Stripe holds money nobody explains,
    side = own_account(log)
    deleted = side.pay(1_000, 30)
    side.unlisted_minor = 4_321
    first = await side.reconcile(ledger)
    assert first["breaks_found"] == 0, "one look at a balance is not enough"
    # when everything goes wrong that can,
    planted = plant(side, deleted)
    # then each error is a break of its kind, and nothing else is.
    row = await side.reconcile(ledger)
    expected = planted | {"balance_EUR": "balance"}
    assert await side.found(ledger) == expected
    assert row["breaks_found"] == len(expected)
    assert len(log.events(BreakFound)) == len(expected)
    # A second look finds the same ones.
    await side.reconcile(ledger)
    again = await side.breaks(ledger)
    assert len(again) == len(expected)
    assert {each["times_found"] for each in again} == {2}
    assert len(log.events(BreakFound)) == len(expected), "each is told once"
    # When every proposal is accepted, and what was asked for is told,
    for found in again:
        assert found["state"] == "proposed", found
        await accept(ledger, side, found)
        await accept(ledger, side, found)
    await log.settle()
    side.tell_lost()
    assert side.lost == {}
    # then the next look finds only what is wrong at Stripe, which nobody has to look at any more.
    last = await side.reconcile(ledger)
    assert await side.found(ledger, "open", "proposed") == {}
    at_stripe = {name for name in planted if name.startswith("po_")}
    assert set(await side.found(ledger, "accepted")) == at_stripe
    assert last["breaks_resolved"] == len(expected) - len(at_stripe)
    assert len(log.events(BreakResolved)) == len(expected) - len(at_stripe)
    held = {each["currency"]: each for each in last["balances"]}
    for balance in held.values():
        assert balance["unexplained_minor"] == 0
        assert balance["stripe_minor"] == balance["ledger_minor"], balance
    await assert_sound(database)
    # The books that are made of their topics anew hold the repairs as well.
    await log.replay(clear_inboxes=True)
    assert log.events(PostEntry)
    assert (await side.reconcile(ledger))["breaks_found"] == len(at_stripe)


async def test_the_platforms_account_is_compared_with_all_tenants_books(
    ledger: Database, log: MemoryLog
) -> None:
    # Given payments of two tenants, one of which was booked under both,
    side = platforms_account(log)
    acme, globex = side.payer, Tenant()
    twice = side.pay(1_000, 30)
    side.payer = globex
    side.pay(2_000, 50)
    side.move("refund", -500)
    log.publish(globex.payment(1_000, stripe_charge_id=twice, stripe_invoice_id=None))
    # and one that Stripe never saw,
    unseen = side.pay(77, 0, listed=False)
    await side.reconcile(ledger)
    assert await side.found(ledger) == {twice: "duplicate", unseen: "missing_at_stripe"}
    # when both are taken back, in the book in which they stand,
    for found in await side.breaks(ledger):
        assert found["proposal"]["tenant_id"] == str(globex.id)
        await accept(ledger, side, found)
    # then the account agrees, and the tenants' own rows are out of each other's sight.
    row = await side.reconcile(ledger)
    assert await side.found(ledger, "open", "proposed", "accepted") == {}
    assert row["balances"][0]["ledger_minor"] == row["balances"][0]["stripe_minor"]
    for tenant in (acme, globex):
        async with ledger.tenant(tenant.id, "test") as tx:
            assert await tx.fetchval("select count(*) from reconciliation_break") == 0


async def test_what_is_new_is_expected_and_no_break(ledger: Database, log: MemoryLog) -> None:
    side = own_account(log)
    side.pay(1_000, 30, untold=("transaction",))
    side.pay(300, 0, listed=False)
    newest = side.lines[-1].model_copy(update={"created_at": utc_now() - timedelta(minutes=5)})
    side.lines[-1] = newest
    row = await side.reconcile(ledger, settling(60))
    assert (row["waiting_count"], row["breaks_found"]) == (2, 0)
    row = await side.reconcile(ledger, settling(0))
    assert (row["waiting_count"], row["breaks_found"]) == (0, 2)


async def test_what_is_missing_is_told_again_by_itself_once(
    ledger: Database, log: MemoryLog
) -> None:
    side = own_account(log)
    terms = replace(TERMS, repairs=True)
    lost = side.pay(1_000, 30, untold=("payment", "transaction"))
    wrong = side.pay(1_000, 30, told_minor=999)
    await side.reconcile(ledger, terms)
    # Only what is missing is repaired by itself; a wrong amount waits for somebody.
    assert await side.found(ledger, "accepted") == {lost: "missing_in_ledger"}
    assert await side.found(ledger, "proposed") == {wrong: "amount"}
    (asked,) = log.events(TellTransactionsAgain)
    assert set(asked.data.charges) == {lost}
    # Where that did not help it is somebody's after all.
    await side.reconcile(ledger, terms)
    assert await side.found(ledger, "proposed") == {wrong: "amount", lost: "missing_in_ledger"}
    assert len(log.events(TellTransactionsAgain)) == 1
    side.tell_lost()
    await side.reconcile(ledger, terms)
    assert await side.found(ledger, "resolved") == {lost: "missing_in_ledger"}


async def test_an_ignored_break_comes_back_when_its_amounts_change(
    ledger: Database, log: MemoryLog
) -> None:
    side = own_account(log)
    side.pay(1_000, 30, told_minor=999)
    await side.reconcile(ledger)
    (found,) = await side.breaks(ledger)
    async with ledger.tenant(side.owner, "test") as tx:
        await repairing.ignore(tx, found["id"], reason="a cent", actor=STAFF, now=utc_now())
    await side.reconcile(ledger)
    (found,) = await side.breaks(ledger)
    assert (found["state"], found["reason"]) == ("ignored", "a cent")
    side.lines[0] = side.lines[0].model_copy(update={"amount_minor": 1_002, "net_minor": 972})
    await side.reconcile(ledger)
    (found,) = await side.breaks(ledger)
    assert (found["state"], found["reason"], found["stripe_minor"]) == ("proposed", None, 972)


async def test_a_break_that_came_back_is_the_same_one(ledger: Database, log: MemoryLog) -> None:
    side = own_account(log)
    side.pay(1_000, 30)
    right = side.lines[0]
    wrong = right.model_copy(update={"amount_minor": 1_001, "net_minor": 971})
    for line in (wrong, right, wrong):
        side.lines[0] = line
        await side.reconcile(ledger)
    (found,) = await side.breaks(ledger)
    assert (found["state"], found["times_found"]) == ("proposed", 2)
    async with ledger.tenant(side.owner, "test") as tx:
        history = await tx.fetch("select change from reconciliation_break_change order by seq")
    assert [row["change"] for row in history] == ["found", "resolved", "found_again"]


async def test_what_was_booked_before_the_time_compared_is_left_alone(
    ledger: Database, log: MemoryLog
) -> None:
    side = own_account(log)
    seen = side.pay(1_000, 30)
    await side.reconcile(ledger)
    # Stripe's list no longer reaches back to what an earlier one had.
    side.lines = []
    side.unlisted_minor = 970
    run_id = await side.begin(ledger, utc_now() - timedelta(hours=1))
    async with ledger.tenant(side.owner, "test") as tx:
        await tx.execute("update statement set listed_from = now() - interval '2 hours'")
    while await reconciling.advance(ledger, side.owner, "test", run_id, TERMS, utc_now()):
        pass
    async with ledger.tenant(side.owner, "test") as tx:
        row = await store_reconciliations.find(tx, run_id)
    assert row is not None
    assert (row["breaks_found"], row["balances"][0]["unexplained_minor"]) == (0, 0), seen


async def test_a_payout_that_arrives_is_no_break_any_more(ledger: Database, log: MemoryLog) -> None:
    side = own_account(log)
    side.pay(5_000, 0)
    late = utc_now().date() - timedelta(days=5)
    payout = side.pay_out(1_000, status="pending", arrival_on=late)
    await side.reconcile(ledger)
    assert await side.found(ledger, "proposed") == {payout: "timing"}
    arrived: StatementPayout = side.payouts[0].model_copy(update={"status": "paid"})
    side.payouts = [arrived]
    await side.reconcile(ledger)
    assert await side.found(ledger, "resolved") == {payout: "timing"}


async def test_what_is_paid_of_invoices_is_compared_with_what_is_booked(
    ledger: Database, log: MemoryLog
) -> None:
    side = platforms_account(log)
    acme = side.payer

    def invoiced(stripe_invoice: str, paid_minor: int, *payments_minor: int) -> None:
        invoice = acme.invoice({"flat": paid_minor}, stripe_invoice_id=stripe_invoice)
        log.publish(invoice)
        log.publish(acme.paid(invoice, paid_minor))
        for minor in payments_minor:
            side.pay(minor, 0, invoice=stripe_invoice)

    invoiced("in_right", 1_000, 1_000)
    invoiced("in_parts", 2_000, 500, 1_500)
    invoiced("in_nothing", 0)
    invoiced("in_unpaid", 3_000)
    invoiced("in_twice", 4_000, 4_000, 4_000)
    invoiced("in_half", 5_000, 2_500)
    row = await side.reconcile(ledger, settling(60))
    assert (row["breaks_found"], await side.found(ledger)) == (0, {}), "too new to say"
    row = await side.reconcile(ledger)
    expected = {"in_unpaid": "missing_in_ledger", "in_twice": "duplicate", "in_half": "amount"}
    assert await side.found(ledger) == expected
    for found in await side.breaks(ledger):
        await accept(ledger, side, found)
    await log.settle()
    (asked,) = log.events(TellTransactionsAgain)
    assert asked.data.invoices == ("in_unpaid",)
    side.pay(3_000, 0, invoice="in_unpaid")
    await side.reconcile(ledger)
    assert await side.found(ledger, "open", "proposed") == {}
    assert await side.found(ledger, "resolved") == {"in_unpaid": "missing_in_ledger"}
    await log.replay(clear_inboxes=True)
    assert (await side.reconcile(ledger))["breaks_found"] == 2


async def test_what_is_booked_of_invoices_is_compared_with_what_billing_says(
    ledger: Database, log: MemoryLog
) -> None:
    """Given one side lacks the invoice, its end or its payments, each is a break; a part is none."""
    side = platforms_account(log)
    acme = side.payer
    told = {
        name: acme.invoice({"flat": 3_000}, stripe_invoice_id=name)
        for name in ("in_untold", "in_lost", "in_unsaid", "in_credited", "in_part")
    }
    # Billing calls them paid, and that they are owed never came here.
    log.publish(acme.paid(told["in_untold"], 3_000))
    side.pay(3_000, 0, invoice="in_untold")
    log.publish(acme.paid(told["in_lost"], 3_000))
    # All that is due is paid, and billing never calls them paid.
    log.publish(told["in_unsaid"])
    side.pay(3_000, 0, invoice="in_unsaid")
    log.publish(told["in_credited"])
    taken_back = InvoiceCredited(
        final=told["in_credited"].data, sequence=1, credited_before_minor=0, credited_minor=1_000
    )
    log.publish(acme.event(taken_back))
    side.pay(2_000, 0, invoice="in_credited")
    # A payment of an invoice that nobody knows.
    side.pay(777, 0, invoice="in_nobody")
    # Nothing is wrong where a part is paid.
    log.publish(told["in_part"])
    side.pay(2_999, 0, invoice="in_part")

    row = await side.reconcile(ledger, settling(60))
    assert (row["breaks_found"], await side.found(ledger)) == (0, {}), "too new to say"
    await side.reconcile(ledger)
    untold = public_id("invoice", told["in_untold"].data.invoice_id)
    assert await side.found(ledger) == {
        untold: "missing_in_ledger",
        "in_lost": "missing_in_ledger",
        "in_unsaid": "amount",
        "in_credited": "amount",
        "in_nobody": "amount",
    }
    assert await side.found(ledger, "open") == {untold: "missing_in_ledger"}

    # When the missing word comes, each is no break any more.
    log.publish(told["in_untold"])
    log.publish(told["in_lost"])
    side.pay(3_000, 0, invoice="in_lost")
    log.publish(acme.paid(told["in_unsaid"], 3_000))
    log.publish(acme.paid(told["in_credited"], 2_000))
    nobodys = acme.invoice({"flat": 777}, stripe_invoice_id="in_nobody")
    log.publish(nobodys)
    log.publish(acme.paid(nobodys, 777))
    await side.reconcile(ledger)
    assert await side.found(ledger, "open", "proposed") == {}


async def test_an_invoice_belongs_in_the_book_that_billing_names(
    ledger: Database, log: MemoryLog
) -> None:
    """Given a tenant's own invoice that is not booked: the platform's account has nothing to do with it."""
    side = platforms_account(log)
    own = StripeSide("acct_acme", side.payer.id, side.payer, log)
    invoice = side.payer.invoice({"flat": 50}, stripe_invoice_id="in_own", billed_by="tenant")
    log.publish(side.payer.paid(invoice, 50))
    await side.reconcile(ledger)
    assert await side.found(ledger) == {}
    await own.reconcile(ledger)
    assert await own.found(ledger) == {"in_own": "missing_in_ledger"}
