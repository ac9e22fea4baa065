"""Receipts: Stripe writes and sends them; the payment says which, and where it went last."""

from collections.abc import Mapping
from typing import Any

from libs.contracts.audit import ConfigurationChanged
from libs.db.pool import Database
from libs.directory.local import business_now
from libs.ids import new_id, public_id
from libs.messaging.outbox import emit
from services.stripe_sync import store_marks, store_requests
from services.stripe_sync.once import Writer
from services.stripe_sync.payers import Asker, Till


async def send(
    database: Database, asker: Asker, till: Till, payment: Mapping[str, Any], email: str
) -> None:
    """Have Stripe send the receipt of a paid payment to an address.

    A charge whose `receipt_email` is set sends its receipt there
    (https://docs.stripe.com/api/charges/update), also where it was set to the same before.

    Raises:
        StripeCallError: Stripe did not answer or refused.
    """
    charge_id = payment["stripe_charge_id"]
    writer = Writer(database, till.api, asker.tenant.id, asker.mode)
    charge = await writer.post(
        "charge.update",
        f"/v1/charges/{charge_id}",
        {"receipt_email": email},
        key=f"receipt:{asker.client_key or new_id()}",
    )
    async with database.tenant(asker.tenant.id, asker.mode) as tx:
        await store_requests.note_receipt(
            tx,
            payment["payment_id"],
            number=charge["receipt_number"],
            url=charge["receipt_url"],
            email=charge["receipt_email"],
        )
        await store_marks.mark(tx, till.account, [("charge", charge_id)])
        sent = ConfigurationChanged(
            action="payment.receipt_sent",
            actor=asker.actor,
            object_id=public_id("payment", payment["payment_id"]),
            after={"receipt_number": charge["receipt_number"]},
        )
        emit(tx, sent, effective_at=business_now(asker.tenant, asker.mode))
