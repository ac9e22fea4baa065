"""SQL of shredding: what is forgotten for good, here and in stores outside."""

from datetime import datetime
from uuid import UUID

from libs.db.pool import Row, Tx


async def forget_connection_secrets(tx: Tx, at: datetime) -> int:
    """Forget every value of the tenant's connection secrets; how many there were.

    What stands in a store outside is noted, to be deleted there.
    """
    await tx.execute(
        "insert into secret_destruction (tenant_id, reference, requested_at) "
        "select tenant_id, reference, $2 from connection_secret "
        "where tenant_id = $1 and reference is not null on conflict do nothing",
        tx.tenant_id,
        at,
    )
    return await tx.execute(
        "update connection_secret set state = 'destroyed', sealed = null, reference = null, "
        "data_key_id = null, destroyed_at = $2, check_due_at = null "
        "where tenant_id = $1 and state <> 'destroyed'",
        tx.tenant_id,
        at,
    )


async def delete_data_keys(tx: Tx) -> int:
    """Delete every data key of the tenant; how many there were."""
    return await tx.execute("delete from data_key where tenant_id = $1", tx.tenant_id)


async def due_destructions(tx: Tx, limit: int) -> list[Row]:
    """Secrets to delete in a store outside; for the maintenance role."""
    return await tx.fetch(
        "select tenant_id, reference from secret_destruction order by requested_at limit $1", limit
    )


async def put_off_destruction(tx: Tx, tenant_id: UUID, reference: str, at: datetime) -> None:
    """A secret could not be deleted: its turn comes after the others'."""
    await tx.execute(
        "update secret_destruction set requested_at = $3 where tenant_id = $1 and reference = $2",
        tenant_id,
        reference,
        at,
    )


async def end_destruction(tx: Tx, tenant_id: UUID, reference: str) -> None:
    """A secret is gone from the store outside."""
    await tx.execute(
        "delete from secret_destruction where tenant_id = $1 and reference = $2",
        tenant_id,
        reference,
    )
