"""Timed work of tenants, each a bounded `run_once`."""

from datetime import timedelta
from typing import get_args

from libs.clock import utc_now
from libs.crypto.tokens import LEEWAY_SECONDS, LIFE_SECONDS_MAX
from libs.db.pool import Database
from libs.observability.metrics import KEY_ROTATION_OLDEST_AGE_SECONDS
from services.tenants import (
    audit,
    billing_off,
    bootstrap,
    personal_data,
    rotation,
    sessions,
    shredding,
    snapshot,
    store_people,
    store_rotation,
)
from services.tenants.sealing import Sealer
from services.tenants.settings import Settings

# Twice the life of an assertion: one made at the very end is stale long before.
REVOCATION_KEPT = timedelta(seconds=2 * (LIFE_SECONDS_MAX + LEEWAY_SECONDS))
KEPT = timedelta(days=1)
INVITATION_KEPT = timedelta(days=90)
"""After its end; the audit log keeps what became of it."""


async def ensure_reserved(database: Database, settings: Settings) -> None:
    """The reserved tenants, the first operator and a signing key exist."""
    await bootstrap.run_once(database, settings)


async def keep_default_active(database: Database, settings: Settings) -> None:
    """With billing off, the tenant everything lives under is active."""
    await billing_off.run_once(database, settings)


async def prune(database: Database) -> None:
    """Delete sessions that have expired, and what was kept for a while only.

    Answers under an `Idempotency-Key` and counts of failed sign-ins are kept for a day.
    """
    now = utc_now()
    async with database.maintenance() as tx:
        await store_people.prune(
            tx,
            assertions_before=now - REVOCATION_KEPT,
            now=now,
            failures_before=now - KEPT,
            invitations_before=now - INVITATION_KEPT,
        )


async def anchor_audit(database: Database, settings: Settings) -> None:
    """Sign the heads of the audit chains that are due and tell them on `audit.events`."""
    now = utc_now()
    every = timedelta(seconds=settings.audit_anchor_seconds)
    async with database.maintenance() as tx:
        due = await audit.tenants_to_anchor(tx, now, every, settings.audit_anchor_entries)
    if not due:
        return
    private_key = await sessions.signing_key(database, Sealer(database, settings.sealing))
    for tenant_id in due:
        async with database.tenant(tenant_id, None) as tx:
            await audit.anchor(tx, private_key, now)


async def rotate_keys(database: Database, sealer: Sealer) -> None:
    """Key rotations take their next step."""
    await rotation.run_once(database, sealer, utc_now())


async def measure_rotations(database: Database) -> None:
    """Tell how long the oldest rotation that is not done has been under way."""
    now = utc_now()
    async with database.maintenance() as tx:
        began = await store_rotation.oldest_open(tx)
    for kind in get_args(rotation.Kind):
        age = (now - began[kind]).total_seconds() if kind in began else 0.0
        KEY_ROTATION_OLDEST_AGE_SECONDS.labels(kind=kind).set(age)


async def destroy_secrets(database: Database, sealer: Sealer) -> None:
    """Secrets that nothing names, any more or ever, are deleted in the store outside."""
    await shredding.forget_left_over(database, sealer, utc_now())
    await shredding.destroy_outside(database, sealer)


async def tell_anew(database: Database) -> None:
    """Records that an earlier version of the code told in another form are told once more."""
    await snapshot.tell_anew(database, utc_now())


async def seal_people(database: Database) -> None:
    """Seal e-mails and names that stand in the clear, from before they were sealed."""
    await personal_data.seal_some(database, utc_now())
