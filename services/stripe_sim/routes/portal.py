"""The portal page, payment links, and the PDF of an invoice."""

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from services.stripe_sim import money, payment_links, portal
from services.stripe_sim.errors import ApiError
from services.stripe_sim.pdf import page_of
from services.stripe_sim.routes.pages import HEADERS, Pages
from services.stripe_sim.sandbox import Sandbox, Scope
from services.stripe_sim.store import Obj


class PortalPages:
    """What a returning customer sees."""

    def __init__(self, sandbox: Sandbox, pages: Pages) -> None:
        self.sandbox = sandbox
        self.pages = pages

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/portal/{session}", self.portal, methods=["GET", "POST"]),
            Route("/pay/{link}", self.follow_link, methods=["GET"]),
            Route("/invoices/{account}/{invoice}/pdf", self.pdf, methods=["GET"]),
        ]

    async def portal(self, request: Request) -> Response:
        """Show the portal, and do what the customer asks for."""
        found = self.sandbox.find_anywhere(portal.SESSION, request.path_params["session"])
        if found is None:
            return self.pages.missing()
        scope, session = found
        if portal.expired(scope, session):
            return self.pages.show(
                "message.html", 410, title="Billing", text="This page has expired."
            )
        if request.method == "GET":
            return self._show(scope, session)
        form = {name: str(value) for name, value in (await request.form()).items()}
        try:
            portal.act(scope, session, form.get("action", ""), form)
        except ApiError as error:
            self.sandbox.store.rollback()
            return self._show(scope, scope.get(portal.SESSION, session["id"]), error.message)
        self.sandbox.store.commit()
        return RedirectResponse(request.url.path, 303, HEADERS)

    def _show(self, scope: Scope, session: Obj, error: str | None = None) -> Response:
        return self.pages.show(
            "portal.html",
            402 if error else 200,
            error=error,
            day=lambda seconds: datetime.fromtimestamp(seconds, UTC).strftime("%d %B %Y"),
            **portal.describe(scope, session),
        )

    async def follow_link(self, request: Request) -> Response:
        """Open a checkout session for whoever follows a payment link."""
        found = self.sandbox.find_anywhere("payment_link", request.path_params["link"])
        if found is None:
            return self.pages.missing()
        scope, link = found
        try:
            session = payment_links.open_session(scope, link)
        except ApiError as error:
            self.sandbox.store.commit()
            return self.pages.show("message.html", 410, title="Payment", text=error.message)
        self.sandbox.store.commit()
        return RedirectResponse(f"/checkout/{session['id']}", 303, HEADERS)

    async def pdf(self, request: Request) -> Response:
        """Return an invoice as a one-page PDF."""
        scope = self.sandbox.scope(request.path_params["account"])
        invoice = scope.find("invoice", request.path_params["invoice"])
        if invoice is None or invoice["status"] == "draft":
            return self.pages.missing()
        currency = invoice["currency"]
        lines = [
            f"Invoice {invoice['number']}",
            scope.own_account["settings"]["dashboard"]["display_name"],
            "",
            *(
                f"{line['description'] or 'Item'}   {money.shown(line['amount'], currency)}"
                for line in invoice["lines"]["data"][:40]
            ),
            "",
            f"Total   {money.shown(invoice['total'], currency)}",
            f"Status   {invoice['status']}",
            "Stripe sandbox: not a real invoice.",
        ]
        return Response(page_of(lines), 200, HEADERS, "application/pdf")
