"""The worker of one Stripe account: fetch what is dirty, put it into the mirror, say what changed.

Only the holder of the account's lease writes the mirror, so a state fetched earlier never overwrites
a later one. Fetching happens outside any transaction; replacing, the difference, the outbox and
taking the marks away are one, for as many objects as were fetched at about the same time.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from libs.clock import utc_now
from libs.contracts.envelope import Mode
from libs.db.pool import TRANSIENT_ERRORS, Database
from libs.db.tenant import Scope
from libs.directory.local import Directory, Tenant, business_now
from libs.observability.tracing import extract, start_span
from services.stripe_sync import (
    fetching,
    listing,
    store_connections,
    store_marks,
    store_payments,
)
from services.stripe_sync.client import (
    Json,
    StripeApi,
    StripeStoppedError,
    StripeTransientError,
)
from services.stripe_sync.fetching import Fetched, Unplaced
from services.stripe_sync.identities import Identity
from services.stripe_sync.lease import Lease, LeaseLostError, hold, leased
from services.stripe_sync.listing import Stretch
from services.stripe_sync.marks import BALANCE
from services.stripe_sync.mirroring import Mirroring, Sighting
from services.stripe_sync.objects import customer_of, id_of
from services.stripe_sync.objects_payments import charge_of, is_ours, of_an_intent, payment_behind
from services.stripe_sync.owners import Foundling, UnknownOwnerError, resolve_all
from services.stripe_sync.payments import NO_ORIGIN, Origin
from services.stripe_sync.store_marks import Dirty
from services.stripe_sync.store_objects import Owner
from services.stripe_sync.transactions import list_transactions

log = structlog.get_logger()

BATCH_OBJECTS = 500
GROUP_OBJECTS = 200
"""That many at most are mirrored in one transaction."""
ALONE_MAX = 96
"""That many are fetched each by itself before it is looked again what is due."""
AT_ONCE_MAX = 8
GROUP_SECONDS = 0.5
"""What was fetched within this time goes into the mirror together; nothing waits for a slow object."""
RUN_SECONDS_MAX = 20.0
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.5, 600.0
DOUBLINGS_MAX = 11
STOPPED_PAUSE = timedelta(seconds=15)
"""How long an account rests that cannot be called; a change of its connection ends that."""

ENDS_THE_RUN: tuple[type[BaseException], ...] = (
    LeaseLostError,
    StripeStoppedError,
    *TRANSIENT_ERRORS,
)
COMES_LATER: tuple[type[BaseException], ...] = (
    StripeTransientError,
    UnknownOwnerError,
    fetching.IncompleteError,
)
"""Expected, and no reason for an error in the log."""

Found = tuple[Dirty, Fetched | None]
Outcome = tuple[Dirty, Fetched | BaseException | None]
"""An object as it is; None where there is none any more; or why that could not be found out."""
Late = list[tuple[Dirty, Exception]]


@dataclass(frozen=True)
class AccountWorker:
    """One account in one mode, with what is needed to refresh its mirror."""

    database: Database
    directory: Directory
    identity: Identity

    @property
    def api(self) -> StripeApi:
        """The way to call the account."""
        return self.identity.api

    @property
    def account(self) -> str:
        """The account's id, or `platform`."""
        return self.identity.account

    @property
    def mode(self) -> Mode:
        """The mode it is worked on in."""
        return self.identity.mode

    async def run_once(self) -> int:
        """Fetch what is due, for a bounded time; how many objects were handled."""
        handled = 0
        if not await self._due(1):
            return handled
        async with leased(self.database, f"account:{self.account}:{self.mode}") as lease:
            ends = utc_now() + timedelta(seconds=RUN_SECONDS_MAX)
            while lease is not None and utc_now() < ends:
                batch = await self._due(BATCH_OBJECTS)
                if not batch:
                    break
                try:
                    handled += await self._refresh_all(lease, batch)
                    if len(batch) < BATCH_OBJECTS or utc_now() >= ends:
                        # A backlog brings most of them with their charges, and before it is
                        # worked off nobody would know whose they are.
                        handled += await self._list_transactions(lease)
                except LeaseLostError as lost:
                    log.warning("lease_lost", detail=str(lost))
                    break
                except StripeStoppedError as stopped:
                    await rest(self.database, self.account, self.mode, str(stopped))
                    break
        return handled

    async def _due(self, limit: int, only: tuple[str, str] | None = None) -> list[Dirty]:
        async with self.database.maintenance() as tx:
            return await store_marks.due(tx, self.account, self.mode, utc_now(), limit, only)

    async def _refresh_all(self, lease: Lease, batch: list[Dirty]) -> int:
        """Fetch at once as much as may be, and mirror what has come, group by group; how many."""
        slots = asyncio.Semaphore(AT_ONCE_MAX)
        listed = listing.stretches(batch, utc_now())
        in_lists = {id(dirty) for stretch in listed for dirty in stretch.objects}
        others = [each for each in batch if id(each) not in in_lists and not _is_balance(each)]
        alone = others[:ALONE_MAX]
        waiting = {
            *(asyncio.create_task(self._list(slots, stretch)) for stretch in listed),
            *(asyncio.create_task(self._fetch(slots, [each])) for each in alone),
        }
        places = {id(dirty): place for place, dirty in enumerate(batch)}
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, timeout=GROUP_SECONDS)
                # In the order of the marks, not in the one in which Stripe answered.
                group = [outcome for task in done for outcome in task.result()]
                group.sort(key=lambda outcome: places[id(outcome[0])])
                for start in range(0, len(group), GROUP_OBJECTS):
                    await self._take_in(lease, group[start : start + GROUP_OBJECTS])
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        return len(in_lists) + len(alone)

    async def _list(self, slots: asyncio.Semaphore, stretch: Stretch) -> list[Outcome]:
        """Read objects in a list, and what it has not each by itself."""
        async with slots:
            first = extract(stretch.objects[0].trace)
            with start_span(f"list {stretch.kind}", parent=first, objects=len(stretch.objects)):
                try:
                    found = await listing.read(self.api, stretch)
                except StripeStoppedError as stopped:
                    return [(dirty, stopped) for dirty in stretch.objects]
                found = await listing.confirmed(
                    self.database, self.account, self.mode, stretch, found
                )
        here = [dirty for dirty in stretch.objects if dirty.object_id in found]
        rest = [dirty for dirty in stretch.objects if dirty.object_id not in found]
        return [
            *((dirty, found[dirty.object_id]) for dirty in here),
            *await self._fetch(slots, rest),
        ]

    async def _fetch(self, slots: asyncio.Semaphore, objects: Sequence[Dirty]) -> list[Outcome]:
        """Fetch objects, each by itself."""
        outcomes = await asyncio.gather(
            *(self._fetch_one(slots, dirty) for dirty in objects), return_exceptions=True
        )
        return list(zip(objects, outcomes, strict=True))

    async def _fetch_one(self, slots: asyncio.Semaphore, dirty: Dirty) -> Fetched | None:
        async with slots:
            with start_span(f"refresh {dirty.object_type}", parent=extract(dirty.trace)):
                return await fetching.fetch(
                    self.api,
                    dirty.object_type,
                    dirty.object_id,
                    holds=self.identity.is_platform,
                    attempts=dirty.attempts,
                )

    async def _take_in(self, lease: Lease, group: Sequence[Outcome]) -> None:
        """Mirror what was fetched; what cannot be done now is tried again, later each time."""
        found = [(dirty, each) for dirty, each in group if not isinstance(each, BaseException)]
        failed = [(dirty, each) for dirty, each in group if isinstance(each, Exception)]
        late = [pair for pair in failed if not isinstance(pair[1], ENDS_THE_RUN)]
        sightings = await self._recognize(found, late)
        late += await self._mirror(lease, sightings)
        await self._later(lease, late)
        for _, error in failed:
            if isinstance(error, ENDS_THE_RUN):
                raise error

    async def _recognize(self, found: list[Found], late: Late) -> list[Sighting]:
        """Find out whose objects these are and what payments were made for."""
        owners = await resolve_all(
            self.database,
            self.directory,
            self.identity,
            [
                Foundling(
                    dirty.object_type,
                    dirty.object_id,
                    fetched.raw if fetched else None,
                    dirty.marks[0][0],
                    dirty.attempts,
                )
                for dirty, fetched in found
            ],
        )
        known: list[tuple[Dirty, Fetched | None, Owner]] = []
        for (dirty, fetched), owner in zip(found, owners, strict=True):
            if isinstance(owner, Owner):
                known.append((dirty, fetched, owner))
                continue
            late.append((dirty, owner))
            if fetched is not None and dirty.attempts == 0:
                await self._look_behind(dirty, fetched)
        origins = await self._origins(known, late)
        lost = {id(dirty) for dirty, _ in late}
        tenants = await self.directory.by_ids(
            {self.identity.tenant_id} | {owner.tenant_id for _, _, owner in known}
        )
        return [
            Sighting(
                dirty,
                fetched,
                owner,
                self._payer(owner, tenants),
                self._business_now(owner, tenants),
                origins.get(_intent_of(dirty, fetched) or ""),
            )
            for dirty, fetched, owner in known
            if id(dirty) not in lost
        ]

    async def _look_behind(self, dirty: Dirty, fetched: Fetched) -> None:
        """Have the payment fetched that tells whose a refund or dispute is."""
        async with self.database.tenant(dirty.marks[0][0], self.mode) as tx:
            await store_marks.mark(tx, self.account, payment_behind(fetched.raw))

    async def _origins(
        self, known: Sequence[tuple[Dirty, Fetched | None, Owner]], late: Late
    ) -> dict[str, Origin]:
        """What payments were made for, by intent: asked once, when there is a first charge."""
        origins = {
            paid.payment_id: Origin(invoice_id=fetched.object_id)
            for _, fetched, _ in known
            if fetched is not None
            for paid in fetched.payments
        }
        wanted: dict[str, tuple[Dirty, Json, UUID]] = {}
        for dirty, fetched, owner in known:
            intent_id = _intent_of(dirty, fetched)
            if fetched is None or intent_id is None or intent_id in origins:
                continue
            if is_ours(fetched.raw):
                origins[intent_id] = NO_ORIGIN
            elif dirty.object_type == "charge" or charge_of(fetched.raw) is not None:
                wanted[intent_id] = (dirty, fetched.raw, owner.tenant_id)
        if not wanted:
            return origins
        tenants = {tenant_id for _, _, tenant_id in wanted.values()}
        async with self.database.transaction(Scope(tuple(sorted(tenants)), self.mode)) as tx:
            pairs = [(tenant_id, intent_id) for intent_id, (_, _, tenant_id) in wanted.items()]
            told = await store_payments.known_origins(tx, self.account, pairs)
        for intent_id, row in told.items():
            origins[intent_id] = Origin(row["stripe_invoice_id"], row["stripe_payment_link_id"])
        unplaced = [
            Unplaced(intent_id, customer_of(raw), raw["created"])
            for intent_id, (_, raw, _) in wanted.items()
            if intent_id not in origins
        ]
        answers = await fetching.find_origins(self.api, unplaced)
        for intent_id, answer in answers.items():
            if isinstance(answer, Origin):
                origins[intent_id] = answer
            elif isinstance(answer, ENDS_THE_RUN):
                raise answer
            else:
                late.append((wanted[intent_id][0], answer))
        return origins

    async def _mirror(self, lease: Lease, sightings: list[Sighting]) -> Late:
        """Put objects into the mirror in one transaction; one that breaks it is found and kept apart."""
        if not sightings:
            return []
        try:
            async with self.database.transaction() as tx:
                await hold(tx, lease)
                mirroring = Mirroring(tx, self.account, self.mode)
                await mirroring.run(sightings)
        except ENDS_THE_RUN:
            raise
        except Exception as error:  # noqa: BLE001 - one odd object must not hold up its account
            if len(sightings) == 1:
                return [(sightings[0].dirty, error)]
            middle = len(sightings) // 2
            first = await self._mirror(lease, sightings[:middle])
            return first + await self._mirror(lease, sightings[middle:])
        return mirroring.late

    async def _list_transactions(self, lease: Lease) -> int:
        """Have the balance transactions listed where that was asked for; how many marks did.

        The mark is made anew by every webhook of money, and then comes last: while many arrive it is
        in no batch.
        """
        asked = await self._due(1, BALANCE)
        if not asked:
            return 0
        try:
            with start_span("refresh balance", parent=extract(asked[0].trace)):
                await list_transactions(self.database, self.directory, self.identity)
        except ENDS_THE_RUN:
            raise
        except Exception as error:  # noqa: BLE001 - it is tried again
            await self._later(lease, [(dirty, error) for dirty in asked])
            return len(asked)
        tenants = tuple(sorted({tenant_id for dirty in asked for tenant_id, _ in dirty.marks}))
        async with self.database.transaction(Scope(tenants, self.mode)) as tx:
            await hold(tx, lease)
            await store_marks.clear_all(tx, self.account, asked)
        return len(asked)

    def _payer(self, owner: Owner, tenants: Mapping[UUID, Tenant]) -> UUID | None:
        """The customer who pays; money from nobody we know is booked on whoever's account it is."""
        if owner.customer_id is not None:
            return owner.customer_id
        holder = tenants.get(self.identity.tenant_id)
        return holder.snapshot.self_customer_id if holder else None

    def _business_now(self, owner: Owner, tenants: Mapping[UUID, Tenant]) -> datetime:
        tenant = tenants.get(owner.tenant_id)
        return business_now(tenant, self.mode) if tenant else utc_now()

    async def _later(self, lease: Lease, late: Late) -> None:
        if not late:
            return
        for dirty, error in late:
            if not isinstance(error, COMES_LATER):
                log.error(
                    "stripe_object_not_mirrored",
                    account=self.account,
                    object_type=dirty.object_type,
                    object_id=dirty.object_id,
                    error=f"{type(error).__name__}: {error}",
                )
        now = utc_now()
        tenants = {tenant_id for dirty, _ in late for tenant_id, _ in dirty.marks}
        async with self.database.transaction(Scope(tuple(sorted(tenants)), self.mode)) as tx:
            await hold(tx, lease)
            await store_marks.postpone_all(
                tx,
                self.account,
                [(dirty, now + _pause(dirty.attempts), str(error)) for dirty, error in late],
            )


def _pause(attempts: int) -> timedelta:
    seconds = PAUSE_SECONDS_MIN * 2 ** min(attempts, DOUBLINGS_MAX)
    return timedelta(seconds=min(seconds, PAUSE_SECONDS_MAX))


def _is_balance(dirty: Dirty) -> bool:
    return (dirty.object_type, dirty.object_id) == BALANCE


def _intent_of(dirty: Dirty, fetched: Fetched | None) -> str | None:
    """The payment intent that an object is, or that a charge belongs to."""
    if fetched is None:
        return None
    if dirty.object_type == "charge" and of_an_intent(fetched.raw):
        return id_of(fetched.raw["payment_intent"])
    return fetched.object_id if dirty.object_type == "payment_intent" else None


async def rest(database: Database, account: str, mode: Mode, reason: str) -> None:
    """Leave an account alone for a while that cannot be called; the others go on."""
    log.warning("stripe_account_rests", account=account, mode=mode, reason=reason)
    async with database.maintenance() as tx:
        await store_connections.drop_ended(tx)
        await store_marks.postpone_account(tx, account, mode, utc_now() + STOPPED_PAUSE, reason)
