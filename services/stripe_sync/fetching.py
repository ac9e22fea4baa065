"""Fetching the latest state of an object, with what belongs to it, outside any transaction."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import structlog

from services.stripe_sync.client import (
    Json,
    StripeApi,
    StripeCallError,
    StripeMissingError,
    StripeRefusedError,
    StripeTransientError,
)
from services.stripe_sync.objects import id_of
from services.stripe_sync.objects_invoices import wants_holding
from services.stripe_sync.objects_payments import charge_of, waits_for_booking
from services.stripe_sync.payments import NO_ORIGIN, Origin

log = structlog.get_logger()

LINE_PAGES_MAX = 20
LISTED_FROM = 6
"""So many payments or more are looked up in one list."""
ORIGIN_SECONDS = 26 * 3600
"""A checkout session is open for a day before it is paid."""
ORIGIN_PAGES_MIN, ORIGINS_PER_PAGE = 3, 8
"""How far a list is read: by itself each payment would take two calls."""

PATHS = {
    "customer": "/v1/customers/",
    "product": "/v1/products/",
    "price": "/v1/prices/",
    "subscription": "/v1/subscriptions/",
    "invoice": "/v1/invoices/",
    "payment_intent": "/v1/payment_intents/",
    "charge": "/v1/charges/",
    "refund": "/v1/refunds/",
    "dispute": "/v1/disputes/",
    "payout": "/v1/payouts/",
}
"""Every type that is mirrored, besides the account itself."""
OWN_ACCOUNT = "/v1/account"
"""The account that a key, or the platform's key with `Stripe-Account`, speaks for."""

NOT_BOOKED = "its balance transaction is not there yet"


def path_of(kind: str, object_id: str) -> str:
    """Where an object is, also one whose id its user chose: that may hold whatever can be printed."""
    return PATHS[kind] + quote(object_id, safe="")


class IncompleteError(Exception):
    """Stripe has not finished with the object; the rest comes a moment later."""


class WrongAccountError(Exception):
    """The key of a connection speaks for another account than the connection says."""


@dataclass(frozen=True)
class Paid:
    """A payment of an invoice: an intent, or a charge without one.

    Attributes:
        charge_id: the latest charge.
    """

    kind: str
    payment_id: str
    charge_id: str | None


@dataclass(frozen=True)
class Fetched:
    """An object as it is now.

    Attributes:
        raw: Stripe's JSON, with what was expanded.
        payments: of an invoice: what pays it.
        incomplete: what Stripe has yet to add, if anything.
    """

    object_id: str
    raw: Json
    payments: tuple[Paid, ...] = ()
    incomplete: str | None = None


async def fetch(
    api: StripeApi, kind: str, object_id: str, *, holds: bool, attempts: int = 0
) -> Fetched | None:
    """The object now; None where Stripe has none.

    Args:
        holds: whether drafts of cycle invoices are kept from going out.
        attempts: tries so far, so that a failed hold is not answered with its failure again.

    Raises:
        StripeCallError: see its kinds.
        WrongAccountError: an account was asked for its own record, and is another.
    """
    try:
        if kind == "account":
            return await _account(api, object_id)
        if kind == "invoice":
            return await _invoice(api, object_id, attempts, holds=holds)
        if kind == "payment_intent":
            return await _intent(api, object_id)
        if kind == "charge":
            return await _charge(api, object_id)
        return Fetched(object_id, await api.get(f"{kind}.retrieve", path_of(kind, object_id)))
    except StripeMissingError:
        return None


@dataclass(frozen=True)
class Unplaced:
    """A payment of which nobody knows yet what it was made for.

    Attributes:
        customer_id: Stripe's; without a customer it pays no invoice.
        created: of its intent or charge, in Unix seconds.
    """

    intent_id: str
    customer_id: str | None
    created: int


async def find_origins(
    api: StripeApi, unplaced: Sequence[Unplaced]
) -> dict[str, Origin | StripeCallError]:
    """What payments were made for, by intent: neither the intent nor its charge says so.

    Many are looked up in one list; where that is too long, or they are few, each by itself.
    """
    found: dict[str, Origin | StripeCallError] = {}
    if len(unplaced) >= LISTED_FROM:
        try:
            found.update(await _listed_origins(api, unplaced))
        except StripeTransientError as error:
            log.info("origins_not_listed", reason=error.code)
    rest = [each for each in unplaced if each.intent_id not in found]
    answers = await asyncio.gather(*(_find_origin(api, each) for each in rest))
    return found | {each.intent_id: answer for each, answer in zip(rest, answers, strict=True)}


