"""Payments: what payment intents are to us, and the money facts they lead to, each said once."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.contracts.stripe_sync import PLATFORM_ACCOUNT, PaymentSucceeded
from libs.db.pool import Tx
from libs.ids import new_id
from libs.messaging.outbox import emit
from libs.observability.metrics import PAYMENTS_TOTAL
from services.stripe_sync import beginnings, objects_payments, store_marks, store_payments
from services.stripe_sync.client import Json
from services.stripe_sync.objects import named
from services.stripe_sync.objects_payments import WAITS_FOR_PAYER, charge_of, payment_of_intent
from services.stripe_sync.store_objects import Owner


@dataclass(frozen=True)
class Origin:
    """What a payment was made for; nothing where it stands alone."""

    invoice_id: str | None = None
    payment_link_id: str | None = None


NO_ORIGIN = Origin()


def collected_by(account: str) -> Any:
    """Whose account money arrives in: `platform` or `tenant`."""
    return objects_payments.collected_by(account, PLATFORM_ACCOUNT)


async def record_intent(
    tx: Tx,
    account: str,
    intent: Json,
    owner: Owner,
    payer_id: UUID,
    *,
    invoice_id: str | None,
    effective_at: datetime,
) -> Json:
    """Bring the payment of an intent up to date from Stripe's answer to a call; the row after it.

    The answer may be older than what the mirror's worker saw meanwhile, so the intent is fetched
    again a moment later. The payment is the row of this intent; else the row that its metadata names,
    where that is the tenant's in scope and has no intent yet; else a new one.

    Args:
        intent: with `latest_charge.balance_transaction` expanded.
        owner: of the tenant in scope.
        payer_id: the customer who pays, where no row of ours says so.
        invoice_id: Stripe's invoice that it pays, if any.

    Raises:
        UnreadableObjectError: a field is missing.
    """
    assert owner.tenant_id == tx.tenant_id, "a payment is recorded for the tenant in scope"
    before = await store_payments.read_payment(
        tx, account, intent["id"], named(intent, "payment_id")
    )
    began_at = await beginnings.ours_from(tx, tx.tenant_id, account)
    after = settle(
        tx,
        account,
        payment_of_intent(intent),
        before,
        payer_id,
        origin=Origin(invoice_id),
        effective_at=effective_at,
        tenant_id=tx.tenant_id,
        is_ours=not beginnings.paid_before(charge_of(intent), began_at),
    )
    if after is not None:
        await store_payments.write_payment(tx, after)
    await store_marks.mark(tx, account, [("payment_intent", intent["id"])])
    payment = after or before
    assert payment is not None, "a payment that nothing changed was there before"
    return payment


def settle(
    tx: Tx,
    account: str,
    said: Json,
    before: Json | None,
    payer_id: UUID,
    *,
    origin: Origin | None,
    effective_at: datetime,
    tenant_id: UUID,
    is_ours: bool,
) -> Json | None:
    """The row of a payment as it is to stand, with what is to be said of it; None: as it was.

    What was paid stays paid.

    Args:
        said: what Stripe says, by column.
        before: the row so far, locked.
        payer_id: the customer who pays, where no row of ours says so.
        origin: what it was made for; None while nobody has looked.
        tenant_id: whose payment it is, among those in scope.
        is_ours: False for one of before the account was connected: nothing is said of it.
    """
    after = _merged(account, said, before, payer_id, origin)
    if after == before:
        return None
    paid_before = before is not None and before["paid_at"] is not None
    if paid_before and after["paid_at"] is None:
        return None
    if after["paid_at"] is not None and not paid_before and is_ours:
        outcome = PAYMENTS_TOTAL.labels(outcome="succeeded", mode=tx.mode)
        tx.after_commit.append(outcome.inc)
        fact = _succeeded(after)
        emit(tx, fact, effective_at=effective_at, tenant_id=tenant_id)
        after["told"] = fact.model_dump(mode="json", exclude={"payment_id"})
    return after


def _merged(
    account: str, said: Json, before: Json | None, payer_id: UUID, origin: Origin | None
) -> Json:
    """The row as it is to stand: what Stripe says, and what only we know."""
    known = before or {}
    waits = said["status"] in WAITS_FOR_PAYER
    found = origin or NO_ORIGIN
    return said | {
        "payment_id": known.get("payment_id") or new_id(),
        "account": account,
        "collected_by": collected_by(account),
        "customer_id": known.get("customer_id") or payer_id,
        "stripe_invoice_id": found.invoice_id or known.get("stripe_invoice_id"),
        "stripe_payment_link_id": found.payment_link_id or known.get("stripe_payment_link_id"),
        "origin_known": origin is not None or bool(known.get("origin_known")),
        "confirmation_url": said["confirmation_url"]
        or (known.get("confirmation_url") if waits else None),
        "description": said["description"] or known.get("description"),
        "receipt_email": said["receipt_email"] or known.get("receipt_email"),
        "created_at": known.get("created_at") or said["created_at"],
        "told": known.get("told"),
    }


def _succeeded(payment: Json) -> PaymentSucceeded:
    return PaymentSucceeded(**{name: payment[name] for name in PaymentSucceeded.model_fields})
