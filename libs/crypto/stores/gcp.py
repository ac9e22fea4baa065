"""Secrets in Google Cloud's Secret Manager."""

import base64
import binascii
import re
from typing import Any
from uuid import UUID

from libs.crypto.clients.gcp import GcpClient, GcpError, crc32c
from libs.crypto.errors import SecretGoneError, SecretStoreUnavailableError
from libs.crypto.stores.protocol import Reference

STORE = "gcp"
_VERSION = re.compile(r".+/versions/([0-9]{1,9})")
_GONE = frozenset({"NOT_FOUND", "FAILED_PRECONDITION"})
"""`FAILED_PRECONDITION` is told of a version that was destroyed or disabled."""


class GcpSecrets:
    """Each secret has a name of its own: `<prefix>-<tenant>-<secret>`."""

    def __init__(self, client: GcpClient, *, project: str, prefix: str) -> None:
        self._client = client
        self._project = project
        self._prefix = prefix

    async def put(self, tenant_id: UUID, secret_id: UUID, plaintext: bytes) -> str:
        """See `SecretStore.put`."""
        name = self._name(tenant_id, secret_id)
        try:
            await self._client.call(
                "POST",
                f"projects/{self._project}/secrets?secretId={name}",
                {"replication": {"automatic": {}}},
            )
        except GcpError as error:
            if error.status != "ALREADY_EXISTS":
                raise SecretStoreUnavailableError(f"GCP Secret Manager: {error}") from None
        answer = await self._call(
            "POST",
            f"projects/{self._project}/secrets/{name}:addVersion",
            {
                "payload": {
                    "data": base64.b64encode(plaintext).decode(),
                    "dataCrc32c": crc32c(plaintext),
                }
            },
        )
        version = _VERSION.fullmatch(str(answer.get("name")))
        if version is None:
            raise SecretStoreUnavailableError("GCP Secret Manager answers with something else")
        return str(Reference(STORE, name, version[1]))

    async def get(self, reference: str, *, tenant_id: UUID, secret_id: UUID) -> bytes:
        """See `SecretStore.get`."""
        wanted = Reference.parse(reference, STORE, self._name(tenant_id, secret_id))
        path = f"projects/{self._project}/secrets/{wanted.path}/versions/{wanted.version}:access"
        answer = await self._call("GET", path)
        try:
            payload = answer["payload"]
            data = base64.b64decode(payload["data"], validate=True)
        except (KeyError, TypeError, binascii.Error, ValueError):
            raise SecretGoneError("the store holds something else there") from None
        if str(payload.get("dataCrc32c")) != crc32c(data):
            raise SecretStoreUnavailableError("GCP Secret Manager: damaged on its way")
        return data

    async def destroy(self, reference: str) -> None:
        """See `SecretStore.destroy`."""
        await self._delete(Reference.parse(reference, STORE).path)

    async def forget(self, tenant_id: UUID, secret_id: UUID) -> None:
        """See `SecretStore.forget`."""
        await self._delete(self._name(tenant_id, secret_id))

    async def _delete(self, name: str) -> None:
        try:
            await self._call("DELETE", f"projects/{self._project}/secrets/{name}")
        except SecretGoneError:
            return

    def _name(self, tenant_id: UUID, secret_id: UUID) -> str:
        return f"{self._prefix}-{tenant_id}-{secret_id}"

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            return await self._client.call(method, path, body)
        except GcpError as error:
            if error.status in _GONE:
                raise SecretGoneError("the store has no such secret") from None
            raise SecretStoreUnavailableError(f"GCP Secret Manager: {error}") from None
