"""Leases: who works on what, where the work calls Stripe and so cannot hold a row lock.

A lease is prolonged for as long as its block runs, however slowly Stripe answers. One that ran out
all the same may be taken by another worker while the first still waits; so every transaction that
writes a result checks that its lease is still held, and rolls back if not.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog

from libs.clock import utc_now
from libs.db.pool import TRANSIENT_ERRORS, Database, Tx
from libs.ids import new_id
from libs.messaging.apply import TransientError
from services.stripe_sync import store_leases

log = structlog.get_logger()

LEASE_SECONDS = 60.0
RENEWED_AFTER_SECONDS = 15.0


class LeaseLostError(TransientError):
    """Another worker has taken over; what was fetched is thrown away."""


@dataclass(frozen=True)
class Lease:
    """The right to work on something, until it runs out."""

    name: str
    token: UUID


@asynccontextmanager
async def leased(database: Database, name: str) -> AsyncGenerator[Lease | None, None]:
    """Hold a lease for the block; None where somebody else holds it."""
    lease = Lease(name, new_id())
    now = utc_now()
    async with database.transaction() as tx:
        is_ours = await store_leases.take(
            tx, name, lease.token, now, now + timedelta(seconds=LEASE_SECONDS)
        )
    if not is_ours:
        yield None
        return
    prolonging = asyncio.create_task(_prolong(database, lease))
    try:
        yield lease
    finally:
        prolonging.cancel()
        await asyncio.gather(prolonging, return_exceptions=True)
        async with database.transaction() as tx:
            await store_leases.release(tx, name, lease.token)


async def renew(database: Database, lease: Lease) -> bool:
    """Prolong a lease; False where another has taken it over."""
    until = utc_now() + timedelta(seconds=LEASE_SECONDS)
    async with database.transaction() as tx:
        return await store_leases.prolong(tx, lease.name, lease.token, until)


async def _prolong(database: Database, lease: Lease) -> None:
    """Keep a lease from running out, until another has it."""
    is_ours = True
    while is_ours:
        await asyncio.sleep(RENEWED_AFTER_SECONDS)
        try:
            is_ours = await renew(database, lease)
        except TRANSIENT_ERRORS as error:
            log.warning("lease_not_prolonged", lease=lease.name, error=type(error).__name__)


async def hold(tx: Tx, lease: Lease) -> None:
    """Keep others from taking the lease until this transaction ends.

    Raises:
        LeaseLostError: it is not ours any more.
    """
    if not await store_leases.lock(tx, lease.name, lease.token):
        raise LeaseLostError(f"the lease {lease.name} was taken over")
