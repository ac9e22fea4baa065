"""Registering our webhook URL in a tenant's own account, where the tenant gave no secret of its own.

Each step may be the last one before a crash: what is wanted stands in the row, an attempt makes a new
URL and takes back what an earlier attempt left at Stripe, and it counts only when its secret is kept.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.envelope import Mode
from libs.crypto.errors import (
    MasterKeyUnavailableError,
    SealedValueError,
    SecretStoreUnavailableError,
)
from libs.db.pool import Row, Tx
from libs.ids import public_id
from libs.messaging.outbox import emit
from services.tenants import raw_keys, secrets, snapshot, store_secrets, store_tenants
from services.tenants import store_connections as store
from services.tenants.means import Means
from services.tenants.stripe_api import Endpoint, StripeAwayError, StripeError

log = structlog.get_logger()

ATTEMPT_SECONDS = 60
"""How long an attempt may take before another one begins."""
RETRY = timedelta(minutes=5)
ACTOR = "system"
BATCH = 20


def metadata_of(connection: Row) -> Mapping[str, str]:
    """What our endpoints in the tenant's account are known by."""
    return {"sluice_connection": str(connection["connection_id"])}


def url_of(means: Means, token: str) -> str:
    """The address that Stripe is given."""
    return f"{means.settings.webhook_base_url}/api/webhooks/stripe/{token}"


async def run_once(means: Means) -> None:
    """Register what is wanted and was not."""
    async with means.database.maintenance() as tx:
        due = await store.due_webhooks(tx, utc_now(), BATCH)
    for row in due:
        await register(means, row["tenant_id"], row["mode"])


async def want_another(tx: Tx, actor: str, at: datetime, *, overlap: timedelta) -> bool:
    """Want a new endpoint in the place of the one we registered; False where that is not ours.

    Without an overlap the one before, and one that was replaced lately, stop at once.

    Raises:
        secrets.OverlapError: an endpoint that was replaced lately is still good.
    """
    await store_tenants.lock_tenant(tx)
    row = await store.find_connection(tx)
    if row is None or row["kind"] != "RAW_KEYS" or row["status"] != "CONNECTED":
        return False
    if row["webhook_state"] == "given":
        return False
    if overlap:
        await secrets.refuse_in_overlap(tx, row["connection_id"], "stripe_webhook_secret", at)
    hashes = row["webhook_token_hashes"]
    if row["webhook_state"] == "registered":
        hashes = hashes[:1]  # the endpoint before the registered one has had its time
    await store.update_connection(
        tx,
        at,
        webhook_state="wanted",
        webhook_failure=None,
        webhook_due_at=at,
        webhook_overlap_seconds=int(overlap.total_seconds()),
        webhook_token_hashes=hashes,
    )
    emit(
        tx,
        ConfigurationChanged(
            action="stripe_webhook.rotation_requested",
            actor=actor,
            object_id=public_id("connection", row["connection_id"]),
        ),
        effective_at=at,
    )
    return True


async def register(means: Means, tenant_id: UUID, mode: Mode) -> str | None:
    """Register the URL; the URL to be entered by hand where Stripe did not take it from us.

    An endpoint that was registered before goes on to work for the overlap that was asked for.
    """
    now = utc_now()
    token = raw_keys.new_token()
    async with means.database.tenant(tenant_id, mode) as tx:
        connection = await _begin(tx, token, now)
        if connection is None:
            return None
        key = await store_secrets.find_current(tx, connection["connection_id"], "stripe_secret_key")
    metadata, url = metadata_of(connection), url_of(means, token)
    try:
        identity = await means.identity_of(connection, key)
        kept_endpoint = connection["webhook_endpoint_id"]
        await means.stripe.remove_webhooks(identity, metadata, keep=kept_endpoint)
        endpoint = await means.stripe.register_webhook(identity, url, metadata)
        await _finish(means, connection, token, endpoint)
    except StripeAwayError as error:
        await _give_up(means, tenant_id, mode, error.code, retry_at=now + RETRY)
    except StripeError as error:
        await _give_up(means, tenant_id, mode, error.code, retry_at=None)
        return url
    except (MasterKeyUnavailableError, SecretStoreUnavailableError, SealedValueError) as error:
        # What was registered is taken back by the next attempt.
        log.warning("webhook_secret_not_kept", reason=type(error).__name__)
        await _give_up(means, tenant_id, mode, "secret_not_kept", retry_at=now + RETRY)
    return None


