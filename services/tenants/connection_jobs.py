"""Timed work on connections: proving keys again, and seeing secrets that were replaced to their end.

Each step is small, found by what stands in the tables, and may be the last one before a crash.
"""

from datetime import datetime, timedelta
from uuid import UUID

import structlog

from libs.clock import utc_now
from libs.contracts.audit import SecurityEventRaised
from libs.contracts.envelope import Mode
from libs.crypto.errors import (
    MasterKeyUnavailableError,
    SealedValueError,
    SecretStoreUnavailableError,
    UnknownMasterKeyError,
)
from libs.db.pool import Row, Tx
from libs.messaging.outbox import emit
from libs.observability.metrics import SECURITY_EVENTS_TOTAL
from services.tenants import (
    connect_states,
    connection_states,
    key_use,
    raw_keys,
    secrets,
    store_secrets,
    store_tenants,
    webhooks,
)
from services.tenants import store_connections as store
from services.tenants.means import Means
from services.tenants.stripe_api import (
    Health,
    Identity,
    NotConfiguredError,
    StripeDeniedError,
    StripeError,
    StripeKeyError,
)

log = structlog.get_logger()

BATCH = 20
RETRY = timedelta(minutes=10)
DOES_NOT_OPEN = "does_not_open"
"""What is told of a key that could not be unsealed here."""
UNUSED_FOR = timedelta(minutes=10)
LOOK_HOURLY_FOR = timedelta(days=1)
ARCHIVED_MAX = timedelta(days=30)
"""A replaced key that is still alive after so long is destroyed here all the same, and told of."""


async def check_keys(means: Means) -> None:
    """Prove keys and accesses that were not proved for a day, a batch at a time."""
    async with means.database.maintenance() as tx:
        due = await store.due_key_checks(tx, utc_now(), BATCH)
    for row in due:
        await check_key(means, row["tenant_id"], row["mode"])


async def check_key(means: Means, tenant_id: UUID, mode: Mode) -> None:
    """Ask Stripe whether the key in use, or the platform's access, is still good."""
    async with means.database.tenant(tenant_id, mode) as tx:
        # Whoever comes at the same time finds it not due; a crash is made up for after a while.
        now = utc_now()
        await store_tenants.lock_tenant(tx)
        row = await store.find_connection(tx)
        if row is None:
            return
        due_at = now + RETRY if row["status"] == "CONNECTED" else None
        await store.update_connection(tx, now, key_check_due_at=due_at)
        if due_at is None:
            return
        key = await store_secrets.find_current(tx, row["connection_id"], "stripe_secret_key")
    try:
        answer = await _ask(means, row, key)
    except (
        StripeError,
        NotConfiguredError,
        MasterKeyUnavailableError,
        SecretStoreUnavailableError,
    ):
        return
    async with means.database.tenant(tenant_id, mode) as tx:
        now = utc_now()
        await store_tenants.lock_tenant(tx)
        after = await store.find_connection(tx)
        current = await store_secrets.find_current(tx, row["connection_id"], "stripe_secret_key")
        same_key = (key and key["secret_id"]) == (current and current["secret_id"])
        if after is not None and after["status"] == "CONNECTED" and same_key:
            await _take(tx, after, answer, now)


async def _ask(means: Means, row: Row, key: Row | None) -> Health | str | None:
    """What Stripe says to the key: the account, the word it refuses with, or a limited key's nothing.

    Raises:
        StripeError, NotConfiguredError, MasterKeyUnavailableError, SecretStoreUnavailableError: it
            could not be asked now.
    """
    try:
        if row["kind"] != "RAW_KEYS":
            return await means.stripe.connected_account(row["mode"], row["account_id"])
        return await means.stripe.own_account(await means.identity_of(row, key))
    except StripeKeyError as error:
        return error.code
    except StripeDeniedError as error:
        return None if row["limited"] else error.code
    except SealedValueError as error:
        log.error(  # noqa: TRY400 - a trace would show the sealed bytes
            "stripe_key_does_not_open", tenant_id=str(row["tenant_id"]), reason=str(error)
        )
        return DOES_NOT_OPEN


async def _take(tx: Tx, row: Row, answer: Health | str | None, now: datetime) -> None:
    """Set what was learned of the key and its account."""
    # A key that does not open may do so again in a moment: the keeper of its key was disturbed.
    pause = RETRY if answer == DOES_NOT_OPEN else raw_keys.CHECK_EVERY
    await store.update_connection(tx, now, key_check_due_at=now + pause)
    if isinstance(answer, str):
        if row["key_valid"]:
            await connection_states.key_failed(tx, answer, now, now)
        return
    await connection_states.key_proved(tx, row, now)
    if answer is None:
        return
    if row["account_id"] is None and await store.claim_account(tx, answer.account_id):
        await connection_states.learn_account(tx, row, raw_keys.health_values(answer, now), now)
    elif answer.account_id == row["account_id"]:
        values = raw_keys.health_values(answer, now)
        await connection_states.take_health(tx, row, values, now)


async def finish_secrets(means: Means) -> None:
    """Take replaced secrets out of use, and destroy them when they are worthless."""
    async with means.database.maintenance() as tx:
        due = await store_secrets.due_secrets(tx, utc_now(), BATCH)
    for each in due:
        tenant_id, mode, secret_id = each["tenant_id"], each["mode"], each["secret_id"]
        async with means.database.tenant(tenant_id, mode) as tx:
            row = await _retire(tx, secret_id, utc_now())
            connection = await store.find_connection(tx)
        if row is not None and row["state"] == "archived" and connection is not None:
            await _end(means, row, connection)


