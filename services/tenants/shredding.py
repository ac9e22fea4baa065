"""Crypto-shredding of a tenant: its data keys are deleted, so what was sealed under them is noise.

That holds for every copy: rows, topics, dumps and backups made before. What Sluice must keep (ledger,
invoices, the audit log) is not sealed and stays.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.envelope import Mode
from libs.contracts.tenants import DEFAULT_TENANT_ID, PLATFORM_TENANT_ID
from libs.crypto.errors import SealedValueError, SecretGoneError, SecretStoreUnavailableError
from libs.db.pool import Database, Tx
from libs.db.tenant import Scope
from libs.messaging.outbox import emit
from services.tenants import (
    connection_states,
    secrets,
    snapshot,
    store_connections,
    store_data_keys,
    store_intents,
    store_sealed,
    store_tenants,
)
from services.tenants import store_shredding as store
from services.tenants.sealing import Sealer

log = structlog.get_logger()

RESERVED = frozenset({PLATFORM_TENANT_ID, DEFAULT_TENANT_ID})
MODES: tuple[Mode, ...] = ("test", "live")
PAGE = 50
ENTERED_WITHIN = timedelta(minutes=10)
"""So long after it was begun a secret in a store outside is somebody's, or nobody's any more."""


class ReservedTenantError(Exception):
    """The platform's own tenants are not shredded."""


class NotConfirmedError(Exception):
    """The confirmation is not the tenant's slug."""


@dataclass(frozen=True)
class Shredded:
    """What was destroyed."""

    data_keys: int
    secrets: int


async def shred(
    tx: Tx, confirmation: str, actor: str, at: datetime, *, stays: bool = False
) -> Shredded:
    """Destroy the data keys and secrets of the tenant in scope; done again, nothing is left to do.

    Args:
        stays: it enters secrets anew. Else it is gone, and what Stripe tells of it at the platform's
            own account is nobody's any more.

    Raises:
        ReservedTenantError, NotConfirmedError: nothing was done.
    """
    here, tenant_id = tx.scope, tx.tenant_id
    if tenant_id in RESERVED:
        raise ReservedTenantError
    await tx.enter(Scope((tenant_id,), None))
    tenant = await store_tenants.lock_tenant(tx)
    assert tenant is not None, "the gate knows the tenant"
    if confirmation != tenant["slug"]:
        raise NotConfirmedError
    await store_data_keys.lock_data_keys(tx)
    for mode in MODES:
        await tx.enter(Scope((tenant_id,), mode))
        await store_sealed.delete_answers(tx)
        if await store_connections.find_connection(tx) is not None:
            await store_connections.update_connection(
                tx, at, **connection_states.ended(at), key_valid=False
            )
    await tx.enter(Scope((tenant_id,), None))
    shredded = Shredded(
        secrets=await store.forget_connection_secrets(tx, at),
        data_keys=await store.delete_data_keys(tx),
    )
    await secrets.publish_secrets(tx, at, left=not stays)
    emit(
        tx,
        ConfigurationChanged(
            action="tenant.shredded",
            actor=actor,
            object_id=str(tenant_id),
            after={
                "data_keys": shredded.data_keys,
                "values": shredded.secrets,
                "stays": stays,
            },
        ),
        effective_at=at,
    )
    await snapshot.publish(tx, at)
    await tx.enter(here)
    return shredded


async def destroy_outside(database: Database, sealer: Sealer) -> None:
    """Delete in the store outside what nothing names any more: a bounded page.

    Raises:
        SecretStoreUnavailableError: the rest was deleted; this is tried again.
    """
    away: SecretStoreUnavailableError | None = None
    async with database.maintenance() as tx:
        rows = await store.due_destructions(tx, PAGE)
    for row in rows:
        if sealer.store is None:
            log.error("secret_store_not_configured", reference=row["reference"])
            return
        try:
            await sealer.store.destroy(row["reference"])
        except SecretGoneError:
            log.info("secret_was_gone", reference=row["reference"])
        except (SealedValueError, SecretStoreUnavailableError) as error:
            # One that cannot be deleted now must not keep the others: it goes to the end of the row.
            log.error("secret_not_destroyed", reference=row["reference"], reason=str(error))  # noqa: TRY400
            async with database.tenant(row["tenant_id"], None) as tx:
                await store.put_off_destruction(tx, row["tenant_id"], row["reference"], utc_now())
            away = error if isinstance(error, SecretStoreUnavailableError) else away
            continue
        async with database.tenant(row["tenant_id"], None) as tx:
            await store.end_destruction(tx, row["tenant_id"], row["reference"])
    if away is not None:
        raise away


async def forget_left_over(database: Database, sealer: Sealer, now: datetime) -> None:
    """Delete in the store outside what was written there and never entered: a bounded page.

    Its writer died in between, or could not take it back.

    Raises:
        SecretStoreUnavailableError: the rest was deleted; this is tried again.
    """
    away: SecretStoreUnavailableError | None = None
    async with database.maintenance() as tx:
        rows = await store_intents.left_over(tx, now - ENTERED_WITHIN, PAGE)
    for row in rows:
        if sealer.store is None:
            log.error("secret_store_not_configured", secret_id=str(row["secret_id"]))
            return
        try:
            await sealer.discard(row["tenant_id"], row["secret_id"])
        except (SealedValueError, SecretStoreUnavailableError) as error:
            # It goes to the end of the row, so that it does not keep the others.
            log.error("left_over_secret_not_deleted", reason=str(error))  # noqa: TRY400
            away = error if isinstance(error, SecretStoreUnavailableError) else away
    if away is not None:
        raise away
