"""Payments: what charges are to us, and the money facts they lead to, each said once."""

from datetime import datetime
from typing import Any
from uuid import UUID

from libs.clock import from_unix
from libs.contracts.billing import BilledBy
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT, PaymentFailed, PaymentSucceeded
from libs.db.pool import Tx
from libs.ids import new_id
from libs.messaging.outbox import emit
from libs.observability.metrics import PAYMENTS_TOTAL
from services.stripe_sync import store_objects
from services.stripe_sync.client import Json
from services.stripe_sync.objects import payment_of
from services.stripe_sync.store_objects import Owner
from services.stripe_sync.transactions import record


def collected_by(account: str) -> BilledBy:
    """Whose account money arrived in."""
    return "platform" if account == PLATFORM_ACCOUNT else "tenant"


async def record_charge(
    tx: Tx,
    account: str,
    charge: Json,
    payer_id: UUID | None,
    owner: Owner,
    *,
    invoice_id: str | None,
    effective_at: datetime,
) -> None:
    """Bring the payment of a charge up to date, and its balance transaction where there is one.

    Args:
        payer_id: the customer who pays; None only while the platform's own record is missing.
    """
    transaction = charge["balance_transaction"]
    if isinstance(transaction, dict):
        await record(tx, account, transaction, owner, effective_at=effective_at)
    if payer_id is None:
        return
    before = await store_objects.read_payment(tx, account, charge["id"])
    after = payment_of(
        charge,
        account=account,
        collected_by=collected_by(account),
        customer_id=payer_id,
        payment_id=before["payment_id"] if before else new_id(),
        invoice_id=invoice_id or (before["stripe_invoice_id"] if before else None),
    )
    if after == before:
        return
    await store_objects.write_payment(tx, after)
    if after["paid_at"] is not None and (before is None or before["paid_at"] is None):
        PAYMENTS_TOTAL.labels(outcome="succeeded", mode=tx.mode).inc()
        emit(tx, _succeeded(after), effective_at=effective_at)
    elif after["status"] == "FAILED" and (before is None or before["status"] != "FAILED"):
        PAYMENTS_TOTAL.labels(outcome="failed", mode=tx.mode).inc()
        emit(tx, _failed(after, from_unix(charge["created"])), effective_at=effective_at)


def _succeeded(payment: dict[str, Any]) -> PaymentSucceeded:
    return PaymentSucceeded(**{name: payment[name] for name in PaymentSucceeded.model_fields})


def _failed(payment: dict[str, Any], at: datetime) -> PaymentFailed:
    return PaymentFailed(
        account=payment["account"],
        customer_id=payment["customer_id"],
        stripe_payment_intent_id=payment["stripe_payment_intent_id"],
        stripe_invoice_id=payment["stripe_invoice_id"],
        attempt_key=payment["stripe_charge_id"],
        amount_minor=payment["amount_minor"],
        currency=payment["currency"],
        failure_code=payment["failure_code"],
        failed_at=at,
    )
