"""Fetching the latest state of an object, with what belongs to it, outside any transaction."""

from dataclasses import dataclass
from typing import Any

import structlog

from services.stripe_sync.client import Json, StripeApi, StripeMissingError, StripeRefusedError
from services.stripe_sync.objects import id_of, wants_holding

log = structlog.get_logger()

LINE_PAGES_MAX = 20

_PATHS = {
    "customer": "/v1/customers/",
    "product": "/v1/products/",
    "price": "/v1/prices/",
    "subscription": "/v1/subscriptions/",
    "invoice": "/v1/invoices/",
    "charge": "/v1/charges/",
}
OWN_ACCOUNT = "/v1/account"
"""The account that a key, or the platform's key with `Stripe-Account`, speaks for."""


class IncompleteError(Exception):
    """Stripe has not finished with the object; the rest comes a moment later."""


class WrongAccountError(Exception):
    """The key of a connection speaks for another account than the connection says."""


@dataclass(frozen=True)
class Fetched:
    """An object as it is now.

    Attributes:
        raw: Stripe's JSON, without what was expanded only to get at its ids.
        charge_ids: of an invoice: the charges that paid it.
        invoice_id: of a charge: the invoice it pays.
        incomplete: what Stripe has yet to add, if anything.
    """

    object_id: str
    raw: Json
    charge_ids: tuple[str, ...] = ()
    invoice_id: str | None = None
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
        if kind == "charge":
            return await _charge(api, object_id)
        return Fetched(object_id, await api.get(f"{kind}.retrieve", _PATHS[kind] + object_id))
    except StripeMissingError:
        return None


async def _account(api: StripeApi, account_id: str) -> Fetched:
    raw = await api.get("account.retrieve", OWN_ACCOUNT)
    if raw["id"] != account_id:
        raise WrongAccountError(f"the key of {account_id} speaks for {raw['id']}")
    return Fetched(account_id, raw)


async def _invoice(api: StripeApi, invoice_id: str, attempts: int, *, holds: bool) -> Fetched:
    path = _PATHS["invoice"] + invoice_id
    raw = await api.get(
        "invoice.retrieve", path, {"expand": ["payments.data.payment.payment_intent"]}
    )
    charges = tuple(dict.fromkeys(_charges_of(raw.pop("payments", None))))
    if holds and wants_holding(raw):
        raw = await _hold(api, raw, attempts)
    await complete_lines(api, raw)
    return Fetched(invoice_id, raw, charge_ids=charges)


async def _hold(api: StripeApi, raw: Json, attempts: int) -> Json:
    """Keep a draft from going out before its usage stands on it.

    Where Stripe finalized it a moment before, it is left as it is.
    """
    path = _PATHS["invoice"] + raw["id"]
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
        f"{_PATHS['invoice']}{raw['id']}/lines",
        {},
        pages_max=LINE_PAGES_MAX,
        after=lines["data"][-1]["id"],
    )
    lines["data"] = lines["data"] + rest
    lines["has_more"] = False


def _charges_of(payments: Any) -> list[str]:
    """The charges of an invoice's payments: each by its payment intent, or named itself."""
    found = []
    for entry in (payments or {}).get("data", []):
        payment = entry["payment"]
        intent = payment.get("payment_intent")
        latest = intent.get("latest_charge") if isinstance(intent, dict) else None
        charge_id = id_of(latest) or id_of(payment.get("charge"))
        if charge_id is not None:
            found.append(charge_id)
    return found


async def _charge(api: StripeApi, charge_id: str) -> Fetched:
    """A charge with its balance transaction, and the invoice it pays, which it does not name."""
    raw = await api.get(
        "charge.retrieve", _PATHS["charge"] + charge_id, {"expand": ["balance_transaction"]}
    )
    intent_id = id_of(raw["payment_intent"])
    invoice_id = None
    if intent_id is not None:
        query = {"payment": {"type": "payment_intent", "payment_intent": intent_id}, "limit": 1}
        page = await api.get("invoice_payment.list", "/v1/invoice_payments", query)
        invoice_id = id_of(page["data"][0]["invoice"]) if page["data"] else None
    booked = raw["balance_transaction"] is not None
    waits = raw["status"] == "succeeded" and raw["captured"] and not booked
    return Fetched(
        charge_id,
        raw,
        invoice_id=invoice_id,
        incomplete="its balance transaction is not there yet" if waits else None,
    )
