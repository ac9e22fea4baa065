"""What every secret store does, and what a reference into one looks like."""

import re
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from libs.crypto.errors import MalformedSealedValueError, TamperedSealedValueError

SECRET_BYTES_MAX = 16 * 1024
REFERENCE_LENGTH_MAX = 500
_REFERENCE = re.compile(r"(vault|aws|gcp):([A-Za-z0-9_/-]+)#([A-Za-z0-9_-]+)")


class SecretStore(Protocol):
    """Keeps secrets outside; a reference names store, path and version, never the secret.

    The path holds tenant and secret, so that a reference moved to another row is refused. Every
    method goes over the network, so none is called inside a database transaction. All raise
    `SecretStoreUnavailableError` where the store does not answer in time or refuses us, and
    `SealedValueError` where the reference is not this secret's.
    """

    async def put(self, tenant_id: UUID, secret_id: UUID, plaintext: bytes) -> str:
        """Keep a secret; its reference."""
        ...

    async def get(self, reference: str, *, tenant_id: UUID, secret_id: UUID) -> bytes:
        """The secret.

        Raises:
            SecretGoneError: there is none, or no more.
        """
        ...

    async def destroy(self, reference: str) -> None:
        """Delete a secret with all its versions for good; nothing where it is gone."""
        ...

    async def forget(self, tenant_id: UUID, secret_id: UUID) -> None:
        """The same for a secret whose reference nobody knows: it was put, or it never was."""
        ...


@dataclass(frozen=True)
class Reference:
    """A reference's parts: `store:path#version`."""

    store: str
    path: str
    version: str

    def __str__(self) -> str:
        return f"{self.store}:{self.path}#{self.version}"

    @classmethod
    def parse(cls, text: str, store: str, path: str | None = None) -> "Reference":
        """The parts of a reference into `store`, and to `path` where one is given.

        Raises:
            MalformedSealedValueError: it is no reference.
            TamperedSealedValueError: it leads somewhere else.
        """
        found = _REFERENCE.fullmatch(text) if len(text) <= REFERENCE_LENGTH_MAX else None
        if found is None:
            raise MalformedSealedValueError("not a reference into a secret store")
        if found[1] != store or path not in (None, found[2]):
            raise TamperedSealedValueError("the reference is another store's or another secret's")
        return cls(store, found[2], found[3])