async def _retire(tx: Tx, secret_id: UUID, now: datetime) -> Row | None:
    """Take a previous version out of use once its time is over or nobody uses it; as it is then."""
    await store_tenants.lock_tenant(tx)
    row = await store_secrets.find_secret(tx, secret_id)
    if row is None or row["state"] != "previous":
        if row is not None:
            await store_secrets.put_off(tx, secret_id, now + RETRY)
        return row
    over = row["valid_until"] <= now
    if not over and (row["name"] == "stripe_webhook_secret" or await _is_used(tx, row, now)):
        due_at = min(row["valid_until"], now + UNUSED_FOR)
        await store_secrets.put_off(tx, secret_id, due_at)
        return row
    await store_secrets.archive_one(tx, secret_id, now)
    await secrets.publish_secrets(tx, now)
    return await store_secrets.find_secret(tx, secret_id)


async def _is_used(tx: Tx, row: Row, now: datetime) -> bool:
    """Whether somebody used this version lately, or had too little time to take the new one."""
    if row["replaced_at"] > now - UNUSED_FOR:
        return True
    uses = await key_use.uses_of(tx, row["name"], str(row["connection_id"]))
    return any(
        use["version"] == row["version"]
        and use["mode"] == row["mode"]
        and use["used_at"] > now - UNUSED_FOR
        for use in uses
    )


async def _end(means: Means, row: Row, connection: Row) -> None:
    """Destroy an archived secret: a webhook's at once, a key when Stripe refuses it."""
    now = utc_now()
    if row["reference"] is not None and means.sealer.store is None:
        log.error("secret_store_not_configured", reference=row["reference"])
        return
    dead, worthless = row["name"] == "stripe_webhook_secret", False
    if dead:
        await _remove_old_endpoints(means, connection)
    else:
        try:
            value = await secrets.read(means.sealer, row["tenant_id"], row)
            dead = await _is_dead(means, value, connection)
        except UnknownMasterKeyError:
            # This process may be behind with its master keys: looked at again later.
            log.warning("replaced_key_does_not_open", tenant_id=str(row["tenant_id"]))
        except SealedValueError:
            # It cannot be used any more, by us or anybody who has the database.
            worthless = True
        except (StripeError, MasterKeyUnavailableError, SecretStoreUnavailableError):
            return
    too_long = row["archived_at"] <= now - ARCHIVED_MAX
    if not dead and not worthless and not too_long:
        hourly = row["archived_at"] > now - LOOK_HOURLY_FOR
        async with means.database.tenant(row["tenant_id"], row["mode"]) as tx:
            due_at = now + (timedelta(hours=1) if hourly else timedelta(days=1))
            await store_secrets.put_off(tx, row["secret_id"], due_at)
        return
    if row["reference"] is not None and means.sealer.store is not None:
        try:
            await means.sealer.store.destroy(row["reference"])
        except SecretStoreUnavailableError:
            return
    dead_at = now if dead and row["name"] == "stripe_secret_key" else None
    async with means.database.tenant(row["tenant_id"], row["mode"]) as tx:
        if await store_secrets.destroy(tx, row["secret_id"], now, dead_at) and not dead:
            _warn(tx, now)


async def _is_dead(means: Means, key: str, connection: Row) -> bool:
    """Whether Stripe refuses the key; what it registered for us is taken back while it lives.

    Raises:
        StripeError: Stripe could not be asked.
    """
    identity = Identity(key)
    try:
        await means.stripe.own_account(identity)
    except StripeKeyError:
        return True
    except StripeDeniedError:
        return False
    await _remove_with(means, identity, connection)
    return False


async def _remove_old_endpoints(means: Means, connection: Row) -> None:
    """Take back the endpoint whose secret was replaced, with the key that is in use; best effort."""
    if connection["kind"] != "RAW_KEYS" or connection["status"] != "CONNECTED":
        return
    async with means.database.tenant(connection["tenant_id"], connection["mode"]) as tx:
        key = await store_secrets.find_current(tx, connection["connection_id"], "stripe_secret_key")
    try:
        await _remove_with(means, await means.identity_of(connection, key), connection)
    except (SealedValueError, MasterKeyUnavailableError, SecretStoreUnavailableError):
        log.info("old_webhook_not_removed", code="key_does_not_open")


async def _remove_with(means: Means, identity: Identity, connection: Row) -> None:
    if connection["webhook_state"] == "wanted":
        return
    try:
        metadata, keep = webhooks.metadata_of(connection), connection["webhook_endpoint_id"]
        await means.stripe.remove_webhooks(identity, metadata, keep=keep)
    except StripeError as error:
        log.info("old_webhook_not_removed", code=error.code)


def _warn(tx: Tx, now: datetime) -> None:
    """A key that was replaced long ago still works at Stripe: its owner should revoke it."""
    kind, severity = "stripe_key_still_alive", "warning"
    SECURITY_EVENTS_TOTAL.labels(kind=kind, severity=severity).inc()
    emit(
        tx,
        SecurityEventRaised(
            kind=kind,
            severity="warning",
            actor=connection_states.SYSTEM,
            service=tx.service,
            method="GET",
            path="/v1/account",
        ),
        effective_at=now,
    )


async def expire_starts(means: Means) -> None:
    """Forget ways back that are over, and starts that nobody came back from."""
    now = utc_now()
    async with means.database.maintenance() as tx:
        await store.prune_states(tx, now - timedelta(days=1))
        stale = await store.stale_starts(tx, now - connect_states.OAUTH_LIFE, BATCH)
    for row in stale:
        back = connect_states.WayBack(row["tenant_id"], row["mode"], "")
        await connect_states.unpend(means, back, connection_states.SYSTEM)
