"""SQL of connections' secrets: their versions, and what is told of them."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from libs.db.pool import Row, Tx

SECRETS_MAX = 20
"""Published of one tenant: two modes, two names, two versions, and room."""


async def list_secrets(tx: Tx, connection_id: UUID) -> list[Row]:
    """What is known of the versions of a connection's secrets, the newest first; none of them."""
    return await tx.fetch(
        """
        select secret_id, name, version, state, valid_until, fingerprint, last4, created_by,
            created_at, replaced_at, archived_at, destroyed_at, dead_at
        from connection_secret where tenant_id = $1 and mode = $2 and connection_id = $3
        order by name, version desc limit 100
        """,
        tx.tenant_id,
        tx.mode,
        connection_id,
    )


async def find_current(tx: Tx, connection_id: UUID, name: str) -> Row | None:
    """The current version of a secret, as it is kept."""
    return await tx.fetchrow(
        "select * from connection_secret where tenant_id = $1 and mode = $2 "
        "and connection_id = $3 and name = $4 and state = 'current'",
        tx.tenant_id,
        tx.mode,
        connection_id,
        name,
    )


async def previous_valid_until(tx: Tx, connection_id: UUID, name: str) -> datetime | None:
    """Until when a version that was replaced stays good; None: there is none in use."""
    until: datetime | None = await tx.fetchval(
        "select max(valid_until) from connection_secret where tenant_id = $1 and mode = $2 "
        "and connection_id = $3 and name = $4 and state = 'previous'",
        tx.tenant_id,
        tx.mode,
        connection_id,
        name,
    )
    return until


async def find_secret(tx: Tx, secret_id: UUID) -> Row | None:
    """A version of a secret, locked until commit."""
    return await tx.fetchrow(
        "select * from connection_secret where tenant_id = $1 and mode = $2 and secret_id = $3 "
        "for update",
        tx.tenant_id,
        tx.mode,
        secret_id,
    )


async def next_version(tx: Tx, connection_id: UUID, name: str) -> int:
    """The number of the next version."""
    return int(
        await tx.fetchval(
            "select coalesce(max(version), 0) + 1 from connection_secret "
            "where tenant_id = $1 and mode = $2 and connection_id = $3 and name = $4",
            tx.tenant_id,
            tx.mode,
            connection_id,
            name,
        )
    )


async def insert_secret(
    tx: Tx,
    *,
    secret_id: UUID,
    connection_id: UUID,
    name: str,
    version: int,
    fingerprint: str,
    last4: str,
    sealed: bytes | None,
    reference: str | None,
    data_key_id: UUID | None,
    actor: str,
    at: datetime,
) -> None:
    """Enter the current version of a secret."""
    await tx.execute(
        """
        insert into connection_secret (tenant_id, mode, secret_id, connection_id, name, version,
            state, fingerprint, last4, sealed, reference, data_key_id, created_by, created_at)
        values ($1, $2, $3, $4, $5, $6, 'current', $7, $8, $9, $10, $11, $12, $13)
        """,
        tx.tenant_id,
        tx.mode,
        secret_id,
        connection_id,
        name,
        version,
        fingerprint,
        last4,
        sealed,
        reference,
        data_key_id,
        actor,
        at,
    )


async def step_down(
    tx: Tx, connection_id: UUID, name: str, *, at: datetime, valid_until: datetime, due_at: datetime
) -> None:
    """Make the current version the previous one, valid until then."""
    await tx.execute(
        """
        update connection_secret set state = 'previous', replaced_at = $5, valid_until = $6,
            check_due_at = $7
        where tenant_id = $1 and mode = $2 and connection_id = $3 and name = $4
          and state = 'current'
        """,
        tx.tenant_id,
        tx.mode,
        connection_id,
        name,
        at,
        valid_until,
        due_at,
    )


async def archive(
    tx: Tx,
    connection_id: UUID,
    *,
    at: datetime,
    name: str | None = None,
    states: Sequence[str] = ("previous",),
) -> int:
    """Take versions out of use; how many. They are kept until they are destroyed, due at once."""
    return await tx.execute(
        """
        update connection_secret set state = 'archived', archived_at = $5, check_due_at = $5,
            replaced_at = coalesce(replaced_at, $5), valid_until = $5
        where tenant_id = $1 and mode = $2 and connection_id = $3
          and ($4::text is null or name = $4) and state = any($6::text[])
        """,
        tx.tenant_id,
        tx.mode,
        connection_id,
        name,
        at,
        list(states),
    )


async def archive_one(tx: Tx, secret_id: UUID, at: datetime) -> None:
    """Take a previous version out of use."""
    await tx.execute(
        "update connection_secret set state = 'archived', archived_at = $4, check_due_at = $4, "
        "valid_until = least(valid_until, $4) "
        "where tenant_id = $1 and mode = $2 and secret_id = $3 and state = 'previous'",
        tx.tenant_id,
        tx.mode,
        secret_id,
        at,
    )


async def destroy(tx: Tx, secret_id: UUID, at: datetime, dead_at: datetime | None) -> bool:
    """Forget a version's value for good; False when it is gone."""
    destroyed = await tx.execute(
        """
        update connection_secret set state = 'destroyed', sealed = null, reference = null,
            data_key_id = null, destroyed_at = $4, dead_at = $5, check_due_at = null
        where tenant_id = $1 and mode = $2 and secret_id = $3 and state = 'archived'
        """,
        tx.tenant_id,
        tx.mode,
        secret_id,
        at,
        dead_at,
    )
    return destroyed == 1


async def put_off(tx: Tx, secret_id: UUID, due_at: datetime) -> None:
    """Look at a version again later."""
    await tx.execute(
        "update connection_secret set check_due_at = $4 "
        "where tenant_id = $1 and mode = $2 and secret_id = $3",
        tx.tenant_id,
        tx.mode,
        secret_id,
        due_at,
    )


async def due_secrets(tx: Tx, now: datetime, limit: int) -> list[Row]:
    """Previous and archived versions to be looked at; for the maintenance role."""
    return await tx.fetch(
        "select tenant_id, mode, secret_id from connection_secret "
        "where state in ('previous', 'archived') and check_due_at <= $1 "
        "order by check_due_at limit $2",
        now,
        limit,
    )


async def published_secrets(tx: Tx) -> list[Row]:
    """The versions in use, of both modes."""
    return await tx.fetch(
        "select secret_id, connection_id, mode, name, version, valid_until, sealed, reference, "
        "data_key_id from connection_secret where tenant_id = $1 "
        "and state in ('current', 'previous') order by mode, name, version desc limit $2",
        tx.tenant_id,
        SECRETS_MAX,
    )


async def published_data_keys(tx: Tx) -> list[Row]:
    """The wrapped keys of what is published."""
    return await tx.fetch(
        """
        select data_key_id, wrapped from data_key
        where tenant_id = $1 and data_key_id in (
            select data_key_id from connection_secret
            where tenant_id = $1 and state in ('current', 'previous') and sealed is not null)
        order by data_key_id
        """,
        tx.tenant_id,
    )


async def raise_secrets_version(tx: Tx) -> int:
    """The next version of the tenant's sealed secrets; its row stays locked until commit."""
    return int(
        await tx.fetchval(
            "insert into secrets_version as v (tenant_id, version) values ($1, 1) "
            "on conflict (tenant_id) do update set version = v.version + 1 returning version",
            tx.tenant_id,
        )
    )
