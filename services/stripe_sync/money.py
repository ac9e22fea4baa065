"""Refunds, disputes and payouts: the rows that people read, brought up to date from Stripe's words."""

from typing import Any

from libs.contracts.stripe_sync import DisputeChanged, PayoutChanged, RefundChanged
from libs.db.pool import Tx
from libs.ids import new_id
from libs.observability.metrics import PAYOUTS_FAILED_TOTAL
from services.stripe_sync import allocating, store_money
from services.stripe_sync.client import Json
from services.stripe_sync.objects import named

MoneyFact = RefundChanged | DisputeChanged | PayoutChanged


async def record_money(tx: Tx, fact: MoneyFact, raw: Json) -> None:
    """Bring the row of a refund, dispute or payout up to date for the tenant in scope."""
    if isinstance(fact, RefundChanged):
        await record_refund(tx, fact, raw)
    elif isinstance(fact, DisputeChanged):
        await store_money.write_dispute(tx, new_id(), _columns(fact))
    else:
        before = await store_money.write_payout(tx, new_id(), _columns(fact))
        if fact.status == "failed" and before != "failed":
            tx.after_commit.append(PAYOUTS_FAILED_TOTAL.labels(mode=tx.mode).inc)
        await allocating.note(tx, fact)


async def record_refund(tx: Tx, fact: RefundChanged, raw: Json) -> None:
    """Bring the row of a refund up to date.

    It is the row of this Stripe id; else the row that its metadata names, where that is the tenant's
    in scope and has no Stripe id yet; else a new one.
    """
    refund_id = await store_money.refund_row(
        tx, fact.account, fact.stripe_refund_id, named(raw, "refund_id")
    )
    columns = _columns(fact) | {"reason": raw.get("reason")}
    await store_money.write_refund(tx, refund_id or new_id(), columns)


def _columns(fact: MoneyFact) -> dict[str, Any]:
    return fact.model_dump(exclude={"version"})
