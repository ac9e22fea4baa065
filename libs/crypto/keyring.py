"""Master keys: they wrap the data keys of tenants and touch nothing else.

The keyring is the local provider, read from `SLUICE_MASTER_KEYS` (`id:base64[;id:base64…]`, the
first wraps, all unwrap). Rotation: put a new key first, wrap every data key again, drop the old key
when no wrapped key names it. Sealed values stay as they are.
"""

import base64
import binascii
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from libs.crypto.errors import (
    KeyringError,
    MalformedSealedValueError,
    TamperedSealedValueError,
    UnknownMasterKeyError,
)
from libs.crypto.framing import (
    ALGORITHM_AES_256_GCM,
    KEY_BYTES,
    NONCE_BYTES,
    Reader,
    canonical,
    short_text,
)

WRAPPED_KEY_FORMAT = 1
_MASTER_KEY_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, repr=False)
class Keyring:
    """The master keys of a process."""

    keys: Mapping[str, bytes]
    current_id: str

    def __post_init__(self) -> None:
        """Check ids and lengths.

        Raises:
            KeyringError: an id is odd, a key is not 32 bytes, or the current one is absent.
        """
        if self.current_id not in self.keys:
            raise KeyringError("the current master key is not in the keyring")
        for key_id, key in self.keys.items():
            if not _MASTER_KEY_ID.fullmatch(key_id):
                raise KeyringError("a master key id is 1 to 64 letters, digits, `_`, `.` or `-`")
            if len(key) != KEY_BYTES:
                raise KeyringError(f"the master key {key_id} must be {KEY_BYTES} bytes")

    def __repr__(self) -> str:
        return f"Keyring(ids={sorted(self.keys)}, current_id={self.current_id!r})"

    @classmethod
    def parse(cls, text: str) -> "Keyring":
        """The keyring that `SLUICE_MASTER_KEYS` holds.

        Raises:
            KeyringError: it is not `id:base64[;id:base64…]` of 32-byte keys with different ids.
        """
        keys: dict[str, bytes] = {}
        for part in text.strip().strip(";").split(";"):
            key_id, separator, encoded = part.strip().partition(":")
            if not separator:
                raise KeyringError("SLUICE_MASTER_KEYS must be id:base64[;id:base64…]")
            if key_id in keys:
                raise KeyringError("SLUICE_MASTER_KEYS names the same id twice")
            try:
                keys[key_id] = base64.b64decode(encoded, validate=True)
            except (binascii.Error, ValueError):
                raise KeyringError("SLUICE_MASTER_KEYS holds a key that is not base64") from None
        return cls(keys, current_id=next(iter(keys)))

    def wrap(self, key: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """The data key, encrypted under the current master key and bound to tenant and id."""
        nonce = os.urandom(NONCE_BYTES)
        head = bytes([WRAPPED_KEY_FORMAT, ALGORITHM_AES_256_GCM]) + short_text(self.current_id)
        bound = canonical(head, tenant_id.bytes, data_key_id.bytes)
        return head + nonce + AESGCM(self.keys[self.current_id]).encrypt(nonce, key, bound)

    def unwrap(self, wrapped: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """The data key inside `wrapped`.

        Raises:
            SealedValueError: malformed, changed, another tenant's or another key's, or wrapped under
                a master key that is not here.
        """
        master_key_id, nonce, ciphertext = _read_wrapped(wrapped)
        master_key = self.keys.get(master_key_id)
        if master_key is None:
            raise UnknownMasterKeyError("the data key is wrapped under a master key not held here")
        head = wrapped[: len(wrapped) - len(ciphertext) - NONCE_BYTES]
        bound = canonical(head, tenant_id.bytes, data_key_id.bytes)
        try:
            return AESGCM(master_key).decrypt(nonce, ciphertext, bound)
        except InvalidTag:
            raise TamperedSealedValueError("the wrapped key does not open") from None


def master_key_id_of(wrapped: bytes) -> str:
    """Which master key a wrapped key needs: tells what a rotation still has to wrap again.

    Raises:
        MalformedSealedValueError: not a wrapped key.
    """
    return _read_wrapped(wrapped)[0]


def _read_wrapped(wrapped: bytes) -> tuple[str, bytes, bytes]:
    reader = Reader(wrapped)
    if reader.byte() != WRAPPED_KEY_FORMAT or reader.byte() != ALGORITHM_AES_256_GCM:
        raise MalformedSealedValueError("not a wrapped key of a known format")
    return reader.short_text(), reader.take(NONCE_BYTES), reader.ciphertext()
