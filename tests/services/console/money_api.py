"""The part of the public API that the pages of payments and webhooks use, in the small program's place."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from tests.services.console.settings_bodies import BEGIN, FAR, HOSTILE, LATER

ACME = "0192f0c1-0000-7000-8000-000000000001"
PAYMENT = "pay_0192f0c1-0000-7000-8000-0000000000f1"
EVENT = "whe_0192f0c1-0000-7000-8000-0000000000f2"
REPLAY = "rpl_0192f0c1-0000-7000-8000-0000000000f3"


def amount(minor: int) -> dict[str, Any]:
    """So much, in euros."""
    return {"amount_minor": minor, "currency": "EUR"}


def payment(**changes: Any) -> dict[str, Any]:
    """A payment that was made, and partly given back."""
    return {
        "id": PAYMENT,
        "tenant_id": ACME,
        "customer_id": "cus_1",
        "mode": "test",
        "status": "PARTIALLY_REFUNDED",
        "amount": amount(12_000),
        "refunded": amount(2_000),
        "collected_by": "tenant",
        "disputed": False,
        "description": f"Ticket {HOSTILE}",
        "confirmation_url": None,
        "stripe_account": "acct_sim_9",
        "stripe_charge_id": "ch_sim_1",
        "stripe_payment_intent_id": "pi_sim_1",
        "stripe_invoice_id": None,
        "stripe_payment_link_id": "plink_sim_1",
        "failure_code": None,
        "receipt_number": "1234-5678",
        "receipt_url": "https://pay.stripe.com/receipts/1",
        "receipt_email": "payer@acme.example",
        "created_at": BEGIN,
        "paid_at": BEGIN,
    } | changes


REFUND = {
    "id": "rfd_1",
    "payment_id": PAYMENT,
    "status": "failed",
    "amount": amount(500),
    "reason": "requested_by_customer",
    "failure_reason": "expired_or_canceled_card",
    "created_at": LATER,
}


def payout(**changes: Any) -> dict[str, Any]:
    """A payout that did not reach the bank."""
    return {
        "id": "po_1",
        "tenant_id": ACME,
        "status": "failed",
        "amount": amount(9_000),
        "arrival_on": "2026-03-03",
        "automatic": True,
        "stripe_account": "acct_sim_9",
        "stripe_payout_id": "po_sim_1",
        "failure_code": "account_closed",
        "failure_message": "The bank account has been closed.",
        "created_at": LATER,
    } | changes


DISPUTE = {
    "id": "dsp_1",
    "tenant_id": ACME,
    "payment_id": PAYMENT,
    "status": "needs_response",
    "amount": amount(12_000),
    "reason": "product_not_received",
    "evidence_due_at": FAR,
    "stripe_account": "acct_sim_9",
    "stripe_dispute_id": "du_sim_1",
    "created_at": LATER,
}


def event(**changes: Any) -> dict[str, Any]:
    """An event whose tenant was found by its account."""
    return {
        "id": EVENT,
        "tenant_id": ACME,
        "mode": "test",
        "account": "acct_sim_9",
        "stripe_event_id": "evt_sim_1",
        "type": "invoice.paid",
        "api_version": "2026-10-28.endive",
        "object_type": "invoice",
        "object_id": "in_sim_1",
        "assignment": "account",
        "quarantine_reason": None,
        "bytes": 1_234,
        "created_at": BEGIN,
        "received_at": LATER,
    } | changes


BODY = {"payload": {"id": "evt_sim_1", "note": HOSTILE}, "headers": {"user-agent": "Stripe/1.0"}}


def replay(**changes: Any) -> dict[str, Any]:
    """A dry run that has ended."""
    return {
        "id": REPLAY,
        "tenant_id": ACME,
        "mode": "test",
        "state": "done",
        "dry_run": True,
        "matched": 3,
        "counted": True,
        "replayed": 3,
        "ids": None,
        "type": "invoice.paid",
        "object_id": None,
        "received_from": BEGIN,
        "received_to": None,
        "started_by": "usr_1",
        "started_at": LATER,
        "finished_at": LATER,
    } | changes


DIFFERENCE = {
    "object_type": "invoice",
    "object_id": "in_sim_1",
    "state": "different",
    "changes": {"status": {"before": "open", "after": "paid"}},
    "error": None,
}
UNREAD = DIFFERENCE | {
    "object_id": "in_sim_2",
    "state": "failed",
    "changes": {},
    "error": "rate_limited",
}


class MoneyApi:
    """What it was told, and what it answers."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, Any, dict[str, str]]] = []
        self.payment = payment()
        self.event = event()
        self.replay = replay()
        self.released = {"outcome": "stored", "tenant_id": ACME, "account": "acct_sim_9"}
        self.payouts = [payout(), payout(id="po_2", status="paid", failure_code=None)]
        self.compared = True
        self.pending = 0
        self.empty = False

    def last(self) -> tuple[str, str, Any]:
        """The last call that was noted."""
        method, path, body, _ = self.told[-1]
        return method, path, body

    async def _note(self, request: Request) -> Any:
        raw = await request.body()
        body = await request.json() if raw else None
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        self.told.append((request.method, path, body, dict(request.headers)))
        return body

    def _listed(self, *items: dict[str, Any]) -> JSONResponse:
        shown = [] if self.empty else list(items)
        return JSONResponse({"items": shown, "next_cursor": None if self.empty else "further"})

    def add_to(self, app: FastAPI) -> None:
        """Answer on `app`."""
        self._payments(app)
        self._events(app)
        self._replays(app)

    def _payments(self, app: FastAPI) -> None:
        @app.get("/api/v1/payments")
        async def payments() -> JSONResponse:
            return self._listed(self.payment)

        @app.get("/api/v1/payments/{payment_id}")
        async def one(payment_id: str) -> JSONResponse:
            if payment_id != PAYMENT:
                return _absent()
            return JSONResponse(self.payment)

        @app.get("/api/v1/refunds")
        async def refunds() -> JSONResponse:
            return self._listed(REFUND)

        @app.post("/api/v1/refunds")
        async def refund(request: Request) -> JSONResponse:
            await self._note(request)
            return JSONResponse(REFUND, 201)

        @app.get("/api/v1/payouts")
        async def payouts(request: Request) -> JSONResponse:
            await self._note(request)
            return self._listed(*self.payouts)

        @app.get("/api/v1/disputes")
        async def disputes() -> JSONResponse:
            return self._listed(DISPUTE)

    def _events(self, app: FastAPI) -> None:
        @app.get("/api/v1/webhook-events")
        async def events(request: Request) -> JSONResponse:
            await self._note(request)
            return self._listed(self.event)

        @app.get("/api/v1/webhook-events/{event_id}")
        async def one(event_id: str) -> JSONResponse:
            return JSONResponse(self.event | BODY) if event_id == EVENT else _absent()

        @app.post(f"/api/v1/webhook-events/{EVENT}/assign")
        async def assign(request: Request) -> JSONResponse:
            await self._note(request)
            return JSONResponse(self.event)

        @app.post(f"/api/v1/webhook-events/{EVENT}/release")
        async def release(request: Request) -> JSONResponse:
            body = await self._note(request)
            dry_run = body.get("dry_run", False)
            return JSONResponse(self.released | {"mode": "test", "dry_run": dry_run})

    def _replays(self, app: FastAPI) -> None:
        @app.post("/api/v1/webhook-events/replay")
        async def start(request: Request) -> JSONResponse:
            body = await self._note(request)
            return JSONResponse(self.replay | {"dry_run": body["dry_run"]}, 202)

        @app.get("/api/v1/webhook-replays")
        async def runs() -> JSONResponse:
            return self._listed(self.replay)

        @app.get(f"/api/v1/webhook-replays/{REPLAY}")
        async def run() -> JSONResponse:
            return JSONResponse(self.replay)

        @app.post(f"/api/v1/webhook-replays/{REPLAY}/cancel")
        async def cancel(request: Request) -> JSONResponse:
            await self._note(request)
            return JSONResponse(self.replay, 202)

        @app.get(f"/api/v1/webhook-replays/{REPLAY}/differences")
        async def differences() -> JSONResponse:
            if not self.compared:
                return _absent()
            body = {"items": [DIFFERENCE, UNREAD], "next_cursor": None, "failed": 1}
            return JSONResponse(body | {"checked": 3, "different": 1, "pending": self.pending})


def _absent() -> JSONResponse:
    body = {"title": "Not found", "status": 404, "code": "not_found", "detail": "No such object."}
    return JSONResponse(body, 404, media_type="application/problem+json")
