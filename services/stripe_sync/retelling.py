"""Telling money facts again that the ledger misses, in the words in which they were told.

Whoever took them the first time passes over them. What was never recorded is looked for at Stripe.
What was before the account was connected stays untold.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import structlog

from libs.contracts.envelope import Envelope
from libs.contracts.ledger import TellTransactionsAgain
from libs.contracts.stripe_sync import (
    PLATFORM_ACCOUNT,
    BalanceTransactionRecorded,
    PaymentSucceeded,
)
from libs.db.pool import Row, Tx
from libs.db.tenant import Scope
from libs.messaging.outbox import emit
from services.stripe_sync import beginnings, store_marks, store_objects, store_retelling
from services.stripe_sync.marks import BALANCE
from services.stripe_sync.payments import collected_by
from services.stripe_sync.store_transactions import TRANSACTION_COLUMNS

log = structlog.get_logger()


async def take_request(tx: Tx, event: Envelope[TellTransactionsAgain]) -> None:
    """Tell what is recorded under its owners, and have the rest looked for; once per request."""
    wanted = event.data
    if not await store_retelling.enter(tx, wanted.request_id):
        return
    ids = [*wanted.transactions, *wanted.charges, *wanted.invoices]
    owners = await _owners(tx, wanted.account, ids)
    own = tx.scope
    began_at = await beginnings.ours_from(tx, tx.tenant_id, wanted.account)
    await tx.enter(Scope(tuple(sorted({tx.tenant_id, *owners})), tx.mode))
    transactions = await store_retelling.find_transactions(tx, wanted.account, wanted.transactions)
    payments = await store_retelling.find_payments(
        tx, wanted.account, wanted.charges, wanted.invoices, began_at
    )
    for row in transactions:
        _tell(tx, row, _transaction(row, wanted.account), row["created_at"])
    for row in payments:
        _tell(tx, row, _payment(row), row["paid_at"])
    await tx.enter(own)
    told = {
        *(row["stripe_balance_transaction_id"] for row in transactions),
        *(row["stripe_charge_id"] for row in payments),
        *(row["stripe_invoice_id"] for row in payments),
    }
    unknown = [each for each in ids if each not in told]
    if unknown:
        named = [("charge", each) for each in wanted.charges]
        named += [("invoice", each) for each in wanted.invoices]
        sought = [(kind, each) for kind, each in named if each not in told]
        await store_marks.mark(tx, wanted.account, [BALANCE, *sought])
    log.info("money_told_again", account=wanted.account, told=len(told), looked_for=len(unknown))


async def _owners(tx: Tx, account: str, ids: Sequence[str]) -> set[UUID]:
    """Whose facts these are: in a tenant's own account only that tenant's are told."""
    if account != PLATFORM_ACCOUNT:
        return {tx.tenant_id}
    found = await store_objects.find_owners(tx, account, tx.mode, ids)
    return {owner.tenant_id for owner in found.values()}


def _tell(
    tx: Tx, row: Row, fact: BalanceTransactionRecorded | PaymentSucceeded, at: datetime
) -> None:
    emit(tx, fact, effective_at=at, tenant_id=row["tenant_id"])


def _transaction(row: Row, account: str) -> BalanceTransactionRecorded:
    said = row["told"] or {name: row[name] for name in TRANSACTION_COLUMNS}
    return BalanceTransactionRecorded.model_validate(
        said | {"account": account, "collected_by": collected_by(account)}
    )


def _payment(row: Row) -> PaymentSucceeded:
    said = row["told"] or {name: row[name] for name in PaymentSucceeded.model_fields}
    return PaymentSucceeded.model_validate(said | {"payment_id": row["payment_id"]})
