"""SQL of API keys and signing keys."""

from datetime import datetime
from uuid import UUID

from libs.db.pool import Row, Tx

_API_KEY = "key_id, mode, prefix, key_hash, scopes, operator, expires_at, revoked_at"
"""What the directory tells of a key."""

# A key as people see it: what took its place, and when any service last saw it used.
_SHOWN_KEY = """
    select k.*,
        (select n.key_id from api_key n
         where n.tenant_id = k.tenant_id and n.replaces = k.key_id) as replaced_by,
        (select max(u.used_at) from key_use u
         where u.tenant_id = k.tenant_id and u.kind = 'api_key'
           and u.object_id = k.key_id::text) as last_used_at
    from api_key k
"""


async def insert_api_key(
    tx: Tx,
    *,
    key_id: UUID,
    mode: str,
    prefix: str,
    key_hash: bytes,
    name: str,
    scopes: list[str],
    operator: bool,
    expires_at: datetime | None,
    created_by: str,
    at: datetime,
    replaces: UUID | None = None,
) -> Row:
    """Enter a key; never its secret."""
    await tx.execute(
        """
        insert into api_key (tenant_id, key_id, mode, prefix, key_hash, name, scopes, operator,
            expires_at, created_by, created_at, replaces)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
        """,
        tx.tenant_id,
        key_id,
        mode,
        prefix,
        key_hash,
        name,
        scopes,
        operator,
        expires_at,
        created_by,
        at,
        replaces,
    )
    row = await find_api_key(tx, key_id)
    assert row is not None, "the row was entered"
    return row


async def has_prefix(tx: Tx, prefix: str) -> bool:
    """Whether the tenant has, or had, a key with this look-up prefix."""
    return bool(
        await tx.fetchval(
            "select exists (select from api_key where tenant_id = $1 and prefix = $2)",
            tx.tenant_id,
            prefix,
        )
    )


async def count_keys(tx: Tx, at: datetime) -> int:
    """How many keys of the tenant are valid."""
    return int(
        await tx.fetchval(
            "select count(*) from api_key where tenant_id = $1 and revoked_at is null "
            "and (expires_at is null or expires_at > $2)",
            tx.tenant_id,
            at,
        )
    )


async def published_keys(tx: Tx, ended_max: int, at: datetime) -> list[Row]:
    """The keys that the directory tells of: all valid ones, and those that ended last."""
    return await tx.fetch(
        f"""
        (select {_API_KEY} from api_key where tenant_id = $1 and revoked_at is null
           and (expires_at is null or expires_at > $3))
        union all
        (select {_API_KEY} from api_key where tenant_id = $1
           and (revoked_at is not null or expires_at <= $3)
         order by least(revoked_at, expires_at) desc, key_id desc limit $2)
        order by key_id
        """,  # noqa: S608 - constants only
        tx.tenant_id,
        ended_max,
        at,
    )


async def list_api_keys(
    tx: Tx, modes: list[str], after: tuple[datetime, UUID] | None, limit: int
) -> list[Row]:
    """The tenant's keys of these modes, oldest first, those that ended too."""
    at, key_id = after or (None, None)
    return await tx.fetch(
        f"""
        {_SHOWN_KEY} where k.tenant_id = $1 and k.mode = any($2::text[])
          and ($3::timestamptz is null or (k.created_at, k.key_id) > ($3, $4::uuid))
        order by k.created_at, k.key_id limit $5
        """,
        tx.tenant_id,
        modes,
        at,
        key_id,
        limit,
    )


async def find_api_key(tx: Tx, key_id: UUID) -> Row | None:
    """A key of the tenant."""
    return await tx.fetchrow(
        f"{_SHOWN_KEY} where k.tenant_id = $1 and k.key_id = $2", tx.tenant_id, key_id
    )


async def keys_made_by(tx: Tx, maker: str, at: datetime) -> list[Row]:
    """The tenant's valid keys that somebody made, or a key did that somebody made, and so on."""
    return await tx.fetch(
        """
        with recursive made as (
            select * from api_key where tenant_id = $1 and created_by = $2
            union
            select k.* from api_key k join made m on k.created_by = 'key_' || m.key_id
            where k.tenant_id = $1)
        select * from made where revoked_at is null and (expires_at is null or expires_at > $3)
        order by key_id
        """,
        tx.tenant_id,
        maker,
        at,
    )


async def revoke_api_key(tx: Tx, key_id: UUID, reason: str | None, at: datetime) -> bool:
    """Revoke a key; False when it was."""
    revoked = await tx.execute(
        "update api_key set revoked_at = $3, revoke_reason = $4 "
        "where tenant_id = $1 and key_id = $2 and revoked_at is null",
        tx.tenant_id,
        key_id,
        at,
        reason,
    )
    return revoked == 1


async def end_api_key(tx: Tx, key_id: UUID, expires_at: datetime) -> datetime:
    """Let a key end at a time, or earlier where it would anyway; when it ends."""
    ends_at: datetime = await tx.fetchval(
        "update api_key set expires_at = least(expires_at, $3) "
        "where tenant_id = $1 and key_id = $2 returning expires_at",
        tx.tenant_id,
        key_id,
        expires_at,
    )
    return ends_at


async def insert_signing_key(
    tx: Tx,
    *,
    key_id: str,
    public_key: str,
    private_key_sealed: bytes,
    data_key_id: UUID,
    at: datetime,
) -> None:
    """Enter a key that signs assertions."""
    await tx.execute(
        "insert into signing_key (tenant_id, key_id, public_key, private_key_sealed, data_key_id, "
        "created_at) values ($1, $2, $3, $4, $5, $6)",
        tx.tenant_id,
        key_id,
        public_key,
        private_key_sealed,
        data_key_id,
        at,
    )


async def signing_keys(tx: Tx) -> list[Row]:
    """The keys whose assertions are valid, the newest first; the first one signs."""
    return await tx.fetch(
        "select key_id, public_key, private_key_sealed, data_key_id from signing_key "
        "where tenant_id = $1 order by created_at desc, key_id",
        tx.tenant_id,
    )
