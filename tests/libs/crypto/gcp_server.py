"""Google's documented REST API of Cloud KMS and Secret Manager, as far as Sluice calls it.

https://cloud.google.com/kms/docs/reference/rest/v1 and
https://cloud.google.com/secret-manager/docs/reference/rest/v1.
"""

import base64
import os
import re
import threading
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from libs.crypto.clients.gcp import crc32c
from tests.libs.crypto.json_server import Answer

KEY = "projects/p/locations/global/keyRings/r/cryptoKeys/sluice"


def refused(status: int, word: str) -> Answer:
    return status, {"error": {"code": status, "status": word, "message": word.lower()}}


class GcpServer:
    """One KMS key with versions, and the secrets of one project."""

    def __init__(self) -> None:
        self.versions: dict[int, bytes] = {1: os.urandom(32)}
        self.primary = 1
        self.secrets: dict[str, list[str]] = {}
        self.damage: str | None = None
        self._lock = threading.Lock()

    def rotate(self) -> None:
        self.primary += 1
        self.versions[self.primary] = os.urandom(32)

    def answer(
        self, method: str, path: str, query: dict[str, str], headers: Any, body: dict[str, Any]
    ) -> Answer:
        del headers
        with self._lock:
            name = path.removeprefix("/v1/")
            if name.startswith(KEY):
                return self._kms(name.removeprefix(KEY), body)
            return self._secret(method, name, query, body)

    def _kms(self, action: str, body: dict[str, Any]) -> Answer:  # noqa: PLR0911
        if action == "":
            return 200, {"primary": {"name": f"{KEY}/cryptoKeyVersions/{self.primary}"}}
        context = base64.b64decode(body["additionalAuthenticatedData"])
        if crc32c(context) != body["additionalAuthenticatedDataCrc32c"]:
            return refused(400, "INVALID_ARGUMENT")
        if action == ":encrypt":
            plaintext = base64.b64decode(body["plaintext"])
            nonce = os.urandom(12)
            cipher = AESGCM(self.versions[self.primary])
            sealed = self.primary.to_bytes(2, "big") + nonce
            sealed += cipher.encrypt(nonce, plaintext, context)
            return 200, {
                "name": f"{KEY}/cryptoKeyVersions/{self.primary}",
                "verifiedPlaintextCrc32c": crc32c(plaintext) == body["plaintextCrc32c"],
                "verifiedAdditionalAuthenticatedDataCrc32c": True,
                **self._summed("ciphertext", sealed),
            }
        sealed = base64.b64decode(body["ciphertext"])
        version = int.from_bytes(sealed[:2], "big")
        if version > self.primary or crc32c(sealed) != body["ciphertextCrc32c"]:
            return refused(400, "INVALID_ARGUMENT")
        if version not in self.versions:
            return refused(400, "FAILED_PRECONDITION")
        try:
            cipher = AESGCM(self.versions[version])
            plaintext = cipher.decrypt(sealed[2:14], sealed[14:], context)
        except (InvalidTag, ValueError):
            return refused(400, "INVALID_ARGUMENT")
        return 200, self._summed("plaintext", plaintext)

    def _summed(self, name: str, data: bytes) -> dict[str, Any]:
        total = crc32c(data)
        if self.damage == name:
            data = data[:-1] + bytes([data[-1] ^ 1])
        return {name: base64.b64encode(data).decode(), f"{name}Crc32c": total}

    def _secret(  # noqa: PLR0911
        self, method: str, name: str, query: dict[str, str], body: dict[str, Any]
    ) -> Answer:
        if method == "POST" and name == "projects/p/secrets":
            wanted = query["secretId"]
            if wanted in self.secrets:
                return refused(409, "ALREADY_EXISTS")
            self.secrets[wanted] = []
            return 200, {"name": f"projects/1/secrets/{wanted}"}
        found = re.fullmatch(r"projects/p/secrets/([^/:]+)(?:/versions/(\d+))?(:\w+)?", name)
        if found is None or found[1] not in self.secrets:
            return refused(404, "NOT_FOUND")
        versions = self.secrets[found[1]]
        if method == "DELETE":
            del self.secrets[found[1]]
            return 200, {}
        if found[3] == ":addVersion":
            versions.append(body["payload"]["data"])
            return 200, {"name": f"projects/1/secrets/{found[1]}/versions/{len(versions)}"}
        if not 0 < int(found[2]) <= len(versions):
            return refused(404, "NOT_FOUND")
        data = base64.b64decode(versions[int(found[2]) - 1])
        return 200, {"payload": self._summed("data", data)}
