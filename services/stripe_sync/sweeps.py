"""Comparing the mirror with what Stripe lists: what differs or is absent is fetched again.

Lists show an object as a fetch would, so every plain field that both have must agree, once what the
mirror does not keep (people, secrets) is left out of both. Nothing is taken from the list itself: it
may be older than what was fetched meanwhile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.observability.metrics import STRIPE_MIRROR_DIFFERENCES_TOTAL
from services.stripe_sync import store_marks, store_walks
from services.stripe_sync.client import Json
from services.stripe_sync.marks import BALANCE
from services.stripe_sync.objects import id_of, mirrored
from services.stripe_sync.owners import UnknownOwnerError
from services.stripe_sync.store_walks import Walk
from services.stripe_sync.transactions import OVERLAP, record_listed
from services.stripe_sync.walks import LISTS, Visit

log = structlog.get_logger()

TRANSACTIONS_FOR = timedelta(days=35)
UNSEEN_MAX = 1_000
PAGES_MAX = 20
SIGNED_SUFFIXES = ("_url", "_pdf", "_secret")
"""Fields that are made anew whenever an object is shown."""


@dataclass(frozen=True)
class Sweep:
    """Comparing the open objects of a kind.

    Attributes:
        open_statuses: of the objects that are compared; None: all of them.
        listed_for: where the list has no filter by status: how old an object may be that is listed.
    """

    kind: str
    open_statuses: frozenset[str] | None = None
    listed_for: timedelta | None = None

    def query(self, walk: Walk) -> Json:
        """The filter by creation, where there is one."""
        if self.listed_for is None:
            return {}
        return {"created": {"gte": int((walk.started_at - self.listed_for).timestamp())}}

    async def take_page(self, visit: Visit, page: list[Json]) -> int:
        """Have fetched what differs from the mirror; how many that were."""
        if self.open_statuses is None:
            return await compare(visit, self.kind, page)
        page = [each for each in page if each.get("status") in self.open_statuses]
        async with visit.database.transaction() as tx:
            await store_walks.see(tx, visit.walk, [each["id"] for each in page])
        return await compare(visit, self.kind, page)

    async def end(self, visit: Visit) -> int:
        """Have fetched what the mirror thinks is open and Stripe does not list; how many."""
        if self.open_statuses is None:
            return 0
        since = visit.walk.started_at - self.listed_for if self.listed_for else None
        async with visit.database.maintenance() as tx:
            unseen = await store_walks.unseen(
                tx, visit.walk, self.kind, sorted(self.open_statuses), since, UNSEEN_MAX
            )
        await _mark(visit, self.kind, unseen)
        return len(unseen)


@dataclass(frozen=True)
class ClockSweep:
    """Comparing what lives on test clocks: Stripe's lists leave it out unless the clock is named."""

    kinds: tuple[str, ...]

    async def take_page(self, visit: Visit, page: list[Json]) -> int:
        """Have fetched what differs from the mirror, clock by clock; how many objects."""
        differing = 0
        for clock in page:
            for kind in self.kinds:
                path, filters = LISTS[kind]
                listed = await visit.identity.api.list_all(
                    f"{kind}.walk",
                    path,
                    {**filters, "test_clock": clock["id"]},
                    pages_max=PAGES_MAX,
                )
                differing += await compare(visit, kind, listed)
        return differing


async def compare(visit: Visit, kind: str, listed: Sequence[Json]) -> int:
    """Have fetched what differs from the mirror or is not in it; how many objects."""
    walk, ids = visit.walk, [each["id"] for each in listed]
    async with visit.database.maintenance() as tx:
        kept = await store_walks.mirrored(tx, walk.account, walk.mode, kind, ids)
    differing = [
        each["id"]
        for each in listed
        if each["id"] not in kept or differs(kept[each["id"]], mirrored(kind, each))
    ]
    await _mark(visit, kind, differing)
    return len(differing)


async def _mark(visit: Visit, kind: str, ids: Sequence[str]) -> None:
    if not ids:
        return
    walk = visit.walk
    async with visit.database.tenant(visit.identity.tenant_id, walk.mode) as tx:
        await store_marks.mark(tx, walk.account, [(kind, each) for each in ids])
    STRIPE_MIRROR_DIFFERENCES_TOTAL.labels(object_type=kind).inc(len(ids))
    log.warning(
        "stripe_mirror_differed",
        account=walk.account,
        mode=walk.mode,
        object_type=kind,
        objects=len(ids),
    )


def differs(kept: Mapping[str, Any], listed: Mapping[str, Any]) -> bool:
    """Whether a plain field that both have has another value."""
    return any(
        (id_of(kept[name]) if isinstance(kept[name], Mapping) else kept[name]) != value
        for name, value in listed.items()
        if name in kept
        and (value is None or isinstance(value, str | int | bool))
        and not name.endswith(SIGNED_SUFFIXES)
    )


def transactions_query(walk: Walk) -> Json:
    """Balance transactions of 35 days; of a tenant's account none from before it was connected."""
    since = walk.started_at - TRANSACTIONS_FOR
    if walk.account != PLATFORM_ACCOUNT:
        since = max(since, walk.enrolled_at - OVERLAP)
    return {"created": {"gte": int(since.timestamp())}, "expand": ["data.source"]}


def all_transactions_query(walk: Walk) -> Json:
    """All balance transactions that are ours to record."""
    query: Json = {"expand": ["data.source"]}
    if walk.account != PLATFORM_ACCOUNT:
        query["created"] = {"gte": int((walk.enrolled_at - OVERLAP).timestamp())}
    return query


async def record_page(visit: Visit, page: list[Json]) -> int:
    """Record the balance transactions that are not recorded; how many that were.

    Raises:
        UnknownOwnerError: the customer of one is not known yet; the page is to be read again.
    """
    recorded, waiting = await record_listed(
        visit.database, visit.directory, visit.identity, page[::-1]
    )
    if waiting:
        raise UnknownOwnerError(f"{len(waiting)} balance transactions wait for their customer")
    return recorded


async def look_for_transactions(visit: Visit) -> int:
    """Have the latest balance transactions of a tenant's account listed; most have no event."""
    walk = visit.walk
    if not visit.identity.is_platform:
        async with visit.database.tenant(visit.identity.tenant_id, walk.mode) as tx:
            await store_marks.mark(tx, walk.account, [BALANCE])
    return 0
