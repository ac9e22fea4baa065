"""SQL of Stripe connections: what they are, whose accounts they hold, and their ways back."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.db.pool import Row, Tx

_UPDATABLE = frozenset(
    {
        "kind",
        "status",
        "is_active",
        "account_id",
        "account_since",
        "publishable_key",
        "limited",
        "charges_enabled",
        "payouts_enabled",
        "details_submitted",
        "requirements_due",
        "disabled_reason",
        "health_at",
        "key_valid",
        "key_failure",
        "key_checked_at",
        "key_check_due_at",
        "webhook_state",
        "webhook_failure",
        "webhook_endpoint_id",
        "webhook_token_hashes",
        "webhook_due_at",
        "webhook_overlap_seconds",
        "pending_since",
        "connected_at",
        "revoked_at",
        "revoked_by_event",
    }
)


async def list_connections(tx: Tx) -> list[Row]:
    """The connections of the tenant in scope, of both modes, each with its key's version."""
    return await tx.fetch(
        """
        select c.*, coalesce((
            select s.version from connection_secret s
            where s.tenant_id = c.tenant_id and s.mode = c.mode
              and s.connection_id = c.connection_id and s.name = 'stripe_secret_key'
              and s.state = 'current'), 0) as credential_version
        from stripe_connection c where c.tenant_id = $1 order by c.mode
        """,
        tx.tenant_id,
    )


async def find_connection(tx: Tx) -> Row | None:
    """The connection of the tenant and mode in scope."""
    return await tx.fetchrow(
        "select * from stripe_connection where tenant_id = $1 and mode = $2", tx.tenant_id, tx.mode
    )


async def insert_connection(
    tx: Tx, connection_id: UUID, kind: str, status: str, actor: str, at: datetime
) -> None:
    """Enter a connection; nothing where the tenant has one in this mode."""
    await tx.execute(
        """
        insert into stripe_connection (tenant_id, mode, connection_id, kind, status, created_by,
            created_at, updated_at)
        values ($1, $2, $3, $4, $5, $6, $7, $7) on conflict (tenant_id, mode) do nothing
        """,
        tx.tenant_id,
        tx.mode,
        connection_id,
        kind,
        status,
        actor,
        at,
    )


async def update_connection(tx: Tx, at: datetime, **values: Any) -> None:
    """Set columns of the connection in scope."""
    assert values.keys() <= _UPDATABLE, "only columns of the connection are set"
    names = sorted(values)
    columns = ", ".join(f"{name} = ${place}" for place, name in enumerate(names, start=4))
    await tx.execute(
        f"update stripe_connection set updated_at = greatest(updated_at, $3), {columns} "  # noqa: S608
        "where tenant_id = $1 and mode = $2",
        tx.tenant_id,
        tx.mode,
        at,
        *(values[name] for name in names),
    )


async def set_fees(
    tx: Tx,
    at: datetime,
    *,
    basis_points: int,
    fixed_minor: int,
    currency: str | None,
    platform_version: int,
) -> bool:
    """Copy the platform's share into the connections of the tenant in scope; whether it is another."""
    changed = await tx.execute(
        """
        update stripe_connection set application_fee_basis_points = $2,
            application_fee_fixed_minor = $3, application_fee_currency = $4,
            updated_at = greatest(updated_at, $5)
        where tenant_id = $1 and (application_fee_basis_points, application_fee_fixed_minor,
            application_fee_currency) is distinct from ($2::integer, $3::bigint, $4::text)
        """,
        tx.tenant_id,
        basis_points or None,
        fixed_minor or None,
        currency if fixed_minor else None,
        at,
    )
    await tx.execute(
        "update stripe_connection set platform_fees_version = $2 "
        "where tenant_id = $1 and platform_fees_version is distinct from $2",
        tx.tenant_id,
        platform_version,
    )
    return bool(changed)


async def without_fees_of(tx: Tx, platform_version: int, limit: int) -> Sequence[Row]:
    """Tenants whose connections know no or another platform's share; for the maintenance role."""
    return await tx.fetch(
        "select distinct tenant_id from stripe_connection "
        "where platform_fees_version is distinct from $1 limit $2",
        platform_version,
        limit,
    )


async def claim_account(tx: Tx, account_id: str) -> bool:
    """Take a Stripe account for the tenant in scope; False when it is another's."""
    taken = await tx.execute(
        "insert into stripe_account_owner (mode, account_id, tenant_id) values ($1, $2, $3) "
        "on conflict do nothing",
        tx.mode,
        account_id,
        tx.tenant_id,
    )
    return bool(taken) or await has_account(tx, account_id)


async def has_account(tx: Tx, account_id: str) -> bool:
    """Whether a Stripe account is the tenant's in scope, connected now or once."""
    return bool(
        await tx.fetchval(
            "select exists (select from stripe_account_owner "
            "where tenant_id = $1 and mode = $2 and account_id = $3)",
            tx.tenant_id,
            tx.mode,
            account_id,
        )
    )


