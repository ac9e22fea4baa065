"""The hosted pages: checkout, the bank's challenge, an invoice, a receipt."""

import asyncio
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from services.stripe_sim import (
    checkout,
    checkout_payment,
    collection,
    money,
    payment_intents,
    payment_methods,
    setup_intents,
)
from services.stripe_sim.errors import ApiError
from services.stripe_sim.sandbox import Sandbox, Scope
from services.stripe_sim.store import Obj

ACKNOWLEDGED_SECONDS_MAX = 3.0
"""How long the checkout page waits for the webhook of its completion before it redirects."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


class Pages:
    """What a payer sees."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        folder = Path(__file__).parent.parent / "templates"
        self._templates = Environment(
            loader=FileSystemLoader(folder), autoescape=select_autoescape(default=True)
        )

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/checkout/{session}", self.checkout, methods=["GET", "POST"]),
            Route("/authenticate/{account}/{intent}", self.authenticate, methods=["GET", "POST"]),
            Route("/invoices/{account}/{invoice}", self.invoice, methods=["GET", "POST"]),
            Route("/receipts/{account}/{charge}", self.receipt, methods=["GET"]),
        ]

    def show(self, template: str, status: int = 200, **values: Any) -> Response:
        """Render a page."""
        text = self._templates.get_template(template).render(**values)
        return HTMLResponse(text, status, HEADERS)

    def missing(self) -> Response:
        """Say that there is nothing here."""
        return self.show("message.html", 404, title="Not found", text="There is no such page.")

    async def checkout(self, request: Request) -> Response:
        """Show a checkout session, and take its payment."""
        found = self.sandbox.find_anywhere(checkout.KIND, request.path_params["session"])
        if found is None:
            return self.missing()
        scope, session = found
        if session["status"] != "open":
            return self._finished(session)
        if request.method == "GET":
            return self._checkout_page(scope, session)
        form = await request.form()
        try:
            if "challenge" in form:
                checkout_payment.pay(
                    scope, session, None, authenticated=form["challenge"] == "complete"
                )
            else:
                checkout_payment.pay(
                    scope,
                    session,
                    str(form.get("card_number") or "") or None,
                    iban=str(form.get("iban") or "") or None,
                    email=str(form.get("email") or "") or None,
                    name=str(form.get("name") or "") or None,
                )
        except ApiError as error:
            self.sandbox.store.rollback()
            return self._checkout_page(scope, session, error)
        self.sandbox.store.commit()
        if session["status"] == "open":
            return self.show(
                "challenge.html",
                amount=checkout.describe(scope, session)["total"],
                action=f"/checkout/{session['id']}",
            )
        await self._acknowledged(scope, session)
        return self._finished(session)

    def _checkout_page(self, scope: Scope, session: Obj, error: ApiError | None = None) -> Response:
        return self.show(
            "checkout.html",
            402 if error else 200,
            error=error.message if error else None,
            **checkout.describe(scope, scope.get(checkout.KIND, session["id"])),
        )

    def _finished(self, session: Obj) -> Response:
        url = checkout.success_url(session)
        if session["status"] == "complete" and url:
            return RedirectResponse(url, 303, HEADERS)
        text = "Thank you." if session["status"] == "complete" else "This page has expired."
        return self.show("message.html", title="Checkout", text=text)

    async def _acknowledged(self, scope: Scope, session: Obj) -> None:
        """Wait a little for the webhook to be accepted, as Stripe's page does."""
        events = [
            event
            for event in scope.all("event", type="checkout.session.completed")[-20:]
            if f'"{session["id"]}"' in event["_sim"]["data"]
        ]
        for _ in range(int(ACKNOWLEDGED_SECONDS_MAX / 0.05)):
            if all(event["pending_webhooks"] == 0 for event in events):
                return
            await asyncio.sleep(0.05)

    async def authenticate(self, request: Request) -> Response:
        """Show the bank's challenge of a payment, and take the payer's answer."""
        scope = self.sandbox.scope(request.path_params["account"])
        intent_id = request.path_params["intent"]
        kind = "setup_intent" if intent_id.startswith("seti_") else "payment_intent"
        intent = scope.find(kind, intent_id)
        if intent is None:
            return self.missing()
        amount = (
            money.shown(intent["amount"], intent["currency"])
            if kind == "payment_intent"
            else "Save this card"
        )
        if intent["status"] != "requires_action":
            return self._answered(intent)
        if request.method == "GET":
            return self.show("challenge.html", amount=amount, action=request.url.path)
        form = await request.form()
        answer_challenge(scope, intent, passed=form.get("challenge") == "complete")
        self.sandbox.store.commit()
        return self._answered(intent)

    def _answered(self, intent: Obj) -> Response:
        if intent["_sim"]["return_url"]:
            url = intent["_sim"]["return_url"]
            mark = "&" if "?" in url else "?"
            return RedirectResponse(
                f"{url}{mark}{intent['object']}={intent['id']}&redirect_status={intent['status']}",
                303,
                HEADERS,
            )
        paid = intent["status"] in ("succeeded", "requires_capture", "processing")
        text = "The payment was confirmed." if paid else "The payment was not confirmed."
        return self.show("message.html", title="Payment", text=text)

    async def invoice(self, request: Request) -> Response:
        """Show a hosted invoice, and take its payment."""
        scope = self.sandbox.scope(request.path_params["account"])
        invoice = scope.find("invoice", request.path_params["invoice"])
        if invoice is None or invoice["status"] == "draft":
            return self.missing()
        error = None
        if request.method == "POST" and invoice["status"] == "open":
            form = await request.form()
            error = self._pay_invoice(scope, invoice, str(form.get("card_number", "")))
            intent = payment_intent_of(scope, invoice)
            if error is None and intent and intent["status"] == "requires_action":
                return RedirectResponse(
                    intent["next_action"]["redirect_to_url"]["url"], 303, HEADERS
                )
        return self.show(
            "invoice.html",
            402 if error else 200,
            invoice=invoice,
            account=scope.own_account["settings"]["dashboard"]["display_name"],
            shown=lambda amount: money.shown(amount, invoice["currency"]),
            error=error,
        )

    def _pay_invoice(self, scope: Scope, invoice: Obj, card_number: str) -> str | None:
        try:
            method = payment_methods.build(scope, {"type": "card", "card": {"number": card_number}})
        except ApiError as error:
            self.sandbox.store.rollback()
            return error.message
        decline = collection.collect(scope, invoice, method, payer_present=True, lenient=True)
        self.sandbox.store.commit()
        return decline.message if decline else None

    async def receipt(self, request: Request) -> Response:
        """Show the receipt of a charge."""
        scope = self.sandbox.scope(request.path_params["account"])
        charge = scope.find("charge", request.path_params["charge"])
        if charge is None or not charge["paid"]:
            return self.missing()
        return self.show(
            "receipt.html",
            charge=charge,
            account=scope.own_account["settings"]["dashboard"]["display_name"],
            shown=lambda amount: money.shown(amount, charge["currency"]),
        )


def payment_intent_of(scope: Scope, invoice: Obj) -> Obj | None:
    """Return the payment intent of an invoice, or None where nothing was owed."""
    return scope.find("payment_intent", invoice["_sim"].get("payment_intent"))


def answer_challenge(scope: Scope, intent: Obj, *, passed: bool) -> None:
    """Carry out the payer's answer to the bank's challenge."""
    if intent["object"] == "setup_intent":
        if passed:
            method = scope.get("payment_method", intent["payment_method"])
            setup_intents.confirm(scope, intent, method, authenticated=True)
        else:
            setup_intents.refuse(scope, intent)
        return
    if passed:
        method = scope.get("payment_method", intent["payment_method"])
        payment_intents.attempt(scope, intent, method, payer_present=True, authenticated=True)
    else:
        payment_intents.refuse_authentication(scope, intent)
    collection.after_attempt(scope, intent)
