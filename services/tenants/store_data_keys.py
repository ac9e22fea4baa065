"""SQL of data keys: wrapped, counted, and never deleted while a sealed value names them."""

from uuid import UUID

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
    return None if row is None else data_key_of(row)


async def find_data_key(tx: Tx, data_key_id: UUID) -> DataKey | None:
    """A data key of the tenant."""
    row = await tx.fetchrow(
        f"select {_DATA_KEY} from data_key where tenant_id = $1 and data_key_id = $2",  # noqa: S608
        tx.tenant_id,
        data_key_id,
    )
    return None if row is None else data_key_of(row)


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


async def count_uses(tx: Tx, data_key_id: UUID, values: int) -> None:
    """Count values that are about to be sealed under a key."""
    await tx.execute(
        "update data_key set uses = uses + $3 where tenant_id = $1 and data_key_id = $2",
        tx.tenant_id,
        data_key_id,
        values,
    )


def data_key_of(row: Row) -> DataKey:
    """A row as a data key."""
    return DataKey(
        row["data_key_id"], row["tenant_id"], row["wrapped"], row["created_at"], row["uses"]
    )
