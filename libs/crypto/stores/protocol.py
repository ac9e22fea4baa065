"""What every secret store does, and what a reference into one looks like."""

import re
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from libs.crypto.errors import MalformedSealedValueError

SECRET_BYTES_MAX = 16 * 1024
REFERENCE_LENGTH_MAX = 500
_REFERENCE = re.compile(r"(vault|aws|gcp):([A-Za-z0-9_./-]+)#([A-Za-z0-9_.-]+)")


class SecretStore(Protocol):
    """Keeps secrets outside; a reference names store, path and version, never the secret.

    Every method goes over the network, so none is called inside a database transaction. All raise
    `SecretStoreUnavailableError` where the store does not answer in time or refuses us.
    """

    async def put(self, tenant_id: UUID, secret_id: UUID, plaintext: bytes) -> str:
        """Keep a secret; its reference. Put again under the same id, it is one secret."""
        ...

    async def get(self, reference: str) -> bytes:
        """The secret.

        Raises:
            SecretGoneError: there is none, or no more.
            MalformedSealedValueError: the reference is not one of this store.
        """
        ...

    async def destroy(self, reference: str) -> None:
        """Delete a secret for good; nothing where it is gone."""
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
    def parse(cls, text: str, store: str) -> "Reference":
        """The parts of a reference into `store`.

        Raises:
            MalformedSealedValueError: it is none, or another store's.
        """
        found = _REFERENCE.fullmatch(text) if len(text) <= REFERENCE_LENGTH_MAX else None
        if found is None or found[1] != store or ".." in found[2].split("/"):
            raise MalformedSealedValueError("not a reference into this secret store")
        return cls(found[1], found[2], found[3])
