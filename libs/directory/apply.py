"""Taking snapshots from `tenants.directory` into the service's own tables."""

from libs.contracts.envelope import Envelope
from libs.contracts.tenants import TenantSnapshot
from libs.db.pool import Tx


async def apply_snapshot(event: Envelope[TenantSnapshot], tx: Tx) -> None:
    """Replace a tenant's record; only a higher version is applied."""
    snapshot = event.data
    changed = await tx.execute(
        """
        insert into directory as d (tenant_id, version, slug, clock_offset_seconds, snapshot)
        values ($1, $2, $3, $4, $5)
        on conflict (tenant_id) do update set version = excluded.version, slug = excluded.slug,
            clock_offset_seconds = excluded.clock_offset_seconds, snapshot = excluded.snapshot,
            applied_at = now()
        where d.version < excluded.version
        """,
        event.tenant_id,
        snapshot.version,
        snapshot.slug,
        snapshot.clock_offset_seconds,
        snapshot.model_dump(mode="json"),
    )
    if not changed:
        return
    lookups = {("id", str(event.tenant_id)), ("slug", snapshot.slug)}
    lookups |= {("key", key.prefix) for key in snapshot.api_keys}
    for stripe in snapshot.stripe:
        for stripe_id in (*stripe.customer_ids, *stripe.subscription_ids):
            lookups.add(("stripe", f"{stripe.mode}:{stripe_id}"))
    for connection in snapshot.connections:
        lookups |= {("webhook_token", digest) for digest in connection.webhook_token_hashes}
        if connection.account_id is not None and connection.status != "REVOKED":
            # Another tenant may have connected the account since.
            lookups.add(("account", f"{connection.mode}:{connection.account_id}"))
    await tx.execute("delete from directory_lookup where tenant_id = $1", event.tenant_id)
    await tx.executemany(
        "insert into directory_lookup (kind, value, tenant_id) values ($1, $2, $3) "
        "on conflict (kind, value) do nothing",
        [(kind, value, event.tenant_id) for kind, value in sorted(lookups)],
    )
