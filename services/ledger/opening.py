"""The opening balance of a Stripe account: what it held when its tenant connected it.

What moved before is nobody's to book, movement by movement: it amounts to what Stripe holds and no
movement since explains. That is booked once, against `equity:opening_balances`, when two runs after
each other have found the same; from then on it would be a break.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from libs.db.pool import Tx
from libs.db.tenant import Scope
from services.ledger import chart, commands, store, store_reconciliations, store_reversals
from services.ledger.breaks import ITSELF
from services.ledger.commands_asked import POST_RULE, Command
from services.ledger.entries import credit, debit, entry
from services.ledger.matching import BALANCE_REFERENCE, REPAIR_KEY
from services.ledger.matching_balances import Balance
from services.ledger.reconciling_sides import Work

log = structlog.get_logger()


async def take(
    tx: Tx, work: Work, balances: Sequence[Balance], before: Sequence[Mapping[str, Any]]
) -> Sequence[Balance]:
    """Book what an account held when it was connected, unless that was done; the balances then.

    Only a run that has listed everything since then can tell. What cannot be booked, or is not to be
    booked by itself, is left to become a break.

    Args:
        before: the balances that the run before found.
    """
    account, ours_from = work.run.account, work.row["ours_from"]
    if ours_from is None or work.row["statement_from"] > ours_from or not work.terms.repairs:
        return balances
    last = {each["currency"]: each["unexplained_minor"] for each in before}
    if any(each.unexplained_minor != last.get(each.currency, 0) for each in balances):
        return balances
    if await store_reconciliations.is_opened(tx, account):
        return balances
    asked = [_command(work, each) for each in balances if each.unexplained_minor]
    if asked and not await _book(tx, work, asked):
        return balances
    await store_reconciliations.open_account(tx, account, ours_from, work.now)
    return [
        replace(each, ledger_minor=each.ledger_minor + each.unexplained_minor, unexplained_minor=0)
        for each in balances
    ]


def _command(work: Work, balance: Balance) -> Command:
    """The entry. Its source key names the balance, where the next run finds it."""
    run, minor, currency = work.run, balance.unexplained_minor, balance.currency
    opening = entry(
        run.book,
        f"{REPAIR_KEY}{run.account}:{BALANCE_REFERENCE}{currency}:adjust:opening",
        POST_RULE,
        [
            debit(chart.clearing(run.account), minor, currency),
            credit(chart.OPENING_BALANCES, minor, currency),
        ],
    )
    assert opening is not None, "there is something to book"
    return Command(
        tenant_id=run.tenant_id,
        mode=run.mode,
        entry=opening,
        effective_at=work.row["ours_from"],
        is_dated=True,
        metadata={},
        actor=ITSELF,
    )


async def _book(tx: Tx, work: Work, asked: Sequence[Command]) -> bool:
    """Book all, or nothing where the book does not take one."""
    run, before = work.run, tx.scope
    await tx.enter(Scope((run.tenant_id,), run.mode, (run.book,)))
    await store_reversals.lock_book(tx, run.book)
    await store.open_accounts(tx, [(run.tenant_id, run.book, chart.clearing(run.account))])
    (verdict,) = await commands.post(tx, run.book, [asked])
    await tx.enter(before)
    if isinstance(verdict, Exception):
        log.error("opening_balance_not_booked", account=run.account, error=repr(verdict))
        return False
    return True
