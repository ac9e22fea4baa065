"""Data keys as a process has them: unwrapped on demand, in memory for some minutes.

A holder of master keys that is away for less than that stops nothing; after that sealing and
opening fail (`MasterKeyUnavailableError`), and nothing is ever kept in the clear instead.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from libs.crypto.framing import KEY_BYTES
from libs.crypto.sealed import DataKey, OpenDataKey
from libs.crypto.vaults.protocol import MasterKeys
from libs.ids import new_id

KEPT_SECONDS = 300.0
ENTRIES_MAX = 10_000


@dataclass(frozen=True)
class _Kept:
    key: bytes
    since: float


class DataKeys:
    """Creates, unwraps and wraps data keys anew. One per process."""

    def __init__(
        self,
        master_keys: MasterKeys,
        *,
        kept_seconds: float = KEPT_SECONDS,
        entries_max: int = ENTRIES_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.master_keys = master_keys
        self._kept_seconds = kept_seconds
        self._entries_max = entries_max
        self._clock = clock
        self._kept: dict[tuple[UUID, UUID, bytes], _Kept] = {}
        self._under_way: dict[tuple[UUID, UUID, bytes], asyncio.Task[bytes]] = {}

    async def create(self, tenant_id: UUID, created_at: datetime) -> OpenDataKey:
        """A new random key of a tenant, wrapped under the newest master key.

        Raises:
            MasterKeyUnavailableError: see `MasterKeys`.
        """
        key_id = new_id()
        key = AESGCM.generate_key(bit_length=KEY_BYTES * 8)
        wrapped = await self.master_keys.wrap(key, tenant_id=tenant_id, data_key_id=key_id)
        made = OpenDataKey(DataKey(key_id, tenant_id, wrapped, created_at), key)
        self._keep(_name(made.data_key), key)
        return made

    async def open(self, data_key: DataKey) -> OpenDataKey:
        """The key unwrapped, from memory where it was unwrapped a moment ago.

        Raises:
            MasterKeyUnavailableError: see `MasterKeys`.
            SealedValueError: it does not unwrap.
        """
        name = _name(data_key)
        kept = self._kept.get(name)
        if kept is not None and self._clock() - kept.since < self._kept_seconds:
            return OpenDataKey(data_key, kept.key)
        self._kept.pop(name, None)
        task = self._under_way.get(name)
        if task is None:
            task = asyncio.create_task(self._unwrap(name, data_key))
            self._under_way[name] = task
            task.add_done_callback(lambda _: self._under_way.pop(name, None))
        return OpenDataKey(data_key, await asyncio.shield(task))

    async def rewrap(self, data_key: DataKey) -> DataKey:
        """The same key under the newest master key: what a master-key rotation stores.

        Raises:
            MasterKeyUnavailableError: see `MasterKeys`.
            SealedValueError: it does not unwrap.
        """
        wrapped = await self.master_keys.rewrap(
            data_key.wrapped, tenant_id=data_key.tenant_id, data_key_id=data_key.id
        )
        return replace(data_key, wrapped=wrapped)

    def forget(self, tenant_id: UUID) -> None:
        """Drop every key of a tenant from memory: it was shredded."""
        for name in [name for name in self._kept if name[0] == tenant_id]:
            del self._kept[name]

    async def _unwrap(self, name: tuple[UUID, UUID, bytes], data_key: DataKey) -> bytes:
        key = await self.master_keys.unwrap(
            data_key.wrapped, tenant_id=data_key.tenant_id, data_key_id=data_key.id
        )
        self._keep(name, OpenDataKey(data_key, key).key)
        return key

    def _keep(self, name: tuple[UUID, UUID, bytes], key: bytes) -> None:
        """Remember a key; the oldest makes room."""
        while len(self._kept) >= self._entries_max:
            del self._kept[next(iter(self._kept))]
        self._kept[name] = _Kept(key, self._clock())


def _name(data_key: DataKey) -> tuple[UUID, UUID, bytes]:
    """A wrapped key with one bit changed is another key, and does not open from memory."""
    return data_key.tenant_id, data_key.id, hashlib.sha256(data_key.wrapped).digest()
