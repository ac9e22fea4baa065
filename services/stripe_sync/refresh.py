"""The worker of one Stripe account: fetch what is dirty, put it into the mirror, say what changed.

Only the holder of the account's lease writes the mirror, one object at a time, so a state fetched
earlier never overwrites a later one. Fetching happens outside any transaction; replacing, the
difference, the outbox and taking the mark away are one.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from libs.clock import utc_now
from libs.contracts.envelope import Fact, Mode
from libs.db.pool import TRANSIENT_ERRORS, Database, Tx
from libs.db.tenant import Scope
from libs.directory.local import Directory, business_now
from libs.messaging.outbox import emit
from libs.observability.tracing import extract, start_span
from services.stripe_sync import fetching, store_connections, store_marks, store_objects
from services.stripe_sync.client import (
    Json,
    StripeApi,
    StripeStoppedError,
    StripeTransientError,
)
from services.stripe_sync.concurrency import all_of
from services.stripe_sync.identities import Identity
from services.stripe_sync.lease import Lease, LeaseLostError, hold, leased, renew
from services.stripe_sync.marks import BALANCE
from services.stripe_sync.objects import (
    account_fact,
    invoice_fact,
    invoice_time,
    mirrored,
    subscription_fact,
)
from services.stripe_sync.owners import UnknownOwnerError, owner_in_account, resolve
from services.stripe_sync.payments import record_charge
from services.stripe_sync.store_marks import Dirty
from services.stripe_sync.store_objects import Owner
from services.stripe_sync.transactions import list_transactions

log = structlog.get_logger()

BATCH_OBJECTS = 32
AT_ONCE_MAX = 8
RUN_SECONDS_MAX = 20.0
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.5, 600.0
DOUBLINGS_MAX = 11
STOPPED_PAUSE = timedelta(seconds=15)
"""How long an account rests that cannot be called; a change of its connection ends that."""

UNTOLD_FIELDS = {"version", "fetched_at"}
"""Of a fact: what differs although nothing changed."""

ENDS_THE_RUN: tuple[type[BaseException], ...] = (
    LeaseLostError,
    StripeStoppedError,
    *TRANSIENT_ERRORS,
)


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
            while lease is not None and utc_now() < ends and await renew(self.database, lease):
                batch = await self._due(BATCH_OBJECTS)
                if not batch:
                    break
                try:
                    await self._refresh_all(lease, batch)
                except LeaseLostError as lost:
                    log.warning("lease_lost", detail=str(lost))
                    break
                except StripeStoppedError as stopped:
                    await rest(self.database, self.account, self.mode, str(stopped))
                    break
                handled += len(batch)
        return handled

    async def _due(self, limit: int) -> list[Dirty]:
        async with self.database.maintenance() as tx:
            return await store_marks.due(tx, self.account, self.mode, utc_now(), limit)

    async def _refresh_all(self, lease: Lease, batch: list[Dirty]) -> None:
        slots = asyncio.Semaphore(AT_ONCE_MAX)

        async def one(dirty: Dirty) -> None:
            name = f"refresh {dirty.object_type}"
            async with slots:
                with start_span(name, parent=extract(dirty.trace)):
                    await self._refresh(lease, dirty)

        await all_of(map(one, batch))

    async def _refresh(self, lease: Lease, dirty: Dirty) -> None:
        """Handle one object; what cannot be done now is tried again, later each time."""
        try:
            if (dirty.object_type, dirty.object_id) == BALANCE:
                await list_transactions(self.database, self.directory, self.identity)
                await self._answered(lease, dirty)
            else:
                await self._replace(lease, dirty)
        except ENDS_THE_RUN:
            raise
        except (StripeTransientError, UnknownOwnerError, fetching.IncompleteError) as error:
            await self._later(lease, dirty, error)
        except Exception as error:  # noqa: BLE001 - one odd object must not hold up its account
            log.error(  # noqa: TRY400 - the stack says nothing that the words do not
                "stripe_object_not_mirrored",
                account=self.account,
                object_type=dirty.object_type,
                object_id=dirty.object_id,
                error=f"{type(error).__name__}: {error}",
            )
            await self._later(lease, dirty, error)

    async def _replace(self, lease: Lease, dirty: Dirty) -> None:
        """Fetch the latest, find its owner, then mirror, difference, facts and marks in one."""
        kind, object_id = dirty.object_type, dirty.object_id
        fetched = await fetching.fetch(
            self.api,
            kind,
            object_id,
            holds=self.identity.is_platform,
            attempts=dirty.attempts,
        )
        owner = await self._owner(dirty, fetched.raw if fetched else None)
        now = await self._business_now(owner.tenant_id)
        async with self.database.tenant(owner.tenant_id, self.mode) as tx:
            await hold(tx, lease)
            if fetched is None:
                await self._mark_deleted(tx, kind, object_id)
            else:
                await store_objects.claim(tx, self.account, object_id, owner.customer_id)
                await self._mirror(tx, kind, fetched, owner, now)
            if fetched is None or fetched.incomplete is None:
                await self._clear(tx, dirty)
        if fetched is not None and fetched.incomplete is not None:
            raise fetching.IncompleteError(fetched.incomplete)

    async def _owner(self, dirty: Dirty, raw: Json | None) -> Owner:
        if not self.identity.is_platform:
            return await owner_in_account(self.database, self.identity, dirty.object_id, raw)
        return await resolve(
            self.database,
            self.directory,
            self.account,
            self.mode,
            dirty.object_id,
            raw,
            hint=dirty.marks[0][0],
            attempts=dirty.attempts,
        )

    async def _mirror(
        self, tx: Tx, kind: str, fetched: fetching.Fetched, owner: Owner, now: datetime
    ) -> None:
        raw = fetched.raw
        before = await store_objects.read_object(tx, self.account, kind, fetched.object_id)
        version = before["version"] if before else 0
        said = before["fact"] if before else None
        fact = self._fact(kind, raw, owner, version + 1)
        fact_json = fact.model_dump(mode="json", exclude=UNTOLD_FIELDS) if fact else None
        changed = fact_json is not None and fact_json != said
        kept = mirrored(kind, raw)
        if before is None or changed or before["raw"] != kept:
            await store_objects.write_object(
                tx,
                self.account,
                kind,
                fetched.object_id,
                raw=kept,
                fact=fact_json if changed else said,
                version=version + 1 if changed else version,
                deleted=bool(raw.get("deleted")),
                fetched_at=utc_now(),
            )
        if fact is not None and changed:
            at = max(now, invoice_time(raw)) if kind == "invoice" else now
            emit(tx, fact, effective_at=at)
        if kind == "charge":
            await record_charge(
                tx,
                self.account,
                raw,
                owner.customer_id or await self._stranger(),
                owner,
                invoice_id=fetched.invoice_id,
                effective_at=now,
            )
        await self._mark_related(tx, fetched)

    def _fact(self, kind: str, raw: Json, owner: Owner, version: int) -> Fact | None:
        """What is said of an object; nothing of those that are no customer's of ours."""
        if kind == "account":
            return account_fact(raw, fetched_at=utc_now())
        if owner.customer_id is None or raw.get("deleted"):
            return None
        if kind == "subscription":
            return subscription_fact(
                raw, account=self.account, customer_id=owner.customer_id, version=version
            )
        if kind == "invoice":
            return invoice_fact(
                raw, account=self.account, customer_id=owner.customer_id, version=version
            )
        return None

    async def _mark_related(self, tx: Tx, fetched: fetching.Fetched) -> None:
        """Fetch the charges of an invoice too, unless they are known to their end."""
        for charge_id in fetched.charge_ids:
            if not await store_objects.has_complete_payment(tx, self.account, charge_id):
                await store_marks.mark(tx, self.account, [("charge", charge_id)])

    async def _mark_deleted(self, tx: Tx, kind: str, object_id: str) -> None:
        """What Stripe no longer has stays in the mirror, marked."""
        before = await store_objects.read_object(tx, self.account, kind, object_id)
        if before is not None and not before["deleted"]:
            await store_objects.write_object(
                tx,
                self.account,
                kind,
                object_id,
                raw=before["raw"],
                fact=before["fact"],
                version=before["version"],
                deleted=True,
                fetched_at=utc_now(),
            )

    async def _stranger(self) -> UUID | None:
        """Money from nobody we know is booked on whoever's account it is."""
        owner = await self.directory.by_id(self.identity.tenant_id)
        return owner.snapshot.self_customer_id if owner else None

    async def _business_now(self, tenant_id: UUID) -> datetime:
        tenant = await self.directory.by_id(tenant_id)
        return business_now(tenant, self.mode) if tenant else utc_now()

    async def _clear(self, tx: Tx, dirty: Dirty) -> None:
        for tenant_id, generation in dirty.marks:
            await tx.enter(Scope((tenant_id,), self.mode))
            await store_marks.clear(
                tx, self.account, dirty.object_type, dirty.object_id, generation
            )

    async def _answered(self, lease: Lease, dirty: Dirty) -> None:
        async with self.database.transaction() as tx:
            await hold(tx, lease)
            await self._clear(tx, dirty)

    async def _later(self, lease: Lease, dirty: Dirty, error: Exception) -> None:
        pause = min(PAUSE_SECONDS_MIN * 2 ** min(dirty.attempts, DOUBLINGS_MAX), PAUSE_SECONDS_MAX)
        until = utc_now() + timedelta(seconds=pause)
        async with self.database.transaction() as tx:
            await hold(tx, lease)
            for tenant_id, generation in dirty.marks:
                await tx.enter(Scope((tenant_id,), self.mode))
                await store_marks.postpone(
                    tx,
                    self.account,
                    dirty.object_type,
                    dirty.object_id,
                    generation,
                    until,
                    str(error),
                )


async def rest(database: Database, account: str, mode: Mode, reason: str) -> None:
    """Leave an account alone for a while that cannot be called; the others go on."""
    log.warning("stripe_account_rests", account=account, mode=mode, reason=reason)
    async with database.maintenance() as tx:
        await store_connections.drop_ended(tx, account, mode)
        await store_marks.postpone_account(tx, account, mode, utc_now() + STOPPED_PAUSE, reason)
