"""/_sim: what a test or a demonstration does that no Stripe account could."""

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.stripe_sim import accounts, checkout, checkout_payment
from services.stripe_sim.errors import ApiError
from services.stripe_sim.render import render
from services.stripe_sim.sandbox import Sandbox, Scope
from services.stripe_sim.webhooks import Sender, find_endpoint

BODY_BYTES_MAX = 64 * 1024


class ControlError(Exception):
    """A control request that cannot be done; the message says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def body_of(request: Request) -> dict[str, Any]:
    """Return the JSON object of a control request; nothing at all is an empty one.

    Raises:
        ControlError: it is too long or no JSON object.
    """
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_BYTES_MAX:
            raise ControlError(413, "the body is too long")
    if not data:
        return {}
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise ControlError(400, "the body must be JSON") from None
    if not isinstance(body, dict):
        raise ControlError(400, "the body must be a JSON object")
    return body


class Control:
    """The control API. It asks for no key: it listens on loopback only."""

    def __init__(self, sandbox: Sandbox, sender: Sender) -> None:
        self.sandbox = sandbox
        self.sender = sender

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/_sim/checkout/{session}/pay", self.pay_checkout, methods=["POST"]),
            Route("/_sim/events/{event}/resend", self.resend_event, methods=["POST"]),
            Route("/_sim/faults", self.add_fault, methods=["POST"]),
            Route("/_sim/faults", self.list_faults, methods=["GET"]),
            Route("/_sim/faults", self.clear_faults, methods=["DELETE"]),
            Route("/_sim/faults/{fault}", self.clear_faults, methods=["DELETE"]),
            Route("/_sim/reset", self.reset, methods=["POST"]),
            Route("/_sim/status", self.status, methods=["GET"]),
        ]

    async def pay_checkout(self, request: Request) -> Response:
        """Pay a checkout session as its page would: `{"card": "4242…", "authenticate"?: bool}`."""
        body = await body_of(request)
        scope, session = self._session(request.path_params["session"])
        card = body.get("card")
        if not isinstance(card, str | None):
            raise ControlError(400, "card must be a card number in a string")
        authenticate = body.get("authenticate")
        try:
            checkout_payment.pay(
                scope,
                session,
                card,
                iban=text(body, "iban"),
                email=text(body, "email"),
                name=text(body, "name"),
            )
            if session["status"] == "open" and isinstance(authenticate, bool):
                checkout_payment.pay(scope, session, None, authenticated=authenticate)
        except ApiError as error:
            self.sandbox.store.rollback()
            return JSONResponse(error.body("req_sim"), error.status)
        self.sandbox.store.commit()
        return JSONResponse(
            {
                "status": session["status"] if session["status"] != "open" else "requires_action",
                "payment_status": session["payment_status"],
                "success_url": checkout.success_url(session),
                "session": render(scope, session),
            }
        )

    def _session(self, session_id: str) -> tuple[Scope, dict[str, Any]]:
        found = self.sandbox.find_anywhere(checkout.KIND, session_id)
        if found is None:
            raise ControlError(404, f"no such checkout session: {session_id}")
        return found

    async def resend_event(self, request: Request) -> Response:
        """Send an event once more to all its endpoints, or to `{"endpoint": id}`, and report."""
        body = await body_of(request)
        found = self.sandbox.find_anywhere("event", request.path_params["event"])
        if found is None:
            raise ControlError(404, f"no such event: {request.path_params['event']}")
        scope, event = found
        sent = []
        for endpoint_id, owner in event["_sim"].get("owners", {}).items():
            endpoint = find_endpoint(self.sandbox, owner, endpoint_id)
            if endpoint is not None and body.get("endpoint") in (None, endpoint_id):
                status = await self.sender.send(scope.account, event, endpoint)
                sent.append({"endpoint": endpoint_id, "status": status})
        return JSONResponse({"event": event["id"], "sent": sent})

    async def add_fault(self, request: Request) -> Response:
        """Switch a fault on."""
        try:
            fault = self.sandbox.faults.add(await body_of(request))
        except ValueError as error:
            raise ControlError(400, str(error)) from None
        return JSONResponse(fault.as_json(), 201)

    async def list_faults(self, _request: Request) -> Response:
        """List the faults that are on."""
        return JSONResponse({"items": [fault.as_json() for fault in self.sandbox.faults.all()]})

    async def clear_faults(self, request: Request) -> Response:
        """Switch one fault, or all, off."""
        number = self.sandbox.faults.clear(request.path_params.get("fault"))
        return JSONResponse({"cleared": number})

    async def reset(self, _request: Request) -> Response:
        """Delete everything but the platform's own account and keys, and switch all faults off."""
        self.sender.clear()
        self.sandbox.faults.clear()
        self.sandbox.store.wipe(keep_settings=("seed", "counter", "platform"))
        accounts.ensure_platform(self.sandbox)
        return JSONResponse({"reset": True})

    async def status(self, _request: Request) -> Response:
        """Report what waits."""
        return JSONResponse(
            {
                "platform": self.sandbox.platform,
                "client_id": self.sandbox.settings.client_id,
                "accounts": len(self.sandbox.store.accounts()),
                "webhooks_waiting": self.sender.waiting(),
                "faults": len(self.sandbox.faults.all()),
            }
        )


def text(body: dict[str, Any], name: str) -> str | None:
    """Return a string of a control request, or None where it is absent or empty.

    Raises:
        ControlError: it is no string, or too long.
    """
    value = body.get(name)
    if value is not None and (not isinstance(value, str) or len(value) > 500):
        raise ControlError(400, f"{name} must be a string of at most 500 characters")
    return value or None


async def refuse(_request: Request, error: Exception) -> Response:
    """Answer a control request that cannot be done."""
    assert isinstance(error, ControlError)
    return JSONResponse({"error": str(error)}, error.status)
