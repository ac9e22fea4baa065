"""Sealed values: AES-256-GCM under a data key of the tenant, bound to the row that holds them.

A record is

    format | algorithm | master-key id | data-key id | nonce (12) | ciphertext and tag

and its head, tenant, table, field and row are bound as associated data, so that a sealed value
moved to another row, or with one bit changed, does not open. Destroying a tenant's wrapped data key
destroys every value sealed under it.

The master-key id is the one that wrapped the data key when the value was sealed. It is a note for
inventories: opening goes by the data key's own record, which rotation keeps current.
"""

import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from libs.crypto.errors import (
    DataKeyExhaustedError,
    MalformedSealedValueError,
    TamperedSealedValueError,
)
from libs.crypto.framing import (
    ALGORITHM_AES_256_GCM,
    KEY_BYTES,
    NONCE_BYTES,
    Reader,
    canonical,
    short_text,
)
from libs.crypto.wrapped import master_key_id_of

SEALED_VALUE_FORMAT = 1
PLAINTEXT_BYTES_MAX = 64 * 1024

# NIST SP 800-38D, section 8.3 allows 2^32 random nonces per key; far less is far safer and costs one
# small row per sixteen million values.
DATA_KEY_USES_MAX = 2**24
DATA_KEY_AGE_DAYS_MAX = 90


@dataclass(frozen=True)
class DataKey:
    """A tenant's key as it is stored: wrapped, with the number of values sealed under it.

    Whoever seals must first store the uses it is about to make, under the row's lock, so that
    concurrent sealing cannot pass the limit.
    """

    id: UUID
    tenant_id: UUID
    wrapped: bytes
    created_at: datetime
    uses: int = 0

    @property
    def master_key_id(self) -> str:
        """The master key that unwraps this one."""
        return master_key_id_of(self.wrapped)

    def has_room_for(self, values: int) -> bool:
        """Whether the key may seal this many values more."""
        return self.uses + values <= DATA_KEY_USES_MAX

    def refuse_exhausted(self) -> None:
        """Check that the key may seal one more value.

        Raises:
            DataKeyExhaustedError: it may not.
        """
        if not self.has_room_for(1):
            raise DataKeyExhaustedError("this data key has sealed all it may; make a new one")

    def is_due_for_rotation(self, now: datetime) -> bool:
        """Whether new values should be sealed under a new key."""
        too_old = now - self.created_at >= timedelta(days=DATA_KEY_AGE_DAYS_MAX)
        return too_old or self.uses >= DATA_KEY_USES_MAX


@dataclass(frozen=True)
class OpenDataKey:
    """A data key that a master key has unwrapped: what seals and opens, in memory only."""

    data_key: DataKey
    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Check the length.

        Raises:
            MalformedSealedValueError: the key is not 32 bytes.
        """
        if len(self.key) != KEY_BYTES:
            raise MalformedSealedValueError("the wrapped key has a wrong length")


@dataclass(frozen=True)
class SealedHeader:
    """What a sealed value says of itself before it is opened. Not to be trusted, only looked up."""

    master_key_id: str
    data_key_id: UUID


def seal(
    plaintext: bytes,
    *,
    key: OpenDataKey,
    tenant_id: UUID,
    table: str,
    field: str,
    row_id: str,
) -> bytes:
    """The plaintext, encrypted and bound to its place.

    Raises:
        DataKeyExhaustedError: the data key has sealed all it may.
        ValueError: the plaintext is over `PLAINTEXT_BYTES_MAX`, or the key is another tenant's.
    """
    if len(plaintext) > PLAINTEXT_BYTES_MAX:
        raise ValueError(f"a sealed value holds at most {PLAINTEXT_BYTES_MAX} bytes")
    data_key = key.data_key
    if data_key.tenant_id != tenant_id:
        raise ValueError("the data key belongs to another tenant")
    data_key.refuse_exhausted()
    nonce = os.urandom(NONCE_BYTES)
    head = (
        bytes([SEALED_VALUE_FORMAT, ALGORITHM_AES_256_GCM])
        + short_text(data_key.master_key_id)
        + data_key.id.bytes
    )
    bound = _bound(head, tenant_id, table, field, row_id)
    return head + nonce + AESGCM(key.key).encrypt(nonce, plaintext, bound)


def open_sealed(
    record: bytes,
    *,
    key: OpenDataKey,
    tenant_id: UUID,
    table: str,
    field: str,
    row_id: str,
    former_row_id: str | None = None,
) -> bytes:
    """The plaintext inside a record that `seal` made for exactly this place.

    Args:
        former_row_id: what records from before are bound to instead of `row_id`; they open too.

    Raises:
        SealedValueError: anything is wrong with the record or the key. Nothing else is raised,
            whatever the bytes.
    """
    header, nonce, ciphertext = _read(record)
    if header.data_key_id != key.data_key.id or key.data_key.tenant_id != tenant_id:
        raise TamperedSealedValueError("the value was sealed under another data key")
    head = record[: len(record) - len(ciphertext) - NONCE_BYTES]
    for row in (row_id, former_row_id):
        if row is None:
            continue
        try:
            bound = _bound(head, tenant_id, table, field, row)
            return AESGCM(key.key).decrypt(nonce, ciphertext, bound)
        except InvalidTag:
            continue
    raise TamperedSealedValueError("the value does not open in this place")


def header_of(record: bytes) -> SealedHeader:
    """Which data key a record needs.

    Raises:
        MalformedSealedValueError: not a sealed value.
    """
    return _read(record)[0]


def _read(record: bytes) -> tuple[SealedHeader, bytes, bytes]:
    reader = Reader(record)
    if reader.byte() != SEALED_VALUE_FORMAT or reader.byte() != ALGORITHM_AES_256_GCM:
        raise MalformedSealedValueError("not a sealed value of a known format")
    header = SealedHeader(reader.short_text(), UUID(bytes=reader.take(16)))
    nonce = reader.take(NONCE_BYTES)
    ciphertext = reader.ciphertext()
    if len(ciphertext) > PLAINTEXT_BYTES_MAX + 16:
        raise MalformedSealedValueError("longer than a sealed value can be")
    return header, nonce, ciphertext


def _bound(head: bytes, tenant_id: UUID, table: str, field: str, row_id: str) -> bytes:
    return canonical(head, tenant_id.bytes, table.encode(), field.encode(), row_id.encode())
