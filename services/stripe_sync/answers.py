"""What the routes that deal with Stripe share: fields of bodies, who pays where, and refusals."""

import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

from fastapi import Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from libs.contracts.stripe_sync import OUTSIDE, PLATFORM_ACCOUNT
from libs.ids import InvalidIdError, parse_public_id
from libs.money import Currency, Money
from libs.web.auth import Access
from libs.web.connections import StripeNotConnected
from libs.web.idempotency import idempotency_key, request_hash
from libs.web.problems import Conflict, NotFound, Problem, Unavailable
from services.stripe_sync import payers
from services.stripe_sync.client import (
    StripeAccessError,
    StripeCallError,
    StripeRefusedError,
    StripeStoppedError,
)
from services.stripe_sync.marks import ID
from services.stripe_sync.payers import Asker, Payer, Till

AMOUNT_MINOR_MAX = 10**12

WebAddress = Annotated[
    str,
    Field(max_length=2000, pattern=r"^https?://[^\s\x00-\x1f\\<>\"@]+$", examples=["https://…"]),
]
Email = Annotated[
    str, Field(max_length=320, pattern=r"^[^@\s\x00-\x1f,;<>]+@[^@\s\x00-\x1f,;<>]+$")
]
CustomerId = Annotated[
    str,
    Field(
        max_length=100,
        pattern=r"^[^\x00]*$",
        description="`cus_…`: one of the tenant's own customers; without it the tenant itself.",
    ),
]
TenantReference = Annotated[
    str,
    Field(
        max_length=100,
        pattern=r"^[^\x00]*$",
        description="Id or slug of the tenant; instead of `X-Tenant-ID`.",
    ),
]


def _is_id(text: str) -> str:
    if ID.fullmatch(text) is None:
        raise ValueError("not an id of Stripe's")
    return text


StripeId = Annotated[str, Field(max_length=255), AfterValidator(_is_id)]
Line = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=250, pattern=r"^[^\x00-\x1f\x7f]*$"
    ),
]


class AmountBody(BaseModel):
    """Money: whole minor units, above zero."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    amount_minor: Annotated[int, Field(strict=True, gt=0, le=AMOUNT_MINOR_MAX)]
    currency: Currency

    @property
    def money(self) -> Money:
        """The same as an amount to reckon with."""
        return Money(self.amount_minor, self.currency)


def asker_of(request: Request, access: Access, body: BaseModel) -> Asker:
    """Who asks, with the key under which exactly the same may be asked again."""
    key = idempotency_key(request)
    if key is not None:
        key = hashlib.sha256(key.encode() + request_hash(request, body)).hexdigest()
    return Asker(access.tenant, access.mode, access.caller.actor, key)


async def payer_of(request: Request, access: Access, customer: str | None) -> Payer:
    """Who pays: the customer named, or the tenant itself.

    Raises:
        NotFound: the tenant has no such customer.
    """
    state = request.app.state
    try:
        customer_id = parse_public_id("customer", customer) if customer else None
        return await payers.find_payer(
            state.database, state.personal_keys, access.tenant, access.mode, customer_id
        )
    except (InvalidIdError, payers.PayerUnknownError):
        raise NotFound(
            "There is no such customer. Enter it with `POST /api/v1/customers`, or leave "
            "`customer` out to mean the tenant itself."
        ) from None


async def till_for(request: Request, access: Access, *, of_tenant: bool) -> Till:
    """The account that is paid into: the tenant's own, or the platform's.

    Raises:
        StripeNotConnected: the tenant needs one of its own first (requirement S3).
        Conflict: the platform has no key of this mode.
    """
    state = request.app.state
    try:
        return await payers.open_till(
            state.identities, access.tenant, access.mode, state.settings, of_tenant=of_tenant
        )
    except payers.NoPlatformKeyError:
        raise not_configured(access) from None


async def till_at(request: Request, access: Access, account: str) -> Till:
    """The account in which something stands already; raises as `till_for`."""
    if account == OUTSIDE:
        raise Conflict(
            "This money never touched Stripe: whoever received it gives it back, and receipts for it.",
            code="paid_outside",
        )
    identities = request.app.state.identities
    try:
        return await payers.till_of(identities, access.tenant, access.mode, account)
    except payers.NoPlatformKeyError:
        raise not_configured(access) from None


def not_configured(access: Access) -> Conflict:
    """There is no key of the platform in the caller's mode."""
    return Conflict(
        f"No Stripe key for mode {access.mode} is configured. Set STRIPE_SECRET_KEY.",
        code="stripe_not_configured",
    )


def cut_off(account: str, payment: str | None = None) -> Problem:
    """Stripe does not let us act for an account any more; `payment` was not made."""
    if account == PLATFORM_ACCOUNT:
        return Unavailable(
            "Stripe refuses the platform's key, and nothing was done. Tell the staff."
        )
    return StripeNotConnected(
        "Stripe does not let us act for this account any more, and nothing was done. Connect it again "
        "at /settings/stripe in the console, then ask anew.",
        payment=payment,
    )


@contextmanager
def telling_refusals(what: str, account: str) -> Generator[None, None, None]:
    """Turn what Stripe says to a call without lasting effect into a problem.

    Args:
        what: to do, e.g. `open the page`.
        account: that was called.

    Raises:
        StripeNotConnected: the account cannot be called any more.
        Conflict: Stripe refused.
        Unavailable: Stripe did not answer; the same request may be sent again.
    """
    try:
        yield
    except StripeStoppedError:
        raise cut_off(account) from None
    except (StripeRefusedError, StripeAccessError) as error:
        raise Conflict(
            f"Stripe refused to {what}; `stripe_code` is its reason. Check what was sent and the "
            "account's settings in Stripe's dashboard.",
            code="stripe_refused",
            extra={"stripe_code": error.code},
        ) from None
    except StripeCallError:
        raise Unavailable(
            "Stripe does not answer right now. Try again with the same `Idempotency-Key`."
        ) from None
