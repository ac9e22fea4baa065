"""Secrets in the key-value engine (version 2) of HashiCorp Vault or OpenBao."""

import base64
import binascii
from typing import Any
from uuid import UUID

from hvac.exceptions import InvalidPath  # type: ignore[import-untyped]

from libs.crypto.clients.vault import UNREACHABLE, VaultClient
from libs.crypto.errors import SecretGoneError, SecretStoreUnavailableError
from libs.crypto.stores.protocol import Reference

STORE = "vault"


class VaultSecrets:
    """Each secret is a path of its own: `<prefix>/<tenant>/<secret>`."""

    def __init__(self, client: VaultClient, *, mount: str, prefix: str) -> None:
        self._client = client
        self._mount = mount
        self._prefix = prefix

    async def put(self, tenant_id: UUID, secret_id: UUID, plaintext: bytes) -> str:
        """See `SecretStore.put`."""
        path = self._path(tenant_id, secret_id)
        answer = await self._call(
            lambda client: client.secrets.kv.v2.create_or_update_secret(
                path=path,
                secret={"value": base64.b64encode(plaintext).decode()},
                mount_point=self._mount,
            )
        )
        return str(Reference(STORE, path, str(answer["data"]["version"])))

    async def get(self, reference: str, *, tenant_id: UUID, secret_id: UUID) -> bytes:
        """See `SecretStore.get`."""
        wanted = Reference.parse(reference, STORE, self._path(tenant_id, secret_id))
        answer = await self._call(
            lambda client: client.secrets.kv.v2.read_secret_version(
                path=wanted.path,
                version=int(wanted.version),
                mount_point=self._mount,
                raise_on_deleted_version=True,
            )
        )
        try:
            return base64.b64decode(answer["data"]["data"]["value"], validate=True)
        except (KeyError, TypeError, binascii.Error, ValueError):
            raise SecretGoneError("the store holds something else there") from None

    async def destroy(self, reference: str) -> None:
        """See `SecretStore.destroy`."""
        await self._delete(Reference.parse(reference, STORE).path)

    async def forget(self, tenant_id: UUID, secret_id: UUID) -> None:
        """See `SecretStore.forget`."""
        try:
            await self._delete(self._path(tenant_id, secret_id))
        except SecretGoneError:
            return

    async def _delete(self, path: str) -> None:
        await self._call(
            lambda client: client.secrets.kv.v2.delete_metadata_and_all_versions(
                path=path, mount_point=self._mount
            )
        )

    def _path(self, tenant_id: UUID, secret_id: UUID) -> str:
        return f"{self._prefix}/{tenant_id}/{secret_id}"

    async def _call(self, work: Any) -> Any:
        try:
            return await self._client.call(work)
        except InvalidPath:
            raise SecretGoneError("the store has no such secret") from None
        except UNREACHABLE as error:
            raise SecretStoreUnavailableError(f"Vault: {type(error).__name__}") from None