async def _listed_origins(api: StripeApi, unplaced: Sequence[Unplaced]) -> dict[str, Origin]:
    times = [each.created for each in unplaced]
    around = {"created": {"gte": min(times) - ORIGIN_SECONDS, "lte": max(times) + ORIGIN_SECONDS}}
    pages_max = max(ORIGIN_PAGES_MIN, len(unplaced) // ORIGINS_PER_PAGE)
    payments = await api.list_all(
        "invoice_payment.list", "/v1/invoice_payments", around, pages_max=pages_max
    )
    sessions = await api.list_all(
        "checkout_session.list", "/v1/checkout/sessions", around, pages_max=pages_max
    )
    origins = {
        id_of(each["payment_intent"]): Origin(payment_link_id=id_of(each["payment_link"]))
        for each in sessions
    }
    for each in payments:
        intent_id = id_of(each["payment"].get("payment_intent"))
        origins[intent_id] = Origin(invoice_id=id_of(each["invoice"]))
    return {each.intent_id: origins.get(each.intent_id, NO_ORIGIN) for each in unplaced}


async def _find_origin(api: StripeApi, payment: Unplaced) -> Origin | StripeCallError:
    intent_id = payment.intent_id
    try:
        if payment.customer_id is not None:
            query = {"payment": {"type": "payment_intent", "payment_intent": intent_id}, "limit": 1}
            page = await api.get("invoice_payment.list", "/v1/invoice_payments", query)
            if page["data"]:
                return Origin(invoice_id=id_of(page["data"][0]["invoice"]))
        query = {"payment_intent": intent_id, "limit": 1}
        page = await api.get("checkout_session.list", "/v1/checkout/sessions", query)
    except StripeCallError as error:
        return error
    if page["data"]:
        return Origin(payment_link_id=id_of(page["data"][0]["payment_link"]))
    return NO_ORIGIN


async def _account(api: StripeApi, account_id: str) -> Fetched:
    raw = await api.get("account.retrieve", OWN_ACCOUNT)
    if raw["id"] != account_id:
        raise WrongAccountError(f"the key of {account_id} speaks for {raw['id']}")
    return Fetched(account_id, raw)


async def _invoice(api: StripeApi, invoice_id: str, attempts: int, *, holds: bool) -> Fetched:
    path = path_of("invoice", invoice_id)
    raw = await api.get(
        "invoice.retrieve", path, {"expand": ["payments.data.payment.payment_intent"]}
    )
    payments = tuple(dict.fromkeys(_payments_of(raw.pop("payments", None))))
    if holds and wants_holding(raw):
        raw = await _hold(api, raw, attempts)
    await complete_lines(api, raw)
    return Fetched(invoice_id, raw, payments=payments)


async def _hold(api: StripeApi, raw: Json, attempts: int) -> Json:
    """Keep a draft from going out before its usage stands on it.

    Where Stripe finalized it a moment before, it is left as it is.
    """
    path = path_of("invoice", raw["id"])
    try:
        return await api.post(
            "invoice.hold",
            path,
            {"auto_advance": False},
            idempotency_key=f"hold:{raw['id']}:{attempts}",
        )
    except StripeRefusedError as error:
        log.error("stripe_draft_not_held", invoice=raw["id"], code=error.code)  # noqa: TRY400
        return await api.get("invoice.retrieve", path)


async def complete_lines(api: StripeApi, raw: Json) -> None:
    """Give an invoice all of its lines; by itself it comes with the first ten."""
    lines = raw["lines"]
    if not lines["has_more"]:
        return
    rest = await api.list_all(
        "invoice.lines",
        f"{path_of('invoice', raw['id'])}/lines",
        {},
        pages_max=LINE_PAGES_MAX,
        after=lines["data"][-1]["id"],
    )
    lines["data"] = lines["data"] + rest
    lines["has_more"] = False


def _payments_of(payments: Any) -> list[Paid]:
    """The payments of an invoice."""
    found = []
    for entry in (payments or {}).get("data", []):
        payment = entry["payment"]
        intent = payment.get("payment_intent")
        latest = intent.get("latest_charge") if isinstance(intent, dict) else None
        intent_id, charge_id = id_of(intent), id_of(latest) or id_of(payment.get("charge"))
        if intent_id is not None:
            found.append(Paid("payment_intent", intent_id, charge_id))
        elif charge_id is not None:
            found.append(Paid("charge", charge_id, charge_id))
    return found


async def _intent(api: StripeApi, intent_id: str) -> Fetched:
    """A payment intent with its latest charge and the balance transaction of that."""
    raw = await api.get(
        "payment_intent.retrieve",
        path_of("payment_intent", intent_id),
        {"expand": ["latest_charge.balance_transaction"]},
    )
    return seen_intent(raw)


def seen_intent(raw: Json) -> Fetched:
    """An intent that was read with its latest charge and the balance transaction of that."""
    charge = charge_of(raw)
    waits = charge is not None and waits_for_booking(charge)
    return Fetched(raw["id"], raw, incomplete=NOT_BOOKED if waits else None)


async def _charge(api: StripeApi, charge_id: str) -> Fetched:
    """A charge with its balance transaction."""
    raw = await api.get(
        "charge.retrieve", path_of("charge", charge_id), {"expand": ["balance_transaction"]}
    )
    # Of an intent the mirror takes the charge from there.
    waits = id_of(raw["payment_intent"]) is None and waits_for_booking(raw)
    return Fetched(charge_id, raw, incomplete=NOT_BOOKED if waits else None)
