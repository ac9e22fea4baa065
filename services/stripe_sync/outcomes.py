"""What came of a request that moves money, as rows and facts: once, whoever learns of it first."""

from dataclasses import dataclass
from datetime import datetime

from libs.db.pool import Database, Row, Tx
from services.stripe_sync import outside, store_marks, store_objects, store_requests
from services.stripe_sync.client import Json
from services.stripe_sync.objects import id_of
from services.stripe_sync.payments import record_intent
from services.stripe_sync.store_objects import Owner
from services.stripe_sync.store_requests import OUTCOME_UNKNOWN


@dataclass(frozen=True)
class Outcome:
    """Where the outcome of one request is written down.

    Attributes:
        row: of the request.
        at: the tenant's business time.
    """

    database: Database
    row: Row
    at: datetime

    async def done(self, answer: Json) -> None:
        """Stripe did it; `answer` is its object."""
        row = self.row
        async with self.database.tenant(row["tenant_id"], row["mode"]) as tx:
            if not await store_requests.end(tx, row["request_id"], "done"):
                return
            if row["kind"] == "refund":
                await self._take_refund(tx, answer)
            elif row["kind"] == "outside":
                await outside.settle(tx, row["payment_id"], self.at, pays_invoice=True)
                await store_marks.mark(tx, row["account"], [("invoice", answer["id"])])
            else:
                await self._take_intent(tx, answer)

    async def refused(self, code: str, status: int, intent: Json | None = None) -> None:
        """It was not done, or nobody will ever tell; the mirror corrects this if it can.

        A refund that nobody can tell of goes on counting as given back, until Stripe can be asked: to
        give the money back twice would be worse.

        Args:
            intent: as the refusal left it, where that is known.
        """
        row = self.row
        async with self.database.tenant(row["tenant_id"], row["mode"]) as tx:
            ended = await store_requests.end(
                tx, row["request_id"], "refused", refusal=code, refusal_status=status
            )
            if not ended:
                return
            if intent is not None:
                await self._take_intent(tx, intent)
            if row["kind"] == "intent":
                await store_requests.fail_payment(tx, row["payment_id"], code)
            elif row["kind"] == "refund" and code != OUTCOME_UNKNOWN:
                await store_requests.answer_refund(
                    tx, row["request_id"], status="failed", stripe_refund_id=None, failure=code
                )
            elif row["kind"] == "outside":
                await outside.settle(tx, row["payment_id"], self.at, pays_invoice=False)

    async def proved(self, refund: Json | None, code: str) -> None:
        """Stripe could be asked about a lost refund after all.

        Args:
            refund: as Stripe has it; None: it was never made, and its money is free again.
            code: why it failed where it was never made.
        """
        row = self.row
        state, refusal = ("refused", code) if refund is None else ("done", None)
        async with self.database.tenant(row["tenant_id"], row["mode"]) as tx:
            if not await store_requests.end_lost(tx, row["request_id"], state, refusal):
                return
            if refund is not None:
                await self._take_refund(tx, refund)
            else:
                await store_requests.answer_refund(
                    tx, row["request_id"], status="failed", stripe_refund_id=None, failure=code
                )

    async def _take_intent(self, tx: Tx, intent: Json) -> None:
        row = self.row
        payment = await store_requests.lock_payment(tx, row["payment_id"])
        assert payment is not None, "a request refers to a payment of its tenant"
        owner = Owner(row["tenant_id"], payment["customer_id"])
        await store_objects.claim(tx, row["account"], intent["id"], owner.customer_id)
        await record_intent(
            tx,
            row["account"],
            intent,
            owner,
            payment["customer_id"],
            invoice_id=None,
            effective_at=self.at,
        )

    async def _take_refund(self, tx: Tx, refund: Json) -> None:
        row = self.row
        await store_requests.answer_refund(
            tx,
            row["request_id"],
            # Stripe's API allows null here.
            status=refund.get("status") or "pending",
            stripe_refund_id=refund["id"],
            failure=refund.get("failure_reason"),
        )
        params = row["request"].get("params") or refund
        named = [(kind, id_of(params.get(kind))) for kind in ("payment_intent", "charge")]
        subject = next(((kind, each) for kind, each in named if each is not None), None)
        dirty = [("refund", refund["id"]), *([subject] if subject else [])]
        await store_marks.mark(tx, row["account"], dirty)
