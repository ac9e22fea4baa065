"""How a reconciliation ends: payouts, invoices, balances, and breaks that are no more."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from libs.contracts.ledger import ReconciliationCompleted
from libs.db.pool import Tx
from libs.messaging.outbox import emit
from services.ledger import (
    breaks,
    chart,
    matching,
    matching_balances,
    matching_invoices,
    opening,
    store_ages,
    store_breaks,
    store_invoices,
    store_matching,
)
from services.ledger import store_reconciliations as store
from services.ledger.matching import Finding
from services.ledger.reconciling_sides import Work, drop_items, seeing_all

BREAKS_AT_ONCE = 1_000
AGE_STEPS_AT_ONCE = 50

Ages = Mapping[str, datetime]
"""By currency, since when."""


async def end(tx: Tx, work: Work) -> bool:
    """Look at payouts, invoices and balances, and have what was not found again resolved."""
    run, row = work.run, work.row
    found = await _payouts(tx, work)
    async with seeing_all(tx):
        found += await _invoices(tx, work)
        first = store_matching.first_moment(row["statement_from"])
        booked_before = await store_matching.opening_balances(
            tx, run, chart.clearing(run.account).code, first
        )
    sides = await store_matching.sums(tx, run)
    balances: Sequence[matching_balances.Balance] = matching_balances.compare(
        row["stripe_balances"], sides["stripe"], sides["ledger"], booked_before, row["unlisted"]
    )
    differing: list[Finding] = []
    resolved = 0
    if row["listed_at"] - row["listed_to"] <= matching_balances.LISTED_AT_ONCE:
        before = await store.last_balances(tx, run.account)
        balances = await opening.take(tx, work, balances, before)
        differing = matching_balances.findings(run, balances, before, work.now)
        resolved = await _resolve_balances(tx, work, balances)
    await breaks.take_findings(tx, work.finder, [*found, *differing])
    resolved += await _resolve_others(tx, work)
    await store.count(tx, run.id, found=len(found) + len(differing), resolved=resolved)
    held, suspended, all_known = await _ages(tx, work)
    said = {finding.currency for finding in differing}
    unsaid = any(each.unexplained_minor and each.currency not in said for each in balances)
    shown = [
        each.as_json(held.get(each.currency), suspended.get(each.currency)) for each in balances
    ]
    await _complete(tx, work, shown, look_again=unsaid or not all_known)
    return False


async def _payouts(tx: Tx, work: Work) -> list[Finding]:
    statement_id = work.row["statement_id"]
    rows = await store_matching.payouts_that_differ(
        tx,
        work.run,
        statement_id,
        arrived_before=(work.row["listed_at"] - matching_balances.ARRIVES_WITHIN).date(),
        complete_from=work.row["statement_from"] + matching_balances.LEAVES_WITHIN,
        ours_from=work.row["ours_from"],
    )
    if not rows:
        return []
    gone = await store_breaks.of_kind_in_run(tx, work.run.account, work.run.id, "missing_at_stripe")
    return matching_balances.payout_findings(rows, gone)


async def _invoices(tx: Tx, work: Work) -> list[Finding]:
    """What billing says is paid and the books do not, and the other way round; as maintenance."""
    due_from, due_before = (
        work.row["listed_from"],
        min(work.extent.due_before, work.row["listed_to"]),
    )
    paid = await store_invoices.paid_otherwise(tx, work.run, due_from, due_before, BREAKS_AT_ONCE)
    unpaid = await store_invoices.paid_and_not_called_so(
        tx, work.run, due_from, due_before, BREAKS_AT_ONCE
    )
    return [
        *(matching_invoices.finding(each) for each in paid),
        *matching_invoices.not_called_paid(unpaid),
    ]


async def _ages(tx: Tx, work: Work) -> tuple[Ages, Ages, bool]:
    """Since when money has stood on the clearing accounts and in suspense, and whether all is known.

    What a long history is, a run after another reads on.
    """
    clearing, suspense = chart.clearing(work.run.account).code, chart.SUSPENSE.code
    async with seeing_all(tx):
        for _ in range(AGE_STEPS_AT_ONCE):
            followed = await store_ages.follow(tx, work.run, (clearing, suspense))
            if followed == 0:
                break
        return (
            await store_ages.ages(tx, work.run, clearing),
            await store_ages.ages(tx, work.run, suspense),
            followed == 0,
        )


async def _resolve_balances(
    tx: Tx, work: Work, balances: Sequence[matching_balances.Balance]
) -> int:
    """Balances that agree again are breaks no more; how many."""
    agreeing = [
        ("balance", f"{matching.BALANCE_REFERENCE}{each.currency}")
        for each in balances
        if not each.unexplained_minor
    ]
    known = await store_breaks.known(tx, work.run.account, agreeing)
    gone = [each for each in known if each["state"] != "resolved"]
    await _resolve(tx, work, gone)
    return len(gone)


async def _resolve_others(tx: Tx, work: Work) -> int:
    """Breaks of the time compared that this run did not find are resolved; how many."""
    resolved = 0
    while True:
        gone = await store_breaks.not_found(
            tx,
            work.run.account,
            work.run.id,
            work.row["listed_from"],
            work.row["listed_to"],
            BREAKS_AT_ONCE,
        )
        await _resolve(tx, work, gone)
        resolved += len(gone)
        if len(gone) < BREAKS_AT_ONCE:
            return resolved


async def _resolve(tx: Tx, work: Work, gone: Sequence[Mapping[str, Any]]) -> None:
    if gone:
        await breaks.resolve(tx, [dict(each) for each in gone], work.run.id, work.now)


async def _complete(
    tx: Tx, work: Work, balances: Sequence[Mapping[str, Any]], *, look_again: bool
) -> None:
    """End the run; one that could not tell everything is followed by another before long."""
    run = work.run
    await drop_items(tx, work)
    await store.end(tx, run.id, "completed", work.now, balances=balances)
    ended = await store.find(tx, run.id)
    assert ended is not None, "it was locked"
    if ended["waiting_count"] or look_again:
        await store.come_back(tx, run.account, work.now + 2 * work.terms.settles_in)
    fact = ReconciliationCompleted(
        reconciliation_id=run.id,
        account=run.account,
        listed_from=ended["listed_from"],
        listed_to=ended["listed_to"],
        matched_count=ended["matched_count"],
        waiting_count=ended["waiting_count"],
        breaks_found=ended["breaks_found"],
        breaks_resolved=ended["breaks_resolved"],
        completed_at=work.now,
    )
    emit(tx, fact, effective_at=work.now)
