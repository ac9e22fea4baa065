"""Master keys held in memory: they wrap the data keys of tenants and touch nothing else.

The text of a keyring is `id:base64[;id:base64…]`, or one key per line with `#` before a remark; the
first wraps, all unwrap. Rotation: put a new key first, wrap every data key again, drop the old key
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

from libs.crypto.errors import KeyringError, TamperedSealedValueError, UnknownMasterKeyError
from libs.crypto.framing import KEY_BYTES, NONCE_BYTES, TAG_BYTES, canonical
from libs.crypto.wrapped import LOCAL, WrappedKey, head_of, read_wrapped

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
        """The keyring that a text holds.

        Raises:
            KeyringError: it is not `id:base64[;id:base64…]` of 32-byte keys with different ids.
        """
        keys: dict[str, bytes] = {}
        for part in _parts(text):
            key_id, separator, encoded = part.partition(":")
            if not separator:
                raise KeyringError("master keys must be id:base64[;id:base64…]")
            if key_id in keys:
                raise KeyringError("the master keys have the same id twice")
            try:
                keys[key_id] = base64.b64decode(encoded, validate=True)
            except (binascii.Error, ValueError):
                raise KeyringError("a master key is not base64") from None
        if not keys:
            raise KeyringError("there is no master key: id:base64[;id:base64…]")
        return cls(keys, current_id=next(iter(keys)))

    def wrap(self, key: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """The data key, encrypted under the current master key and bound to tenant and id."""
        nonce = os.urandom(NONCE_BYTES)
        head = head_of(LOCAL, self.current_id)
        bound = canonical(head, tenant_id.bytes, data_key_id.bytes)
        return head + nonce + AESGCM(self.keys[self.current_id]).encrypt(nonce, key, bound)

    def unwrap(self, wrapped: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """The data key inside `wrapped`.

        Raises:
            SealedValueError: malformed, changed, another tenant's or another key's, or wrapped under
                a master key that is not here.
        """
        parts = read_wrapped(wrapped)
        master_key = self.keys.get(parts.master_key_id) if parts.provider == LOCAL else None
        if master_key is None:
            raise UnknownMasterKeyError("the data key is wrapped under a master key not held here")
        return _decrypt(
            master_key, parts, canonical(parts.head, tenant_id.bytes, data_key_id.bytes)
        )


def _parts(text: str) -> list[str]:
    lines = (line.partition("#")[0] for line in text.splitlines())
    return [part.strip() for line in lines for part in line.split(";") if part.strip()]


def _decrypt(master_key: bytes, parts: WrappedKey, bound: bytes) -> bytes:
    nonce, ciphertext = parts.body[:NONCE_BYTES], parts.body[NONCE_BYTES:]
    if len(nonce) != NONCE_BYTES or len(ciphertext) < TAG_BYTES:
        raise TamperedSealedValueError("the wrapped key is cut short")
    try:
        return AESGCM(master_key).decrypt(nonce, ciphertext, bound)
    except InvalidTag:
        raise TamperedSealedValueError("the wrapped key does not open") from None
