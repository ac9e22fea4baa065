"""Secrets in AWS Secrets Manager."""

from typing import Any
from uuid import UUID

from libs.crypto.clients.aws import UNREACHABLE, AwsClient, code_of
from libs.crypto.errors import SecretGoneError, SecretStoreUnavailableError
from libs.crypto.stores.protocol import Reference

STORE = "aws"
_GONE = frozenset({"ResourceNotFoundException", "InvalidRequestException"})
"""`InvalidRequestException` is told of a secret that is being deleted."""


class AwsSecrets:
    """Each secret has a name of its own: `<prefix>/<tenant>/<secret>`."""

    def __init__(self, client: AwsClient, *, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def put(self, tenant_id: UUID, secret_id: UUID, plaintext: bytes) -> str:
        """See `SecretStore.put`. The request token makes a repeated call one secret."""
        name = self._name(tenant_id, secret_id)
        token = str(secret_id)

        def work(client: Any) -> Any:
            try:
                return client.create_secret(
                    Name=name, SecretBinary=plaintext, ClientRequestToken=token
                )
            except client.exceptions.ResourceExistsException:
                return client.put_secret_value(SecretId=name, SecretBinary=plaintext)

        answer = await self._call(work)
        return str(Reference(STORE, name, answer["VersionId"]))

    async def get(self, reference: str, *, tenant_id: UUID, secret_id: UUID) -> bytes:
        """See `SecretStore.get`."""
        wanted = Reference.parse(reference, STORE, self._name(tenant_id, secret_id))
        answer = await self._call(
            lambda client: client.get_secret_value(SecretId=wanted.path, VersionId=wanted.version)
        )
        found: bytes | None = answer.get("SecretBinary")
        if found is None:
            raise SecretGoneError("the store holds something else there")
        return found

    async def destroy(self, reference: str) -> None:
        """See `SecretStore.destroy`. Without the usual days of grace: destroyed means destroyed."""
        await self._delete(Reference.parse(reference, STORE).path)

    async def forget(self, tenant_id: UUID, secret_id: UUID) -> None:
        """See `SecretStore.forget`."""
        await self._delete(self._name(tenant_id, secret_id))

    async def _delete(self, name: str) -> None:
        try:
            await self._call(
                lambda client: client.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)
            )
        except SecretGoneError:
            return

    def _name(self, tenant_id: UUID, secret_id: UUID) -> str:
        return f"{self._prefix}/{tenant_id}/{secret_id}"

    async def _call(self, work: Any) -> Any:
        try:
            return await self._client.call(work)
        except UNREACHABLE as error:
            code = code_of(error)
            if code in _GONE:
                raise SecretGoneError("the store has no such secret") from None
            name = code or type(error).__name__
            raise SecretStoreUnavailableError(f"AWS Secrets Manager: {name}") from None
