"""Sealing values of a tenant that must not stand in the database in the clear."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from libs.crypto.keyring import Keyring
from libs.crypto.sealed import DataKey, header_of, open_sealed, seal
from libs.db.pool import Tx
from services.tenants import store_keys as store


@dataclass(frozen=True)
class Place:
    """Where a sealed value stands; it opens nowhere else."""

    table: str
    field: str
    row_id: str


async def seal_value(
    tx: Tx, keyring: Keyring, plaintext: bytes, place: Place, at: datetime
) -> tuple[bytes, UUID]:
    """The value sealed under the tenant's data key, and that key's id."""
    key = await store.newest_data_key(tx)
    if key is None or key.is_due_for_rotation(at):
        key = DataKey.create(keyring, tx.tenant_id, at)
        await store.insert_data_key(tx, key)
    await store.count_use(tx, key.id)
    sealed = seal(
        plaintext,
        keyring=keyring,
        data_key=key,
        tenant_id=tx.tenant_id,
        table=place.table,
        field=place.field,
        row_id=place.row_id,
    )
    return sealed, key.id


async def open_value(tx: Tx, keyring: Keyring, sealed: bytes, place: Place) -> bytes:
    """The value inside.

    Raises:
        SealedValueError: it was changed or moved, or its master key is gone.
    """
    key = await store.find_data_key(tx, header_of(sealed).data_key_id)
    assert key is not None, "a sealed value's data key is kept as long as the value"
    return open_sealed(
        sealed,
        keyring=keyring,
        data_key=key,
        tenant_id=tx.tenant_id,
        table=place.table,
        field=place.field,
        row_id=place.row_id,
    )
