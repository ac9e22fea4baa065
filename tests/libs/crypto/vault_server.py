"""Vault's documented API of transit (derived AEAD keys) and KV v2, as far as Sluice calls it.

https://developer.hashicorp.com/vault/api-docs/secret/transit and …/secret/kv/kv-v2; used where no
container engine runs a real OpenBao.
"""

import base64
import os
import re
import threading
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.libs.crypto.json_server import Answer

TOKEN = "hvs.test-token"
OPENING = ("/v1/transit/decrypt/", "/v1/transit/rewrap/")


def errors(status: int, *texts: str) -> Answer:
    return status, {"errors": list(texts)}


class VaultServer:
    """One transit engine at `transit`, one KV engine at `secret`."""

    def __init__(self) -> None:
        self.keys: dict[str, dict[str, Any]] = {}
        self.kv: dict[str, list[dict[str, str]]] = {}
        self.calls: list[str] = []
        self.away = False
        self.refusal: str | None = None
        """What it says to whoever decrypts or wraps anew, with status 400."""
        self._lock = threading.Lock()

    def answer(
        self, method: str, path: str, query: dict[str, str], headers: Any, body: dict[str, Any]
    ) -> Answer:
        with self._lock:
            self.calls.append(f"{method} {path}")
            if self.away:
                return errors(503, "Vault is sealed")
            if headers.get("X-Vault-Token") != TOKEN:
                return errors(403, "permission denied")
            if self.refusal is not None and path.startswith(OPENING):
                return errors(400, self.refusal)
            if path.startswith("/v1/transit/"):
                return self._transit(method, path.removeprefix("/v1/transit/"), body)
            if path.startswith("/v1/secret/"):
                return self._kv(method, path.removeprefix("/v1/secret/"), query, body)
            return errors(404)

    def _transit(self, method: str, path: str, body: dict[str, Any]) -> Answer:  # noqa: PLR0911
        action, _, rest = path.partition("/")
        name, _, more = rest.partition("/")
        if action == "keys" and method in {"POST", "PUT"} and not more:
            self.keys[name] = {
                "type": body.get("type", "aes256-gcm96"),
                "derived": bool(body.get("derived", False)),
                "versions": [os.urandom(32)],
                "min_decryption_version": 1,
            }
            return 204, {}
        key = self.keys.get(name)
        if key is None:
            return errors(400 if action != "keys" else 404, "encryption key not found")
        if action == "keys" and more == "rotate":
            key["versions"].append(os.urandom(32))
            return 204, {}
        if action == "keys" and more == "config":
            key["min_decryption_version"] = int(body["min_decryption_version"])
            return 204, {}
        if action == "keys":
            shown = {n: key[n] for n in ("type", "derived", "min_decryption_version")}
            return 200, {"data": {"name": name, "latest_version": len(key["versions"]), **shown}}
        if key["derived"] and not body.get("context"):
            return errors(400, "missing 'context' for key derivation")
        context = base64.b64decode(body.get("context", ""))
        if action == "encrypt":
            return self._encrypted(key, context, base64.b64decode(body["plaintext"]))
        plaintext = self._decrypted(key, context, body["ciphertext"])
        if isinstance(plaintext, str):
            return errors(400, plaintext)
        if action == "rewrap":
            return self._encrypted(key, context, plaintext)
        return 200, {"data": {"plaintext": base64.b64encode(plaintext).decode()}}

    def _encrypted(self, key: dict[str, Any], context: bytes, plaintext: bytes) -> Answer:
        version = len(key["versions"])
        nonce = os.urandom(12)
        sealed = nonce + _derived(key, version, context).encrypt(nonce, plaintext, None)
        text = f"vault:v{version}:{base64.b64encode(sealed).decode()}"
        return 200, {"data": {"ciphertext": text, "key_version": version}}

    def _decrypted(self, key: dict[str, Any], context: bytes, text: str) -> bytes | str:
        found = re.fullmatch(r"vault:v(\d+):(.*)", text)
        if found is None:
            return "invalid ciphertext: no prefix"
        version = int(found[1])
        if version < key["min_decryption_version"]:
            return "ciphertext or signature version is disallowed by policy (too old)"
        if version > len(key["versions"]):
            return "invalid ciphertext: version is too new"
        sealed = base64.b64decode(found[2])
        try:
            return _derived(key, version, context).decrypt(sealed[:12], sealed[12:], None)
        except (InvalidTag, ValueError):
            return "cipher: message authentication failed"

    def _kv(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> Answer:
        kind, _, name = path.partition("/")
        if kind == "data" and method in {"POST", "PUT"}:
            versions = self.kv.setdefault(name, [])
            versions.append(body["data"])
            return 200, {"data": {"version": len(versions), "destroyed": False}}
        if kind == "data" and method == "GET":
            versions = self.kv.get(name, [])
            version = int(query.get("version", "0")) or len(versions)
            if not 0 < version <= len(versions):
                return errors(404)
            data = {"data": versions[version - 1], "metadata": {"version": version}}
            return 200, {"data": data}
        if kind == "metadata" and method == "DELETE":
            self.kv.pop(name, None)
            return 204, {}
        return errors(405)


def _derived(key: dict[str, Any], version: int, context: bytes) -> AESGCM:
    """A key without derivation does not look at the context, as Vault's does not."""
    secret = key["versions"][version - 1]
    if not key["derived"]:
        return AESGCM(secret)
    return AESGCM(HKDF(SHA256(), 32, salt=None, info=context).derive(secret))
