"""Looking at Stripe for what lost requests have made: one list of a payer for all of them.

A payer's intents are listed page by page; where many requests of one payer are open, as after an
outage, a list for each would cost the square of their number.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from libs.db.pool import Row
from services.stripe_sync.client import Json, StripeApi, StripeCallError

PAGES_MAX = 50
LOOK_BACK = timedelta(minutes=10)
"""Stripe's clock and ours may differ."""

Listed = dict[UUID, Json | None]
"""By request, what Stripe lists of it; None: it is not there. Others have not been looked for."""


async def list_intents(api: StripeApi, customer: str, since: datetime) -> list[Json]:
    """The payment intents of a Stripe customer, from a little before a time.

    Raises:
        StripeCallError: see its kinds.
    """
    created = {"gte": int((since - LOOK_BACK).timestamp())}
    query = {"customer": customer, "created": created}
    return await api.list_all(
        "payment_intent.list", "/v1/payment_intents", query, pages_max=PAGES_MAX
    )


async def list_together(api: StripeApi, rows: Iterable[Row]) -> Listed:
    """What Stripe has of requests that share a payer; a payer whose list fails is left out."""
    by_customer = defaultdict(list)
    for row in rows:
        if row["kind"] == "intent" and row["state"] == "open":
            by_customer[row["request"]["params"]["customer"]].append(row)
    listed: Listed = {}
    for customer, shared in by_customer.items():
        if len(shared) == 1:
            continue
        try:
            found = await list_intents(api, customer, min(row["created_at"] for row in shared))
        except StripeCallError:
            continue
        for row in shared:
            listed[row["request_id"]] = named(found, "payment_id", row["payment_id"])
    return listed


def named(found: Iterable[Json], name: str, value: UUID) -> Json | None:
    """The object that names this id of ours in its metadata."""
    return next(
        (each for each in found if (each.get("metadata") or {}).get(name) == str(value)), None
    )
