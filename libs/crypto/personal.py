"""Personal data: sealed under a key of the person's own, found by a keyed digest, erased by one row.

A person's key is random and stands wrapped beside the data; destroying that row is the erasure, in
the database and in every copy that is opened later with it. It is wrapped by a key derived from the
installation's pepper (HKDF-SHA-256, RFC 5869), which is in every process that needs it: people are
looked up inside transactions, where no key service may be asked.
"""

import hashlib
import hmac
import json
import os
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from libs.crypto.errors import MalformedSealedValueError, TamperedSealedValueError
from libs.crypto.framing import KEY_BYTES, NONCE_BYTES, TAG_BYTES, canonical

FORMAT = b"\x01"

Fields = dict[str, str | None]


class PersonalKeys:
    """Seals, opens and looks up personal data of one installation."""

    def __init__(self, pepper: bytes) -> None:
        self._wrapping = AESGCM(_derived(pepper, b"sluice.person.wrap.1"))
        self._look_up = _derived(pepper, b"sluice.person.look-up.1")

    def __repr__(self) -> str:
        return "PersonalKeys()"

    def digest(self, email: str) -> bytes:
        """What an e-mail (normalised) is found by; says nothing without the pepper."""
        return hmac.new(self._look_up, email.encode(), hashlib.sha256).digest()

    def new_key(self, person_id: UUID) -> bytes:
        """A key for a person, wrapped."""
        return _seal(self._wrapping, AESGCM.generate_key(KEY_BYTES * 8), b"key", person_id)

    def seal(self, fields: Fields, wrapped: bytes, person_id: UUID) -> bytes:
        """The person's data, sealed under its own key.

        Raises:
            SealedValueError: the key does not open.
        """
        text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        return _seal(self._own(wrapped, person_id), text.encode(), b"data", person_id)

    def open(self, sealed: bytes, wrapped: bytes, person_id: UUID) -> Fields:
        """The person's data.

        Raises:
            SealedValueError: data or key were changed, or are another person's.
        """
        own = self._own(wrapped, person_id)
        fields: Fields = json.loads(_open(own, sealed, b"data", person_id))
        return fields

    def _own(self, wrapped: bytes, person_id: UUID) -> AESGCM:
        return AESGCM(_open(self._wrapping, wrapped, b"key", person_id))


def _derived(pepper: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=purpose).derive(pepper)


def _seal(key: AESGCM, plaintext: bytes, what: bytes, person_id: UUID) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return FORMAT + nonce + key.encrypt(nonce, plaintext, canonical(FORMAT, what, person_id.bytes))


def _open(key: AESGCM, sealed: bytes, what: bytes, person_id: UUID) -> bytes:
    if sealed[:1] != FORMAT or len(sealed) < 1 + NONCE_BYTES + TAG_BYTES:
        raise MalformedSealedValueError("not sealed personal data")
    nonce, ciphertext = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
    try:
        return key.decrypt(nonce, ciphertext, canonical(FORMAT, what, person_id.bytes))
    except InvalidTag:
        raise TamperedSealedValueError("the personal data does not open") from None
