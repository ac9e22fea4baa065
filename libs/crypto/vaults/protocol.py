"""What every holder of master keys does."""

from typing import Protocol
from uuid import UUID


class MasterKeys(Protocol):
    """Wraps and unwraps data keys; never sees a sealed value.

    Every method may go over the network, so none is called inside a database transaction. All raise
    `MasterKeyUnavailableError` where the holder does not answer in time or refuses us.
    """

    async def newest_id(self) -> str:
        """The master key, with its version where there are versions, that wraps now."""
        ...

    async def wrap(self, key: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """The data key wrapped under the newest master key, bound to tenant and id."""
        ...

    async def unwrap(self, wrapped: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """The data key inside a record.

        Raises:
            SealedValueError: malformed, changed, another tenant's or key's, or wrapped under a master
                key that is gone.
        """
        ...

    async def rewrap(self, wrapped: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """The same data key under the newest master key.

        Raises:
            SealedValueError: see `unwrap`.
        """
        ...
