"""Since when a tenant's Stripe account is ours: what moved on it before is not recorded, told or judged.

What decides is when Stripe made the balance transaction, which the ledger sees in its statement as
well: so both draw the same line, in whatever order things are read. A refund or dispute of a payment
from before moves the balance when it is made, and is ours.
"""

from datetime import datetime, timedelta
from uuid import UUID

from libs.clock import from_unix, utc_now
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.db.pool import Tx
from services.stripe_sync import store_beginnings
from services.stripe_sync.client import Json

UNDATED_LOOK_BACK = timedelta(minutes=15)
"""Of an account whose record does not say since when the tenant has it."""


async def ours_from(tx: Tx, tenant_id: UUID, account: str) -> datetime | None:
    """From when on movements of a tenant's account are ours; None: all are, as on the platform's.

    Whoever asks first settles it for good.

    Args:
        tenant_id: in scope.
    """
    if account == PLATFORM_ACCOUNT:
        return None
    known = await store_beginnings.find(tx, tenant_id, account)
    if known is None:
        now = utc_now()
        await store_beginnings.begin(tx, tenant_id, account, now, now - UNDATED_LOOK_BACK)
        known = await store_beginnings.find(tx, tenant_id, account)
    return known


def moved_before(transaction: Json, began_at: datetime | None) -> bool:
    """Whether Stripe made a balance transaction before the account was ours."""
    return began_at is not None and from_unix(transaction["created"]) < began_at


def without_moved_before(raw: Json, began_at: datetime | None) -> Json:
    """A dispute without what it took out of the balance before the account was ours."""
    moved = raw.get("balance_transactions")
    if began_at is None or not isinstance(moved, list):
        return raw
    ours = [each for each in moved if not moved_before(each, began_at)]
    return {**raw, "balance_transactions": ours}


def paid_before(charge: Json | None, began_at: datetime | None) -> bool:
    """Whether a charge moved the balance before the account was ours.

    One that Stripe has not booked yet is about to move it, however long ago it was authorized.
    """
    booked = charge.get("balance_transaction") if charge else None
    if charge is None or booked is None:
        return False
    return moved_before(booked if isinstance(booked, dict) else charge, began_at)
