"""A master key in Google Cloud KMS: a symmetric key, with tenant and data key as associated data.

Every request and answer carries CRC-32C sums, as Google's guide to data integrity asks
(https://cloud.google.com/kms/docs/data-integrity-guidelines).
"""

import base64
import binascii
from typing import Any
from uuid import UUID

from libs.crypto.clients.gcp import GcpClient, GcpError, crc32c
from libs.crypto.errors import (
    MasterKeyUnavailableError,
    TamperedSealedValueError,
    UnknownMasterKeyError,
)
from libs.crypto.framing import canonical
from libs.crypto.wrapped import GCP, WrappedKey, context_of, pack, read_wrapped, unpack

VERSIONS_TRIED = 3


class GcpMasterKeys:
    """A KMS key behind the protocol of all providers; an id is the key version's full name."""

    def __init__(self, client: GcpClient, *, key: str) -> None:
        self._client = client
        self._key = key

    async def newest_id(self) -> str:
        """The primary version of the key."""
        answer = await self._call("GET", self._key)
        try:
            return str(answer["primary"]["name"])
        except (KeyError, TypeError):
            raise MasterKeyUnavailableError("GCP KMS: the key has no primary version") from None

    async def wrap(self, key: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """See `MasterKeys.wrap`.

        The version's name is bound too: KMS itself opens whatever the key has sealed, and the id of
        a record could be changed unnoticed.
        """
        for _ in range(VERSIONS_TRIED):
            version = await self.newest_id()
            context = _context(version, tenant_id, data_key_id)
            answer = await self._encrypt(pack(key, tenant_id, data_key_id), context)
            if answer.get("name") == version:
                return WrappedKey(GCP, version, _checked(answer, "ciphertext")).record
        raise MasterKeyUnavailableError("GCP KMS: the primary version changes all the time")

    async def _encrypt(self, plaintext: bytes, context: bytes) -> dict[str, Any]:
        answer = await self._call(
            "POST",
            f"{self._key}:encrypt",
            {
                "plaintext": _text(plaintext),
                "plaintextCrc32c": crc32c(plaintext),
                "additionalAuthenticatedData": _text(context),
                "additionalAuthenticatedDataCrc32c": crc32c(context),
            },
        )
        sums = ("verifiedPlaintextCrc32c", "verifiedAdditionalAuthenticatedDataCrc32c")
        if not all(answer.get(name) is True for name in sums):
            raise MasterKeyUnavailableError("GCP KMS: the request was damaged on its way")
        return answer

    async def unwrap(self, wrapped: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """See `MasterKeys.unwrap`."""
        parts = read_wrapped(wrapped)
        if parts.provider != GCP or not parts.master_key_id.startswith(
            f"{self._key}/cryptoKeyVersions/"
        ):
            raise UnknownMasterKeyError("the data key is wrapped under a master key not held here")
        context = _context(parts.master_key_id, tenant_id, data_key_id)
        answer = await self._call(
            "POST",
            f"{self._key}:decrypt",
            {
                "ciphertext": _text(parts.body),
                "ciphertextCrc32c": crc32c(parts.body),
                "additionalAuthenticatedData": _text(context),
                "additionalAuthenticatedDataCrc32c": crc32c(context),
            },
        )
        return unpack(_checked(answer, "plaintext"), tenant_id, data_key_id)

    async def rewrap(self, wrapped: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """See `MasterKeys.rewrap`. Google has no call for it: opened and wrapped again here."""
        key = await self.unwrap(wrapped, tenant_id=tenant_id, data_key_id=data_key_id)
        return await self.wrap(key, tenant_id=tenant_id, data_key_id=data_key_id)

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            return await self._client.call(method, path, body)
        except GcpError as error:
            if error.status == "INVALID_ARGUMENT" and path.endswith(":decrypt"):
                raise TamperedSealedValueError("KMS does not open the wrapped key") from None
            if error.status in {"NOT_FOUND", "FAILED_PRECONDITION"}:
                raise UnknownMasterKeyError("KMS has no such key any more") from None
            raise MasterKeyUnavailableError(f"GCP KMS: {error}") from None


def _context(version: str, tenant_id: UUID, data_key_id: UUID) -> bytes:
    return canonical(context_of(tenant_id, data_key_id), version.encode())


def _checked(answer: dict[str, Any], name: str) -> bytes:
    try:
        data = base64.b64decode(answer[name], validate=True)
    except (KeyError, TypeError, binascii.Error, ValueError):
        raise MasterKeyUnavailableError("GCP KMS answers with something else") from None
    if str(answer.get(f"{name}Crc32c")) != crc32c(data):
        raise MasterKeyUnavailableError("GCP KMS: the answer was damaged on its way")
    return data


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
