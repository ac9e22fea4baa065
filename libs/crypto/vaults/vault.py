"""Master keys in the transit engine of HashiCorp Vault or OpenBao.

The transit key is made with `derived=true`, so that Vault derives a key of its own from the context
that we send: tenant and data key. Rotating it there (`vault write -f transit/keys/sluice/rotate`)
makes a new version; wrapping anew never shows Vault's key or ours to anybody.
"""

import base64
import binascii
import re
from typing import Any
from uuid import UUID

from hvac.exceptions import InvalidRequest  # type: ignore[import-untyped]

from libs.crypto.clients.vault import UNREACHABLE, VaultClient
from libs.crypto.errors import (
    MalformedSealedValueError,
    MasterKeyMisusedError,
    MasterKeyUnavailableError,
    TamperedSealedValueError,
    UnknownMasterKeyError,
)
from libs.crypto.wrapped import VAULT, WrappedKey, context_of, pack, read_wrapped, unpack

_CIPHERTEXT = re.compile(r"vault:v([1-9][0-9]{0,8}):([A-Za-z0-9+/]+={0,2})")
# What transit says with status 400 (OpenBao and Vault, sdk/helper/keysutil/policy.go and
# builtin/logical/transit/path_decrypt.go).
_TAMPERED = ("message authentication failed", "invalid ciphertext: unable to decrypt")
_UNKNOWN = {
    "too old": "Vault does not decrypt with this version of the key any more",
    "version is too new": "Vault's key has no such version: was Vault restored from before it?",
    "key not found": "Vault has no such transit key",
}
_MALFORMED = ("invalid ciphertext",)
_AEAD = frozenset({"aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305"})


class VaultMasterKeys:
    """A transit key behind the protocol of all providers; an id is `mount/key/v<version>`."""

    def __init__(self, client: VaultClient, *, mount: str, key: str) -> None:
        self._client = client
        self._mount = mount
        self._key = key
        self._checked = False

    async def newest_id(self) -> str:
        """The transit key with its latest version."""
        return f"{self._mount}/{self._key}/v{(await self._read_key())['latest_version']}"

    async def wrap(self, key: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """See `MasterKeys.wrap`."""
        await self._refuse_unfit_key()
        plaintext = _text(pack(key, tenant_id, data_key_id))
        answer = await self._call(
            lambda client: client.secrets.transit.encrypt_data(
                name=self._key,
                plaintext=plaintext,
                context=_text(context_of(tenant_id, data_key_id)),
                mount_point=self._mount,
            )
        )
        return self._record(answer)

    async def unwrap(self, wrapped: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """See `MasterKeys.unwrap`."""
        ciphertext = self._ciphertext(read_wrapped(wrapped))
        answer = await self._call(
            lambda client: client.secrets.transit.decrypt_data(
                name=self._key,
                ciphertext=ciphertext,
                context=_text(context_of(tenant_id, data_key_id)),
                mount_point=self._mount,
            )
        )
        try:
            plaintext = base64.b64decode(answer["data"]["plaintext"], validate=True)
        except (KeyError, TypeError, binascii.Error, ValueError):
            raise MasterKeyUnavailableError("Vault answers with something else") from None
        return unpack(plaintext, tenant_id, data_key_id)

    async def rewrap(self, wrapped: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """See `MasterKeys.rewrap`."""
        ciphertext = self._ciphertext(read_wrapped(wrapped))
        answer = await self._call(
            lambda client: client.secrets.transit.rewrap_data(
                name=self._key,
                ciphertext=ciphertext,
                context=_text(context_of(tenant_id, data_key_id)),
                mount_point=self._mount,
            )
        )
        return self._record(answer)

    async def _refuse_unfit_key(self) -> None:
        """A key without derivation would ignore the context that we bind."""
        if self._checked:
            return
        found = await self._read_key()
        if found.get("derived") is not True or found.get("type") not in _AEAD:
            raise MasterKeyUnavailableError(
                "the transit key must be an AEAD key made with derived=true"
            )
        self._checked = True

    async def _read_key(self) -> dict[str, Any]:
        answer = await self._call(
            lambda client: client.secrets.transit.read_key(name=self._key, mount_point=self._mount)
        )
        found: dict[str, Any] = answer["data"]
        return found

    async def _call(self, work: Any) -> Any:
        try:
            return await self._client.call(work)
        except InvalidRequest as error:
            raise _meaning_of(error) from None
        except UNREACHABLE as error:
            raise MasterKeyUnavailableError(f"Vault: {type(error).__name__}") from None

    def _record(self, answer: Any) -> bytes:
        found = _CIPHERTEXT.fullmatch(answer["data"]["ciphertext"])
        if found is None:
            raise MasterKeyUnavailableError("Vault answers with something else")
        name = f"{self._mount}/{self._key}/v{found[1]}"
        return WrappedKey(VAULT, name, base64.b64decode(found[2])).record

    def _ciphertext(self, wrapped: WrappedKey) -> str:
        """Vault's own text, made anew from bytes: no two texts stand for the same key."""
        path, _, version = wrapped.master_key_id.rpartition("/v")
        ours = wrapped.provider == VAULT and path == f"{self._mount}/{self._key}"
        if not ours or not re.fullmatch(r"[1-9][0-9]{0,8}", version):
            raise UnknownMasterKeyError("the data key is wrapped under a master key not held here")
        return f"vault:v{version}:{_text(wrapped.body)}"


def _meaning_of(error: InvalidRequest) -> Exception:
    """What a 400 of Vault means: it has one status for all of these, told apart by its sentence."""
    said = str(error).lower()
    if any(sentence in said for sentence in _TAMPERED):
        return TamperedSealedValueError("Vault does not open the wrapped key")
    for sentence, meaning in _UNKNOWN.items():
        if sentence in said:
            return UnknownMasterKeyError(meaning)
    if any(sentence in said for sentence in _MALFORMED):
        return MalformedSealedValueError("Vault does not take this for a wrapped key")
    return MasterKeyMisusedError(
        "Vault calls the request wrong: look at the transit key, its type and derived=true, and at "
        "Vault's audit log"
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
