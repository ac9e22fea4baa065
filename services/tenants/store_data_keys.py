"""SQL of data keys: wrapped, counted, and never deleted while a sealed value names them."""

from datetime import datetime
from uuid import UUID

import asyncpg

from libs.crypto.sealed import DataKey
from libs.db.pool import Row, Tx

_DATA_KEY = "data_key_id, tenant_id, wrapped, created_at, uses"


async def lock_data_keys(tx: Tx) -> None:
    """Hold the tenant's data keys until commit, so that two makers make one."""
    await tx.execute(
        "select pg_advisory_xact_lock(hashtextextended($1, 0))", f"data_key {tx.tenant_id}"
    )


async def newest_data_key(tx: Tx) -> DataKey | None:
    """The data key that new values are sealed under; locked, for its uses are counted."""
    row = await tx.fetchrow(
        f"select {_DATA_KEY} from data_key where tenant_id = $1 "  # noqa: S608 - constants only
        "order by created_at desc, data_key_id desc limit 1 for update",
        tx.tenant_id,
    )
    return None if row is None else _data_key(row)


async def find_data_key(tx: Tx, data_key_id: UUID) -> DataKey | None:
    """A data key of the tenant."""
    row = await tx.fetchrow(
        f"select {_DATA_KEY} from data_key where tenant_id = $1 and data_key_id = $2",  # noqa: S608
        tx.tenant_id,
        data_key_id,
    )
    return None if row is None else _data_key(row)


async def older_data_keys(tx: Tx, before: datetime) -> list[UUID]:
    """The tenant's data keys that were made before this."""
    rows = await tx.fetch(
        "select data_key_id from data_key where tenant_id = $1 and created_at < $2 "
        "order by created_at, data_key_id",
        tx.tenant_id,
        before,
    )
    return [row["data_key_id"] for row in rows]


async def insert_data_key(tx: Tx, key: DataKey) -> None:
    """Enter a wrapped data key."""
    await tx.execute(
        "insert into data_key (tenant_id, data_key_id, wrapped, uses, created_at, wrapped_at, "
        "master_key_id) values ($1, $2, $3, $4, $5, $5, $6)",
        key.tenant_id,
        key.id,
        key.wrapped,
        key.uses,
        key.created_at,
        key.master_key_id,
    )


async def count_uses(tx: Tx, data_key_id: UUID, values: int) -> None:
    """Count values that are about to be sealed under a key."""
    await tx.execute(
        "update data_key set uses = uses + $3 where tenant_id = $1 and data_key_id = $2",
        tx.tenant_id,
        data_key_id,
        values,
    )


async def data_keys_to_wrap(
    tx: Tx, before: datetime, newest_id: str, after: tuple[UUID, UUID] | None, limit: int
) -> list[DataKey]:
    """Keys wrapped before this or under another master key; for the maintenance role."""
    tenant_id, data_key_id = after or (None, None)
    rows = await tx.fetch(
        f"""
        select {_DATA_KEY} from data_key
        where (coalesce(wrapped_at, created_at) < $1 or master_key_id is distinct from $2)
          and ($3::uuid is null or (tenant_id, data_key_id) > ($3, $4::uuid))
        order by tenant_id, data_key_id limit $5
        """,  # noqa: S608 - constants only
        before,
        newest_id,
        tenant_id,
        data_key_id,
        limit,
    )
    return [_data_key(row) for row in rows]


async def count_to_wrap(tx: Tx, before: datetime, newest_id: str | None) -> tuple[int, int]:
    """How many keys there are, and how many `data_keys_to_wrap`; for the maintenance role."""
    row = await tx.fetchrow(
        "select count(*) as all_keys, count(*) filter (where coalesce(wrapped_at, created_at) < $1 "
        "or ($2::text is not null and master_key_id is distinct from $2)) as to_wrap from data_key",
        before,
        newest_id,
    )
    assert row is not None, "a count has one row"
    return row["all_keys"], row["to_wrap"]


async def replace_wrapped(tx: Tx, old: DataKey, new: DataKey, at: datetime) -> bool:
    """Store a key that was wrapped anew; False when somebody else did."""
    replaced = await tx.execute(
        "update data_key set wrapped = $4, wrapped_at = $5, master_key_id = $6 "
        "where tenant_id = $1 and data_key_id = $2 and wrapped = $3",
        tx.tenant_id,
        old.id,
        old.wrapped,
        new.wrapped,
        at,
        new.master_key_id,
    )
    return replaced == 1


async def delete_data_key(tx: Tx, data_key_id: UUID) -> bool:
    """Delete a key for good; what was sealed under it is noise from then on.

    False where a row names it, sealed by somebody who had the key in memory: it stays.
    """
    try:
        async with tx.connection.transaction():  # a savepoint: the rest goes on
            await tx.execute(
                "delete from data_key where tenant_id = $1 and data_key_id = $2",
                tx.tenant_id,
                data_key_id,
            )
    except asyncpg.ForeignKeyViolationError:
        return False
    return True


def _data_key(row: Row) -> DataKey:
    return DataKey(
        row["data_key_id"], row["tenant_id"], row["wrapped"], row["created_at"], row["uses"]
    )