async def release_account(tx: Tx, account_id: str) -> None:
    """Give up one account of the tenant in scope."""
    await tx.execute(
        "delete from stripe_account_owner where tenant_id = $1 and mode = $2 and account_id = $3",
        tx.tenant_id,
        tx.mode,
        account_id,
    )


async def release_accounts(tx: Tx) -> None:
    """Give up every account that the tenant in scope has in this mode."""
    await tx.execute(
        "delete from stripe_account_owner where tenant_id = $1 and mode = $2",
        tx.tenant_id,
        tx.mode,
    )


async def insert_state(
    tx: Tx,
    *,
    state_hash: bytes,
    purpose: str,
    actor: str,
    session_id: UUID | None,
    return_to: str,
    confirm_account_change: bool,
    at: datetime,
    expires_at: datetime,
) -> None:
    """Enter a way back."""
    await tx.execute(
        """
        insert into connect_state (tenant_id, mode, state_hash, purpose, actor, session_id,
            return_to, confirm_account_change, created_at, expires_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        """,
        tx.tenant_id,
        tx.mode,
        state_hash,
        purpose,
        actor,
        session_id,
        return_to,
        confirm_account_change,
        at,
        expires_at,
    )


async def count_states(tx: Tx, now: datetime) -> int:
    """How many ways back are open."""
    return int(
        await tx.fetchval(
            "select count(*) from connect_state where tenant_id = $1 and mode = $2 "
            "and used_at is null and expires_at > $3",
            tx.tenant_id,
            tx.mode,
            now,
        )
    )


async def find_state(tx: Tx, state_hash: bytes, now: datetime) -> Row | None:
    """A way back that is still good, locked until commit."""
    return await tx.fetchrow(
        "select * from connect_state where tenant_id = $1 and mode = $2 and state_hash = $3 "
        "and used_at is null and expires_at > $4 for update",
        tx.tenant_id,
        tx.mode,
        state_hash,
        now,
    )


async def use_state(tx: Tx, state_hash: bytes, at: datetime) -> None:
    """Mark a way back as used."""
    await tx.execute(
        "update connect_state set used_at = $4 "
        "where tenant_id = $1 and mode = $2 and state_hash = $3 and used_at is null",
        tx.tenant_id,
        tx.mode,
        state_hash,
        at,
    )


async def prune_states(tx: Tx, before: datetime) -> None:
    """Delete ways back that ended before this and are settled; for the maintenance role."""
    await tx.execute(
        "delete from connect_state where expires_at < $1 and settle_due_at is null", before
    )


async def begin_exchange(tx: Tx, state_hash: bytes, settle_due_at: datetime) -> None:
    """Note that the code of a way back is exchanged now: it is settled by then, or looked at."""
    await tx.execute(
        "update connect_state set settle_due_at = $4 "
        "where tenant_id = $1 and mode = $2 and state_hash = $3",
        tx.tenant_id,
        tx.mode,
        state_hash,
        settle_due_at,
    )


async def keep_exchanged(tx: Tx, state_hash: bytes, account_id: str) -> None:
    """Keep the account that a code was exchanged for."""
    await tx.execute(
        "update connect_state set exchanged_account = $4 "
        "where tenant_id = $1 and mode = $2 and state_hash = $3",
        tx.tenant_id,
        tx.mode,
        state_hash,
        account_id,
    )


async def settle(tx: Tx, state_hash: bytes) -> None:
    """What came of an exchange stands in the connection, or was given back."""
    await tx.execute(
        "update connect_state set settle_due_at = null "
        "where tenant_id = $1 and mode = $2 and state_hash = $3",
        tx.tenant_id,
        tx.mode,
        state_hash,
    )


async def unsettled(tx: Tx, now: datetime, limit: int) -> Sequence[Row]:
    """Exchanges that nobody has seen to their end; for the maintenance role."""
    return await tx.fetch(
        "select tenant_id, mode, state_hash, exchanged_account from connect_state "
        "where settle_due_at <= $1 order by settle_due_at limit $2",
        now,
        limit,
    )


async def stale_starts(tx: Tx, before: datetime, limit: int) -> Sequence[Row]:
    """Connections on their way by OAuth since before then; for the maintenance role."""
    return await tx.fetch(
        """
        select tenant_id, mode from stripe_connection
        where status = 'PENDING' and pending_since < $1
          and (account_id is null or health_at is null or health_at < pending_since)
        order by pending_since limit $2
        """,
        before,
        limit,
    )


async def due_key_checks(tx: Tx, now: datetime, limit: int) -> Sequence[Row]:
    """Connections whose key is to be proved again; for the maintenance role."""
    return await tx.fetch(
        "select tenant_id, mode from stripe_connection where key_check_due_at <= $1 "
        "order by key_check_due_at limit $2",
        now,
        limit,
    )


async def due_webhooks(tx: Tx, now: datetime, limit: int) -> Sequence[Row]:
    """Connections whose webhook is to be registered; for the maintenance role."""
    return await tx.fetch(
        "select tenant_id, mode from stripe_connection where webhook_due_at <= $1 "
        "order by webhook_due_at limit $2",
        now,
        limit,
    )
