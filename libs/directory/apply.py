"""Taking snapshots from `tenants.directory` into the service's own tables."""

from functools import partial

from libs.contracts.envelope import Envelope
from libs.contracts.tenants import TenantSnapshot
from libs.db.pool import Tx
from libs.directory.arrivals import RECORDS


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
    accounts = _accounts(snapshot)
    # Also as an exact look-up, for those that know no other; the first to come has it there.
    lookups |= {("account", value) for value in accounts}
    await tx.execute("delete from directory_lookup where tenant_id = $1", event.tenant_id)
    await tx.executemany(
        "insert into directory_lookup (kind, value, tenant_id) values ($1, $2, $3) "
        "on conflict (kind, value) do nothing",
        [(kind, value, event.tenant_id) for kind, value in sorted(lookups)],
    )
    await tx.execute(
        "delete from directory_account where tenant_id = $1 and not (value = any($2::text[]))",
        event.tenant_id,
        accounts,
    )
    await tx.execute(
        "insert into directory_account (tenant_id, value, claimed_at) "
        "select $1, v, $3 from unnest($2::text[]) v "
        "on conflict (tenant_id, value) do update set claimed_at = excluded.claimed_at",
        event.tenant_id,
        accounts,
        event.occurred_at,
    )
    tx.after_commit.append(partial(RECORDS.note, tx.service, event.tenant_id, snapshot.version))


def _accounts(snapshot: TenantSnapshot) -> list[str]:
    """The Stripe accounts that the record names as the tenant's.

    Another tenant may connect one later. Its record, told later by the one service that gives accounts
    away, names it later, in whatever order the two arrive.
    """
    return sorted(
        {
            f"{connection.mode}:{connection.account_id}"
            for connection in snapshot.connections
            if connection.account_id is not None and connection.status != "REVOKED"
        }
    )
