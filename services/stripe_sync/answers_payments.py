"""Answers to requests that move money: the payment as it stands, or why it was refused."""

import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.db.pool import Database, Row
from libs.directory.local import business_now
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.web.auth import OPERATOR, Access
from libs.web.idempotency import idempotency_key, remember, request_hash, reserve, without
from libs.web.problems import (
    Conflict,
    NotFound,
    PaymentDeclined,
    Problem,
    problem_responses,
)
from services.stripe_sync import intents, requests, store_links, store_payments
from services.stripe_sync.answers import cut_off, till_at
from services.stripe_sync.bodies_money import PERSONAL, payment_body
from services.stripe_sync.budget import user_facing
from services.stripe_sync.client import (
    Json,
    StripeApi,
    StripeCallError,
    StripeStoppedError,
    StripeTransientError,
)
from services.stripe_sync.requests import DeclinedError, Errand, RefusedError
from services.stripe_sync.store_requests import OUTCOME_UNKNOWN


def may_answer_later(
    model: type[BaseModel], *problems: type[Problem]
) -> dict[int | str, dict[str, Any]]:
    """What such a route may answer besides success, 202 among it."""
    later = {"model": model, "description": "Stripe has not answered yet."}
    return {202: later, **problem_responses(*problems)}


UNANSWERED: Json = {}
"""In place of an object: nobody knows yet."""


async def answer_intent(
    request: Request,
    access: Access,
    body: BaseModel,
    enter: Callable[[], Awaitable[Row]],
    *,
    status: int,
) -> JSONResponse:
    """Enter a request, make its call and show the payment; once per `Idempotency-Key`.

    Raises:
        PaymentDeclined, Conflict, StripeNotConnected, Unavailable: the payment says what became of it.
    """
    database: Database = request.app.state.database
    key, digest = idempotency_key(request), request_hash(request, body)
    with user_facing():
        if key is not None:
            async with database.tenant(access.tenant_id, access.mode) as tx:
                stored = await reserve(tx, access, key, digest)
            if stored is not None:
                return await _replayed(request, access, stored)
        row: Row = await enter()
        till = await till_at(request, access, row["account"])
        at = business_now(access.tenant, access.mode)
        intent = await run(Errand(database, till.api, row, at))
        payment = await find_own(database, access, row["payment_id"])
        answered = intent is not UNANSWERED
        secret = await _secret(till.api, payment, intent) if answered else None
    shown = payment_body(payment).model_dump(mode="json")
    if answered and key is not None:
        async with database.tenant(access.tenant_id, access.mode) as tx:
            await remember(tx, access, key, status, without(shown, PERSONAL))
    return JSONResponse(shown | {"client_secret": secret}, status if answered else 202)


async def run(errand: Errand) -> Json | None:
    """Make the call of a request: Stripe's object, None where it had been made, or `UNANSWERED`.

    Raises:
        PaymentDeclined, Conflict, StripeNotConnected, Unavailable: it was refused.
    """
    payment = public_id("payment", errand.row["payment_id"])
    account: str = errand.row["account"]
    try:
        return await errand.run()
    except StripeTransientError:
        return UNANSWERED
    except StripeStoppedError:
        raise cut_off(account, payment) from None
    except DeclinedError as declined:
        extra = {"payment": payment, "failure_code": declined.code}
        raise PaymentDeclined(extra=extra) from None
    except RefusedError as refused:
        if refused.code == requests.NOT_CONNECTED:
            raise cut_off(account, payment) from None
        if refused.code == OUTCOME_UNKNOWN:
            raise Conflict(
                "This was sent to Stripe, which could not be asked what came of it for a day. Look in "
                "Stripe's dashboard before you ask anew.",
                code="stripe_refused",
                extra={"payment": payment, "stripe_code": refused.code},
            ) from None
        raise Conflict(
            "Stripe refused this; `stripe_code` is its reason. Read the payment, and ask anew with "
            "what is wrong put right.",
            code="stripe_refused",
            extra={"payment": payment, "stripe_code": refused.code},
        ) from None


async def _secret(api: StripeApi, payment: Row, intent: Json | None) -> str | None:
    """From the answer itself, else read afresh; null where it cannot be read right now."""
    if intent:
        secret: str | None = intent.get("client_secret")
        return secret
    if payment["stripe_payment_intent_id"] is None:
        return None
    try:
        return await intents.client_secret(api, payment["stripe_payment_intent_id"])
    except StripeCallError:
        return None


async def _replayed(request: Request, access: Access, stored: JSONResponse) -> JSONResponse:
    """The answer that was kept, with the secret that was not, and what is known of the payer now."""
    database: Database = request.app.state.database
    shown, payment = await with_payer(database, access, stored)
    try:
        till = await till_at(request, access, payment["account"])
        secret = await _secret(till.api, payment, None)
    except Conflict:
        secret = None
    headers = {"Idempotent-Replayed": "true"}
    return JSONResponse(shown | {"client_secret": secret}, stored.status_code, headers)


async def with_payer(database: Database, access: Access, stored: JSONResponse) -> tuple[Json, Row]:
    """A kept answer, with what the payment says of the payer by now; and the payment."""
    kept: Json = json.loads(bytes(stored.body))
    payment = await find_own(database, access, payment_id_or_404(kept["id"]))
    return kept | payment_body(payment).model_dump(mode="json", include=set(PERSONAL)), payment


def payment_id_or_404(text: str) -> UUID:
    """The UUID of a payment's id.

    Raises:
        NotFound: it is no id of a payment.
    """
    try:
        return parse_public_id("payment", text)
    except InvalidIdError:
        raise NotFound from None


async def require_payee(request: Request, access: Access, payment: Row) -> None:
    """Let only whoever was paid dispose of the money: of what the platform was paid, its staff.

    Raises:
        Forbidden: the tenant is the payer.
    """
    itself = access.tenant.snapshot.self_customer_id
    paid_to_platform = payment["account"] == PLATFORM_ACCOUNT and payment["customer_id"] == itself
    if access.caller.operator or not paid_to_platform:
        return
    if payment["stripe_payment_link_id"] is not None:
        database: Database = request.app.state.database
        async with database.tenant(access.tenant_id, access.mode) as tx:
            if await store_links.sells_for_tenant(tx, payment["stripe_payment_link_id"], itself):
                return
    sentence = "This was paid to the platform: only the platform's staff disposes of it."
    await request.app.state.gate.refuse(request, access, OPERATOR, sentence)


async def find_own(database: Database, access: Access, payment_id: UUID) -> Row:
    """A payment of the tenant of the request.

    Raises:
        NotFound: there is none.
    """
    async with database.tenant(access.tenant_id, access.mode) as tx:
        row = await store_payments.find_payment(tx, access.mode, payment_id)
    if row is None:
        raise NotFound
    return row
