"""SQL of tenants' connections: which were seen, which keys were refused, who withdrew."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.db.pool import Row, Tx

Json = dict[str, Any]


async def note_refused(
    tx: Tx, connection_id: UUID, version: int, code: str, refused_at: datetime
) -> bool:
    """Enter a version of a key that Stripe refused; False where that is known."""
    inserted = await tx.execute(
        """
        insert into refused_credential (tenant_id, mode, connection_id, version, code, refused_at)
        values ($1, $2, $3, $4, $5, $6) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        connection_id,
        version,
        code,
        refused_at,
    )
    return inserted == 1


async def note_deauthorized(
    tx: Tx, account: str, stripe_event_id: str, deauthorized_at: datetime
) -> bool:
    """Enter that a tenant withdrew access at Stripe; False where that is known."""
    inserted = await tx.execute(
        """
        insert into deauthorization (tenant_id, mode, account, stripe_event_id, deauthorized_at)
        values ($1, $2, $3, $4, $5) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        account,
        stripe_event_id,
        deauthorized_at,
    )
    return inserted == 1


async def changed_tenants(tx: Tx, applied_since: datetime, limit: int) -> Sequence[Row]:
    """Tenants whose record is newer than what was seen of its connections, the oldest first."""
    return await tx.fetch(
        """
        select d.tenant_id, d.version, d.snapshot -> 'connections' as connections, d.applied_at
        from directory d where d.applied_at >= $1
            and jsonb_array_length(d.snapshot -> 'connections') > 0
            and not exists (select from seen_connection s
                where s.tenant_id = d.tenant_id and s.directory_version >= d.version)
        order by d.applied_at limit $2
        """,
        applied_since,
        limit,
    )


async def tenant_of(tx: Tx, account: str, mode: str) -> UUID | None:
    """The tenant that has an account now."""
    found: UUID | None = await tx.fetchval(
        "select (find_tenant('account', $1) ->> 'tenant_id')::uuid", f"{mode}:{account}"
    )
    return found


async def was_anothers(tx: Tx, account: str, mode: str, tenant_id: UUID) -> bool:
    """Whether objects of an account were mirrored for another tenant."""
    return bool(
        await tx.fetchval(
            "select exists (select from stripe_object "
            "where account = $1 and mode = $2 and tenant_id <> $3)",
            account,
            mode,
            tenant_id,
        )
    )


async def see(tx: Tx, version: int, state: Json) -> Json | None:
    """Remember a connection as the directory has it; what was seen of it before."""
    before: Json | None = await tx.fetchval(
        "select state from seen_connection where tenant_id = $1 and mode = $2",
        tx.tenant_id,
        tx.mode,
    )
    await tx.execute(
        """
        insert into seen_connection as s (tenant_id, mode, directory_version, state)
        values ($1, $2, $3, $4)
        on conflict (tenant_id, mode) do update set state = excluded.state,
            directory_version = excluded.directory_version
        where s.directory_version < excluded.directory_version
        """,
        tx.tenant_id,
        tx.mode,
        version,
        state,
    )
    return before


async def forget_what_was_said(tx: Tx, account: str) -> None:
    """Have the health of an account told anew, even where Stripe says what it said before."""
    await tx.execute(
        "update stripe_object set fact = null where tenant_id = $1 and mode = $2 and account = $3 "
        "and object_type = 'account' and fact is not null",
        tx.tenant_id,
        tx.mode,
        account,
    )


async def drop_ended(tx: Tx) -> None:
    """Take away the marks of accounts whose connection has ended: nothing of them can be fetched."""
    await tx.execute(
        """
        delete from dirty_object d using seen_connection s
        where s.tenant_id = d.tenant_id and s.mode = d.mode
            and s.state ->> 'account_id' = d.account and s.state ->> 'status' = 'REVOKED'
        """
    )
