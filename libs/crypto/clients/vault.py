"""HashiCorp Vault and OpenBao by their own library (extra `vault`)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hvac  # type: ignore[import-untyped]
import requests
from hvac.exceptions import VaultError  # type: ignore[import-untyped]

from libs.crypto.clients.threads import CONNECT_SECONDS, READ_SECONDS, Threads

UNREACHABLE = (requests.RequestException, VaultError, TimeoutError, OSError)
"""Whatever keeps Vault from answering as asked, its refusals of us among them."""


@dataclass(frozen=True)
class VaultLogin:
    """Where Vault is and how it knows us: a token, or a file that an agent keeps fresh."""

    address: str
    token: Callable[[], str]
    namespace: str | None = None

    @classmethod
    def of(
        cls, address: str, *, token: str | None, token_file: Path | None, namespace: str | None
    ) -> "VaultLogin":
        """The login that the settings name; the file is read at every call."""

        def read() -> str:
            return token_file.read_text("ascii").strip() if token_file else token or ""

        return cls(address.rstrip("/"), read, namespace)


class VaultClient:
    """Calls Vault in threads."""

    def __init__(self, login: VaultLogin) -> None:
        self._login = login
        self._threads = Threads("vault")

    async def call(self, work: Callable[[Any], Any]) -> Any:
        """The result of `work(client)`.

        Raises:
            requests.RequestException, VaultError, TimeoutError, OSError: see `UNREACHABLE`.
        """
        return await self._threads.run(self._call, work)

    def _call(self, work: Callable[[Any], Any]) -> Any:
        client = hvac.Client(
            url=self._login.address,
            token=self._login.token(),
            namespace=self._login.namespace,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            allow_redirects=False,
        )
        try:
            return work(client)
        finally:
            client.adapter.close()
