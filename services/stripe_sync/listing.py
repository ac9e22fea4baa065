"""Reading many objects of a backlog in a few lists, instead of each by itself.

A list shows an object as a fetch would. Stripe says nowhere that a list is as fresh, so only what
changed a while ago is read in one. Whatever a list has not is fetched by itself, and so is what the
mirror has from just now in other words.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from libs.clock import utc_now
from libs.db.pool import Database
from libs.db.tenant import Mode
from services.stripe_sync import fetching, store_objects
from services.stripe_sync.client import (
    PAGE_SIZE,
    Json,
    StripeApi,
    StripeCallError,
    StripeStoppedError,
)
from services.stripe_sync.fetching import Fetched
from services.stripe_sync.objects import mirrored
from services.stripe_sync.objects_payments import charge_within
from services.stripe_sync.store_marks import Dirty
from services.stripe_sync.walks import LISTS

log = structlog.get_logger()

LISTED_FROM = 8
"""So many objects or more, made one after the other, are read in one list; and a page that has fewer
of them is the last one read."""
PAGES_MAX = PAGE_SIZE // LISTED_FROM
"""For a whole stretch, should each page have as few of its objects as may be: a backlog often begins
with the events of some tenants, whose payments stand among those of all others."""
SETTLED_AFTER = timedelta(seconds=10)

EXPANSIONS: Mapping[str, tuple[str, ...]] = {
    "customer": (),
    "payment_intent": ("data.latest_charge.balance_transaction",),
    "refund": (),
}
"""The kinds that come in masses, and what is expanded so that they are as a fetch shows them."""


@dataclass(frozen=True)
class Stretch:
    """Objects of one kind that were made one after the other, perhaps with others between them."""

    kind: str
    objects: tuple[Dirty, ...]

    @property
    def query(self) -> Json:
        """The part of the list in which they stand."""
        times = [int(each.made_at.timestamp()) for each in self.objects if each.made_at is not None]
        return {
            **LISTS[self.kind][1],
            "created": {"gte": min(times), "lte": max(times)},
            "expand": list(EXPANSIONS[self.kind]),
            "limit": PAGE_SIZE,
        }


def stretches(dirty: Iterable[Dirty], now: datetime) -> list[Stretch]:
    """What can be read in lists, a page or so each."""
    by_kind: dict[str, list[Dirty]] = {}
    for each in dirty:
        if _is_listed(each, now):
            by_kind.setdefault(each.object_type, []).append(each)
    found = []
    for kind, objects in by_kind.items():
        in_order = sorted(objects, key=lambda each: (each.made_at, each.object_id))
        cuts = range(0, len(in_order), PAGE_SIZE)
        found += [Stretch(kind, tuple(in_order[at : at + PAGE_SIZE])) for at in cuts]
    return [stretch for stretch in found if len(stretch.objects) >= LISTED_FROM]


def _is_listed(dirty: Dirty, now: datetime) -> bool:
    return (
        dirty.object_type in EXPANSIONS
        and dirty.made_at is not None
        and dirty.told_at is not None
        and dirty.told_at < now - SETTLED_AFTER
        # What led to nothing before is looked at by itself.
        and dirty.attempts == 0
    )


async def read(api: StripeApi, stretch: Stretch) -> dict[str, Fetched]:
    """Those of the objects that the list has, by id; none that it would take many pages to find.

    Raises:
        StripeStoppedError: nothing of the account can be called.
    """
    wanted = {each.object_id for each in stretch.objects}
    found: dict[str, Fetched] = {}
    query = stretch.query
    try:
        for _ in range(PAGES_MAX):
            page = await api.get(f"{stretch.kind}.list", LISTS[stretch.kind][0], query)
            hits = [raw for raw in page["data"] if raw.get("id") in wanted]
            found |= {raw["id"]: seen for raw in hits if (seen := _seen(stretch.kind, raw))}
            if len(hits) < LISTED_FROM or len(found) == len(wanted) or not page["has_more"]:
                break
            query["starting_after"] = page["data"][-1]["id"]
    except StripeStoppedError:
        raise
    except StripeCallError as error:
        log.info("objects_not_listed", object_type=stretch.kind, reason=error.code)
    return found


async def confirmed(
    database: Database, account: str, mode: Mode, stretch: Stretch, found: dict[str, Fetched]
) -> dict[str, Fetched]:
    """Without what the mirror has from just now in other words: the list may be the older one."""
    since = utc_now() - SETTLED_AFTER
    fresh = {
        each.object_id: _kept_of(stretch.kind, found[each.object_id])
        for each in stretch.objects
        if each.object_id in found and each.fetched_at is not None and each.fetched_at >= since
    }
    if not fresh:
        return found
    async with database.maintenance() as tx:
        keys = [part for parts in fresh.values() for part in parts]
        kept = await store_objects.read_kept(tx, account, mode, keys)
    doubted = {
        object_id
        for object_id, parts in fresh.items()
        if not parts or any(kept.get(part) != raw for part, raw in parts.items())
    }
    return {object_id: each for object_id, each in found.items() if object_id not in doubted}


def _kept_of(kind: str, fetched: Fetched) -> dict[tuple[str, str], Json]:
    """What the mirror keeps of an object, by (type, id); nothing of one that is odd."""
    try:
        parts = [(kind, fetched.object_id, fetched.raw), *charge_within(kind, fetched.raw)]
        return {(kind, object_id): mirrored(kind, raw) for kind, object_id, raw in parts}
    except (KeyError, TypeError, AttributeError):
        return {}


def _seen(kind: str, raw: Json) -> Fetched | None:
    """An object as it stands in a list; None where it is odd, which is told when it is fetched."""
    try:
        return fetching.seen_intent(raw) if kind == "payment_intent" else Fetched(raw["id"], raw)
    except (KeyError, TypeError):
        return None
