"""Sealing values of a tenant that must not stand in the database in the clear.

    key = await sealer.prepare(tenant_id, utc_now())            # never inside a transaction
    async with database.tenant(tenant_id, mode) as tx:
        sealed = key.seal(b"…", Place("connection_secret", "value", str(secret_id)))
        …                                                       # sealed.value, sealed.data_key_id
    plaintext = await sealer.open(tenant_id, value, place)      # never inside a transaction

What holds the master keys may be far away: it is asked in `prepare` and `open` only, outside of any
transaction, and what it said is kept in memory for some minutes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog

from libs.clock import utc_now
from libs.crypto.errors import (
    DataKeyExhaustedError,
    DestroyedKeyError,
    SealedValueError,
    UnknownMasterKeyError,
)
from libs.crypto.sealed import DataKey, OpenDataKey, header_of, open_sealed, seal
from libs.crypto.settings import Sealing
from libs.db.pool import Database
from services.tenants import store_data_keys as store
from services.tenants import store_intents

log = structlog.get_logger()

VALUES_MAX = 1_000


@dataclass(frozen=True)
class Place:
    """Where a sealed value stands; it opens nowhere else.

    Attributes:
        row_id: the row, with whatever must not be exchanged in it.
        former_row_id: what values from before are bound to instead; only for opening them.
    """

    table: str
    field: str
    row_id: str
    former_row_id: str | None = None


@dataclass(frozen=True)
class Sealed:
    """A sealed value and the key that opens it."""

    value: bytes
    data_key_id: UUID


@dataclass(frozen=True)
class Kept:
    """Where a secret is kept: sealed here, or by reference in a store outside. One of the two."""

    sealed: bytes | None
    data_key_id: UUID | None
    reference: str | None


class SealingKey:
    """A tenant's data key in memory: seals as many values as were asked for, without any call.

    Use it at once: a key that a rotation has replaced is destroyed after a minute.
    """

    def __init__(self, key: OpenDataKey, values: int) -> None:
        self._key = key
        self._values = values

    @property
    def tenant_id(self) -> UUID:
        """Whose key it is."""
        return self._key.data_key.tenant_id

    def seal(self, plaintext: bytes, place: Place) -> Sealed:
        """The value sealed for exactly this place."""
        assert self._values > 0, "ask `prepare` for as many values as are sealed"
        self._values -= 1
        data_key = self._key.data_key
        value = seal(
            plaintext,
            key=self._key,
            tenant_id=data_key.tenant_id,
            table=place.table,
            field=place.field,
            row_id=place.row_id,
        )
        return Sealed(value, data_key.id)


class Sealer:
    """Seals and opens values of tenants: `Sealer(database, settings.sealing)`."""

    def __init__(self, database: Database, sealing: Sealing) -> None:
        self._database = database
        self.data_keys = sealing.data_keys
        self.store = sealing.store

    async def prepare(self, tenant_id: UUID, at: datetime, *, values: int = 1) -> SealingKey:
        """The tenant's newest data key, made where there is none or it is due for another.

        One under a master key that is not here any more is left for those that are lost with it.

        Raises:
            MasterKeyUnavailableError: nothing can be sealed now.
        """
        assert 0 < values <= VALUES_MAX
        key = await self._take(tenant_id, at, values)
        if key is not None:
            try:
                return SealingKey(await self.data_keys.open(key), values)
            except UnknownMasterKeyError:
                log.warning("data_key_left", tenant_id=str(tenant_id), data_key_id=str(key.id))
        left = key

        def is_wanted(newest: DataKey | None) -> bool:
            return (
                newest is None
                or (left is not None and newest.id == left.id)
                or _is_due(newest, at, values)
            )

        await self.add_data_key(tenant_id, at, only_if=is_wanted)
        key = await self._take(tenant_id, at, values)
        if key is None:
            raise DataKeyExhaustedError("a new data key seals no value")
        return SealingKey(await self.data_keys.open(key), values)

    async def open(self, tenant_id: UUID, value: bytes, place: Place) -> bytes:
        """The value inside.

        Raises:
            SealedValueError: it was changed or moved, or its key is gone.
            MasterKeyUnavailableError: nothing can be opened now.
        """
        wanted = header_of(value).data_key_id
        async with self._database.tenant(tenant_id, None) as tx:
            data_key = await store.find_data_key(tx, wanted)
        if data_key is None:
            raise DestroyedKeyError("the data key of this value was destroyed")
        return open_sealed(
            value,
            key=await self.data_keys.open(data_key),
            tenant_id=tenant_id,
            table=place.table,
            field=place.field,
            row_id=place.row_id,
            former_row_id=place.former_row_id,
        )

    async def keep(
        self, key: SealingKey, secret_id: UUID, plaintext: bytes, place: Place, at: datetime
    ) -> Kept:
        """Keep a secret where secrets are kept: sealed for its row, or in the store outside.

        What goes outside is noted first. Whoever enters it ends the note in the same commit; what
        is noted and not entered is deleted outside after a while.

        Raises:
            SecretStoreUnavailableError: the store outside does not take it.
        """
        if self.store is None:
            sealed = key.seal(plaintext, place)
            return Kept(sealed.value, sealed.data_key_id, None)
        async with self._database.tenant(key.tenant_id, None) as tx:
            await store_intents.begin(tx, secret_id, at)
        return Kept(None, None, await self.store.put(key.tenant_id, secret_id, plaintext))

    async def discard(self, tenant_id: UUID, secret_id: UUID) -> None:
        """Delete in the store outside what was kept there and nothing names; nobody enters it then.

        Raises:
            SealedValueError, SecretStoreUnavailableError: it is tried again.
        """
        async with self._database.tenant(tenant_id, None) as tx:
            if self.store is None or not await store_intents.doom(tx, secret_id, utc_now()):
                return
        await self.store.forget(tenant_id, secret_id)
        async with self._database.tenant(tenant_id, None) as tx:
            await store_intents.forget(tx, secret_id)

    async def read(self, tenant_id: UUID, secret_id: UUID, kept: Kept, place: Place) -> bytes:
        """A secret that was kept.

        Raises:
            SealedValueError, MasterKeyUnavailableError, SecretStoreUnavailableError.
        """
        if kept.sealed is not None:
            return await self.open(tenant_id, kept.sealed, place)
        if kept.reference is None or self.store is None:
            raise SealedValueError("the secret is in a store that is not configured here")
        return await self.store.get(kept.reference, tenant_id=tenant_id, secret_id=secret_id)

    async def add_data_key(
        self, tenant_id: UUID, at: datetime, *, only_if: Callable[[DataKey | None], bool]
    ) -> bool:
        """Make a data key, unless somebody else just did; whether it was made."""
        async with self._database.tenant(tenant_id, None) as tx:
            if not only_if(await store.newest_data_key(tx)):
                return False
        made = await self.data_keys.create(tenant_id, at)
        async with self._database.tenant(tenant_id, None) as tx:
            await store.lock_data_keys(tx)
            if not only_if(await store.newest_data_key(tx)):
                return False
            await store.insert_data_key(tx, made.data_key)
        return True

    async def _take(self, tenant_id: UUID, at: datetime, values: int) -> DataKey | None:
        """The newest key with these values counted; None where another is needed."""
        async with self._database.tenant(tenant_id, None) as tx:
            key = await store.newest_data_key(tx)
            if key is None or _is_due(key, at, values):
                return None
            await store.count_uses(tx, key.id, values)
        return key


def _is_due(key: DataKey, at: datetime, values: int) -> bool:
    return key.is_due_for_rotation(at) or not key.has_room_for(values)
