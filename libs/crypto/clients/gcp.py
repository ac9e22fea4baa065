"""Google Cloud by REST, with the credentials that google-auth finds (extra `gcp`)."""

import threading
from typing import Any

import google.auth
import httpx
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request

from libs.crypto.clients.threads import CONNECT_SECONDS, READ_SECONDS, Threads

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
ANSWER_BYTES_MAX = 256 * 1024


class GcpError(Exception):
    """Google refused, did not answer, or answered with something else.

    Attributes:
        status: Google's word, e.g. `NOT_FOUND`; empty where it did not get so far.
    """

    def __init__(self, status: str = "") -> None:
        self.status = status
        super().__init__(status or "no answer")


class GcpClient:
    """Calls one of Google's APIs in threads.

    Args:
        anonymous: send no credentials: for a test server.
    """

    def __init__(self, base: str, *, anonymous: bool = False) -> None:
        self._base = base.rstrip("/")
        self._anonymous = anonymous
        self._threads = Threads("gcp")
        self._lock = threading.Lock()
        self._credentials: Any = None
        self._http = httpx.Client(
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS), follow_redirects=False
        )

    async def call(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            GcpError: there is none, or it is a refusal.
        """
        try:
            return await self._threads.run(self._call, method, path, body)
        except (httpx.HTTPError, GoogleAuthError, TimeoutError, OSError) as error:
            raise GcpError from error

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        answer = self._http.request(
            method, f"{self._base}/v1/{path}", json=body, headers=self._headers()
        )
        try:
            content = answer.json() if len(answer.content) <= ANSWER_BYTES_MAX else None
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise GcpError
        if answer.status_code != httpx.codes.OK:
            error = content.get("error")
            raise GcpError(str(error.get("status", "")) if isinstance(error, dict) else "")
        return content

    def _headers(self) -> dict[str, str]:
        if self._anonymous:
            return {}
        with self._lock:
            if self._credentials is None:
                self._credentials, _ = google.auth.default(scopes=[SCOPE])
            if not self._credentials.valid:
                self._credentials.refresh(Request())
            return {"Authorization": f"Bearer {self._credentials.token}"}


def _table() -> tuple[int, ...]:
    entries = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901
        entries.append(value)
    return tuple(entries)


_CRC32C = _table()


def crc32c(data: bytes) -> str:
    """CRC-32C (Castagnoli, RFC 3720 appendix B.4) as Google writes it: decimal text."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC32C[(crc ^ byte) & 0xFF]
    return str(crc ^ 0xFFFFFFFF)
