"""A data key as a master key wrapped it.

    format | provider | master-key id | the provider's own bytes

A key that a service outside wraps is handed to it together with tenant and id, inside the plaintext
as well as in the service's own context, so that neither a service that ignores the context nor a
key that was set up without one lets a wrapped key pass for another's.
"""

import hmac
from dataclasses import dataclass
from uuid import UUID

from libs.crypto.errors import MalformedSealedValueError, TamperedSealedValueError
from libs.crypto.framing import KEY_BYTES, Reader, canonical, short_text

WRAPPED_KEY_FORMAT = 1
LOCAL, VAULT, AWS, GCP = 1, 2, 3, 4
PROVIDERS = frozenset({LOCAL, VAULT, AWS, GCP})
WRAPPED_BYTES_MAX = 8 * 1024
_UUID_BYTES = 16


@dataclass(frozen=True)
class WrappedKey:
    """The parts of a wrapped key, not to be trusted before it opens."""

    provider: int
    master_key_id: str
    body: bytes

    @property
    def head(self) -> bytes:
        """The first three parts as they stand in the record."""
        return head_of(self.provider, self.master_key_id)

    @property
    def record(self) -> bytes:
        """The whole."""
        return self.head + self.body


def head_of(provider: int, master_key_id: str) -> bytes:
    """The first three parts of a record."""
    return bytes([WRAPPED_KEY_FORMAT, provider]) + short_text(master_key_id)


def read_wrapped(wrapped: bytes) -> WrappedKey:
    """The parts of a record.

    Raises:
        MalformedSealedValueError: not a wrapped key of a known format.
    """
    if len(wrapped) > WRAPPED_BYTES_MAX:
        raise MalformedSealedValueError("longer than a wrapped key can be")
    reader = Reader(wrapped)
    if reader.byte() != WRAPPED_KEY_FORMAT:
        raise MalformedSealedValueError("not a wrapped key of a known format")
    provider = reader.byte()
    if provider not in PROVIDERS:
        raise MalformedSealedValueError("not a wrapped key of a known provider")
    return WrappedKey(provider, reader.short_text(), reader.ciphertext())


def master_key_id_of(wrapped: bytes) -> str:
    """Which master key a wrapped key needs: tells what a rotation still has to wrap again.

    Raises:
        MalformedSealedValueError: not a wrapped key.
    """
    return read_wrapped(wrapped).master_key_id


def context_of(tenant_id: UUID, data_key_id: UUID) -> bytes:
    """What a service outside binds to the key."""
    return canonical(b"sluice data key", tenant_id.bytes, data_key_id.bytes)


def pack(key: bytes, tenant_id: UUID, data_key_id: UUID) -> bytes:
    """The plaintext that a service outside wraps."""
    return tenant_id.bytes + data_key_id.bytes + key


def unpack(plaintext: bytes, tenant_id: UUID, data_key_id: UUID) -> bytes:
    """The key inside what a service outside has opened.

    Raises:
        TamperedSealedValueError: it is another tenant's or another key.
    """
    bound, key = plaintext[: 2 * _UUID_BYTES], plaintext[2 * _UUID_BYTES :]
    if not hmac.compare_digest(bound, tenant_id.bytes + data_key_id.bytes) or (
        len(key) != KEY_BYTES
    ):
        raise TamperedSealedValueError("the wrapped key is another tenant's, or another key")
    return key
