"""Routes that Stripe knocks at."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import get_args

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from libs.crypto.errors import MasterKeyUnavailableError, SecretStoreUnavailableError
from libs.observability.metrics import WEBHOOKS_RECEIVED_TOTAL
from libs.web.plain import PlainRoute, read_body
from libs.web.problems import (
    InvalidRequest,
    RateLimited,
    RouteNotFound,
    Unavailable,
    problem_responses,
)
from services.gateway import intake
from services.gateway.endpoints import TenantEndpoint, find_endpoint
from services.gateway.keeping import Outcome
from services.gateway.spool import Spool, SpoolFullError
from services.gateway.stripe_event import NotAnEventError

router = APIRouter(route_class=PlainRoute)

SIGNATURE_HEADER = b"stripe-signature"
KEPT_HEADERS = {name.encode(): name for name in ("content-type", "stripe-signature", "user-agent")}
HEADER_LENGTH_MAX = 4096

REFUSAL_SECONDS = 0.05
"""A refusal at a tenant's URL takes this long, whatever was known: time tells a stranger nothing."""

FULL_RETRY_SECONDS = 60

BYTES_OF_A_TOKEN = 16 * 1024
"""At a tenant's URL a webhook counts once for each of these: nearly all of Stripe's are smaller."""


class WebhookReceipt(BaseModel):
    """Stripe reads only the status; people read this."""

    status: str = Field(description="`stored`, `duplicate` or `quarantined`.")


RECEIPTS = {
    outcome: Response(
        WebhookReceipt(status=outcome).model_dump_json(), media_type="application/json"
    )
    for outcome in get_args(Outcome)
}
RECEIVED = {
    outcome: WEBHOOKS_RECEIVED_TOTAL.labels(outcome=outcome)
    for outcome in (*get_args(Outcome), "limited", "refused", "unavailable")
}


@router.post(
    "/api/webhooks/stripe",
    response_model=WebhookReceipt,
    responses=problem_responses(InvalidRequest, RouteNotFound, Unavailable),
    openapi_extra={"requestBody": {"content": {"application/json": {}}, "required": True}},
)
async def receive_stripe_webhook(request: Request) -> Response:
    """Take a webhook of Stripe; 2xx means it is durable."""
    return await _receive_for_platform(request)


@router.post(
    "/api/v1/billing/webhook",
    response_model=WebhookReceipt,
    responses=problem_responses(InvalidRequest, RouteNotFound, Unavailable),
    openapi_extra={"requestBody": {"content": {"application/json": {}}, "required": True}},
)
async def receive_billing_webhook(request: Request) -> Response:
    """Take a webhook of Stripe: another address of the same."""
    return await _receive_for_platform(request)


@router.post(
    "/api/webhooks/stripe/{token}",
    response_model=WebhookReceipt,
    responses=problem_responses(InvalidRequest, RateLimited, Unavailable),
    openapi_extra={"requestBody": {"content": {"application/json": {}}, "required": True}},
)
async def receive_tenant_webhook(request: Request, token: str) -> Response:
    """Take a webhook of a tenant's own Stripe account; an unknown token is a wrong signature."""
    state = request.app.state

    async def take(webhook: intake.Webhook) -> Outcome:
        started = time.monotonic()
        cost = 1 + len(webhook.body) // BYTES_OF_A_TOKEN

        def admit(endpoint: TenantEndpoint) -> None:
            state.spool.require_share(endpoint.tenant_id)
            state.tenant_rates.check(f"{endpoint.mode}:{endpoint.tenant_id}", cost=cost)

        try:
            endpoint = await find_endpoint(token, state.directory, state.secrets)
            return await intake.take_for_tenant(webhook, endpoint, state.arrivals, admit)
        except intake.SignatureRefusedError:
            await asyncio.sleep(started + REFUSAL_SECONDS - time.monotonic())
            raise
        except (MasterKeyUnavailableError, SecretStoreUnavailableError):
            raise Unavailable("The endpoint's secret cannot be read right now.") from None

    return await _receive(request, take)


async def _receive_for_platform(request: Request) -> Response:
    state = request.app.state

    async def take(webhook: intake.Webhook) -> Outcome:
        return await intake.take(webhook, state.endpoint_secrets, state.arrivals, state.directory)

    return await _receive(request, take)


async def _receive(
    request: Request, take: Callable[[intake.Webhook], Awaitable[Outcome]]
) -> Response:
    """Read a webhook, take it in, and put into words why it was not."""
    spool: Spool = request.app.state.spool
    try:
        spool.require_room()
        body = await read_body(request.receive)
        outcome = await take(_webhook(body, request.scope["headers"]))
    except SpoolFullError:
        RECEIVED["unavailable"].inc()
        raise Unavailable(
            "Too many events wait to be passed on. Send this one again later.",
            code="spool_full",
            retry_after_seconds=FULL_RETRY_SECONDS,
        ) from None
    except RateLimited:
        RECEIVED["limited"].inc()
        raise
    except intake.EndpointClosedError:
        raise RouteNotFound from None
    except intake.OtherAccountError:
        RECEIVED["refused"].inc()
        raise InvalidRequest(
            "The event names another Stripe account than the one this address belongs to.",
            code="account_mismatch",
        ) from None
    except intake.SignatureRefusedError:
        RECEIVED["refused"].inc()
        raise InvalidRequest(
            "The signature in `Stripe-Signature` is missing, wrong or not of the last five "
            "minutes. Check the endpoint's signing secret and the clock.",
            code="signature_invalid",
        ) from None
    except NotAnEventError as error:
        RECEIVED["refused"].inc()
        raise InvalidRequest(
            f"The body is signed but is not a Stripe event: {error}.", code="not_an_event"
        ) from None
    RECEIVED[outcome].inc()
    return RECEIPTS[outcome]


def _webhook(body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> intake.Webhook:
    """The webhook with the headers worth keeping, of each the first.

    One `Stripe-Signature` is a signature; two of them are as good as none.
    """
    kept: dict[str, str] = {}
    signatures = []
    for name, value in headers:
        if name in KEPT_HEADERS:
            kept.setdefault(KEPT_HEADERS[name], _printable(value[:HEADER_LENGTH_MAX]))
        if name == SIGNATURE_HEADER:
            signatures.append(value)
    return intake.Webhook(body, signatures[0] if len(signatures) == 1 else None, kept)


def _printable(value: bytes) -> str:
    """A header is bytes, so what is not ASCII is escaped."""
    text = value.decode("latin-1")
    return text if text.isascii() else text.encode("ascii", "backslashreplace").decode()
