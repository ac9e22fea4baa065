"""SQL of API keys, data keys and signing keys."""

from datetime import datetime
from uuid import UUID

from libs.crypto.sealed import DataKey
from libs.db.pool import Row, Tx

_API_KEY = (
    "key_id, mode, prefix, key_hash, name, scopes, operator, expires_at, revoked_at, created_by, "
    "created_at"
)


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
) -> Row:
    """Enter a key; never its secret."""
    row = await tx.fetchrow(
        f"""
        insert into api_key (tenant_id, key_id, mode, prefix, key_hash, name, scopes, operator,
            expires_at, created_by, created_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) returning {_API_KEY}
        """,  # noqa: S608 - constants only
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
    )
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


async def count_keys(tx: Tx) -> int:
    """How many keys of the tenant are not revoked."""
    return int(
        await tx.fetchval(
            "select count(*) from api_key where tenant_id = $1 and revoked_at is null",
            tx.tenant_id,
        )
    )


async def published_keys(tx: Tx, revoked_max: int) -> list[Row]:
    """The keys that the directory tells of: all valid ones, and the latest revoked."""
    return await tx.fetch(
        f"""
        (select {_API_KEY} from api_key where tenant_id = $1 and revoked_at is null)
        union all
        (select {_API_KEY} from api_key where tenant_id = $1 and revoked_at is not null
         order by revoked_at desc, key_id desc limit $2)
        order by key_id
        """,  # noqa: S608 - constants only
        tx.tenant_id,
        revoked_max,
    )


async def list_api_keys(
    tx: Tx, modes: list[str], after: tuple[datetime, UUID] | None, limit: int
) -> list[Row]:
    """The tenant's keys of these modes, oldest first, revoked ones too."""
    at, key_id = after or (None, None)
    return await tx.fetch(
        f"""
        select {_API_KEY} from api_key where tenant_id = $1 and mode = any($2::text[])
          and ($3::timestamptz is null or (created_at, key_id) > ($3, $4::uuid))
        order by created_at, key_id limit $5
        """,  # noqa: S608 - constants only
        tx.tenant_id,
        modes,
        at,
        key_id,
        limit,
    )


async def find_api_key(tx: Tx, key_id: UUID) -> Row | None:
    """A key of the tenant."""
    return await tx.fetchrow(
        f"select {_API_KEY} from api_key where tenant_id = $1 and key_id = $2",  # noqa: S608
        tx.tenant_id,
        key_id,
    )


async def revoke_api_key(tx: Tx, key_id: UUID, at: datetime) -> bool:
    """Revoke a key; False when it was."""
    revoked = await tx.execute(
        "update api_key set revoked_at = $3 "
        "where tenant_id = $1 and key_id = $2 and revoked_at is null",
        tx.tenant_id,
        key_id,
        at,
    )
    return revoked == 1


async def newest_data_key(tx: Tx) -> DataKey | None:
    """The data key that new values are sealed under; locked, for its uses are counted."""
    row = await tx.fetchrow(
        "select data_key_id, tenant_id, wrapped, created_at, uses from data_key "
        "where tenant_id = $1 order by created_at desc, data_key_id desc limit 1 for update",
        tx.tenant_id,
    )
    return None if row is None else _data_key(row)


async def find_data_key(tx: Tx, data_key_id: UUID) -> DataKey | None:
    """A data key of the tenant."""
    row = await tx.fetchrow(
        "select data_key_id, tenant_id, wrapped, created_at, uses from data_key "
        "where tenant_id = $1 and data_key_id = $2",
        tx.tenant_id,
        data_key_id,
    )
    return None if row is None else _data_key(row)


async def insert_data_key(tx: Tx, key: DataKey) -> None:
    """Enter a wrapped data key."""
    await tx.execute(
        "insert into data_key (tenant_id, data_key_id, wrapped, uses, created_at) "
        "values ($1, $2, $3, $4, $5)",
        key.tenant_id,
        key.id,
        key.wrapped,
        key.uses,
        key.created_at,
    )


async def count_use(tx: Tx, data_key_id: UUID) -> None:
    """Count one more value sealed under a key."""
    await tx.execute(
        "update data_key set uses = uses + 1 where tenant_id = $1 and data_key_id = $2",
        tx.tenant_id,
        data_key_id,
    )


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


def _data_key(row: Row) -> DataKey:
    return DataKey(
        row["data_key_id"], row["tenant_id"], row["wrapped"], row["created_at"], row["uses"]
    )
