"""Leases: who works on what, where the work calls Stripe and so cannot hold a row lock.

A lease that ran out may be taken by another worker while the first still waits for Stripe; so
every transaction that writes a result checks that its lease is still held, and rolls back if not.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from libs.clock import utc_now
from libs.db.pool import Database, Tx
from libs.ids import new_id
from libs.messaging.apply import TransientError
from services.stripe_sync import store_leases

LEASE_SECONDS = 60
RENEWAL = timedelta(seconds=10)
"""A lease that was taken so long ago is prolonged by `keep`."""


class LeaseLostError(TransientError):
    """Another worker has taken over; what was fetched is thrown away."""


@dataclass
class Lease:
    """The right to work on something, until it runs out."""

    name: str
    token: UUID
    taken_at: datetime


@asynccontextmanager
async def leased(database: Database, name: str) -> AsyncGenerator[Lease | None, None]:
    """Hold a lease for the block; None where somebody else holds it."""
    lease = Lease(name, new_id(), utc_now())
    if not await renew(database, lease):
        yield None
        return
    try:
        yield lease
    finally:
        async with database.transaction() as tx:
            await store_leases.release(tx, name, lease.token)


async def renew(database: Database, lease: Lease) -> bool:
    """Take or prolong a lease; False where somebody else holds it."""
    now = utc_now()
    async with database.transaction() as tx:
        is_ours = await store_leases.take(
            tx, lease.name, lease.token, now, now + timedelta(seconds=LEASE_SECONDS)
        )
    if is_ours:
        lease.taken_at = now
    return is_ours


async def keep(database: Database, lease: Lease) -> None:
    """Prolong a lease in the midst of long work.

    Raises:
        LeaseLostError: it is not ours any more.
    """
    if utc_now() - lease.taken_at > RENEWAL and not await renew(database, lease):
        raise LeaseLostError(f"the lease {lease.name} was taken over")


async def hold(tx: Tx, lease: Lease) -> None:
    """Keep others from taking the lease until this transaction ends.

    Raises:
        LeaseLostError: it is not ours any more.
    """
    if not await store_leases.lock(tx, lease.name, lease.token):
        raise LeaseLostError(f"the lease {lease.name} was taken over")