async def _begin(tx: Tx, token: str, now: datetime) -> Row | None:
    """Tell everybody the new URL before Stripe knows it; None where nothing is wanted any more."""
    await store_tenants.lock_tenant(tx)
    connection = await store.find_connection(tx)
    if connection is None or connection["webhook_state"] != "wanted":
        return None
    if connection["status"] != "CONNECTED" or connection["kind"] != "RAW_KEYS":
        await store.update_connection(tx, now, webhook_state="none", webhook_due_at=None)
        return None
    # An attempt takes the place of the one before it, never of the endpoint that is registered.
    hashes = [raw_keys.hash_token(token), *connection["webhook_token_hashes"][-1:]]
    await store.update_connection(
        tx,
        now,
        webhook_token_hashes=hashes,
        webhook_due_at=now + timedelta(seconds=ATTEMPT_SECONDS),
    )
    await snapshot.publish(tx, now)
    return connection


async def _give_up(
    means: Means, tenant_id: UUID, mode: Mode, failure: str, retry_at: datetime | None
) -> None:
    async with means.database.tenant(tenant_id, mode) as tx:
        await store_tenants.lock_tenant(tx)
        connection = await store.find_connection(tx)
        if connection is None or connection["webhook_state"] != "wanted":
            return
        fallen_back = "registered" if connection["webhook_endpoint_id"] else "none"
        await store.update_connection(
            tx,
            utc_now(),
            webhook_state="wanted" if retry_at else fallen_back,
            webhook_failure=failure[:100],
            webhook_due_at=retry_at,
        )


async def _finish(means: Means, connection: Row, token: str, endpoint: Endpoint) -> None:
    """Keep the endpoint's secret; nothing where another attempt or a given secret was faster."""
    tenant_id, mode, now = connection["tenant_id"], connection["mode"], utc_now()
    new = await secrets.keep(
        means.sealer,
        tenant_id,
        mode,
        "stripe_webhook_secret",
        endpoint.secret,
        pepper=means.settings.key_pepper_bytes,
        at=now,
    )
    async with means.database.tenant(tenant_id, mode) as tx:
        await store_tenants.lock_tenant(tx)
        row = await store.find_connection(tx)
        wanted = (
            row is not None
            and row["webhook_state"] == "wanted"
            and row["webhook_token_hashes"][:1] == [raw_keys.hash_token(token)]
        )
        if row is not None and wanted:
            await _enter(tx, row, new, endpoint, now)
    if not wanted:
        await secrets.discard(means.sealer, tenant_id, new)


async def _enter(
    tx: Tx, connection: Row, new: secrets.NewSecret, endpoint: Endpoint, now: datetime
) -> None:
    connection_id = connection["connection_id"]
    asked_seconds: int | None = connection["webhook_overlap_seconds"]
    overlap = raw_keys.OVERLAP_MAX if asked_seconds is None else timedelta(seconds=asked_seconds)
    version = await secrets.enter(tx, connection_id, new, actor=ACTOR, at=now, overlap=overlap)
    await store.update_connection(
        tx,
        now,
        webhook_state="registered",
        webhook_failure=None,
        webhook_due_at=None,
        webhook_overlap_seconds=None,
        webhook_endpoint_id=endpoint.endpoint_id,
    )
    emit(
        tx,
        ConfigurationChanged(
            action="stripe_webhook.registered",
            actor=ACTOR,
            object_id=public_id("connection", connection_id),
            after={
                "endpoint": endpoint.endpoint_id,
                "webhook_secret_version": version,
                "webhook_secret_last4": new.last4,
            },
        ),
        effective_at=now,
    )
    await secrets.publish_secrets(tx, now)
    await snapshot.publish(tx, now)
