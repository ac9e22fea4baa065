"""A master key in AWS KMS: a symmetric key, with tenant and data key as its encryption context.

The context is bound to the ciphertext and stands in CloudTrail. KMS rotates the material of a key by
itself under the same id; to leave a key, name another and wrap every data key anew.
"""

from typing import Any
from uuid import UUID

from libs.crypto.clients.aws import UNREACHABLE, AwsClient, code_of
from libs.crypto.errors import (
    MasterKeyUnavailableError,
    TamperedSealedValueError,
    UnknownMasterKeyError,
)
from libs.crypto.wrapped import AWS, WrappedKey, pack, read_wrapped, unpack

_TAMPERED = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})
_GONE = frozenset({"NotFoundException", "KMSInvalidStateException"})


class AwsMasterKeys:
    """A KMS key behind the protocol of all providers; an id is the key's ARN."""

    def __init__(self, client: AwsClient, *, key: str) -> None:
        self._client = client
        self._key = key

    async def newest_id(self) -> str:
        """The ARN of the key that wraps now."""
        answer = await self._call(lambda kms: kms.describe_key(KeyId=self._key))
        return str(answer["KeyMetadata"]["Arn"])

    async def wrap(self, key: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """See `MasterKeys.wrap`."""
        answer = await self._call(
            lambda kms: kms.encrypt(
                KeyId=self._key,
                Plaintext=pack(key, tenant_id, data_key_id),
                EncryptionContext=_context(tenant_id, data_key_id),
            )
        )
        return WrappedKey(AWS, answer["KeyId"], answer["CiphertextBlob"]).record

    async def unwrap(self, wrapped: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """See `MasterKeys.unwrap`."""
        parts = _read(wrapped)
        answer = await self._call(
            lambda kms: kms.decrypt(
                KeyId=parts.master_key_id,
                CiphertextBlob=parts.body,
                EncryptionContext=_context(tenant_id, data_key_id),
            )
        )
        _refuse_other_key(answer["KeyId"], parts)
        return unpack(answer["Plaintext"], tenant_id, data_key_id)

    async def rewrap(self, wrapped: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """See `MasterKeys.rewrap`; the key itself does not leave KMS."""
        parts = _read(wrapped)
        context = _context(tenant_id, data_key_id)
        answer = await self._call(
            lambda kms: kms.re_encrypt(
                CiphertextBlob=parts.body,
                SourceKeyId=parts.master_key_id,
                SourceEncryptionContext=context,
                DestinationKeyId=self._key,
                DestinationEncryptionContext=context,
            )
        )
        _refuse_other_key(answer["SourceKeyId"], parts)
        return WrappedKey(AWS, answer["KeyId"], answer["CiphertextBlob"]).record

    async def _call(self, work: Any) -> Any:
        try:
            return await self._client.call(work)
        except UNREACHABLE as error:
            code = code_of(error)
            if code in _TAMPERED:
                raise TamperedSealedValueError("KMS does not open the wrapped key") from None
            if code in _GONE:
                raise UnknownMasterKeyError("KMS has no such key any more") from None
            name = code or type(error).__name__
            raise MasterKeyUnavailableError(f"AWS KMS: {name}") from None


def _read(wrapped: bytes) -> WrappedKey:
    parts = read_wrapped(wrapped)
    if parts.provider != AWS:
        raise UnknownMasterKeyError("the data key is wrapped under a master key not held here")
    return parts


def _refuse_other_key(key_id: str, parts: WrappedKey) -> None:
    """The record must name the key that KMS used, letter by letter."""
    if key_id != parts.master_key_id:
        raise TamperedSealedValueError("the record names another master key than KMS used")


def _context(tenant_id: UUID, data_key_id: UUID) -> dict[str, str]:
    return {"sluice:tenant_id": str(tenant_id), "sluice:data_key_id": str(data_key_id)}
