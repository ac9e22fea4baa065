"""AWS by its own library (extra `aws`); credentials as it finds them: role, profile, environment."""

import threading
from collections.abc import Callable
from typing import Any

import boto3  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
)

from libs.crypto.clients.threads import CONNECT_SECONDS, READ_SECONDS, Threads

UNREACHABLE = (BotoCoreError, ClientError, TimeoutError, OSError)
"""Whatever keeps AWS from answering as asked, its refusals of us among them."""

_CONFIG = Config(
    connect_timeout=CONNECT_SECONDS,
    read_timeout=READ_SECONDS,
    retries={"total_max_attempts": 2, "mode": "standard"},
)


class AwsClient:
    """Calls one service of AWS in threads; the client is made at the first call."""

    def __init__(self, service: str, *, region: str | None, endpoint: str | None) -> None:
        self._service = service
        self._region = region
        self._endpoint = endpoint
        self._threads = Threads(f"aws-{service}")
        self._lock = threading.Lock()
        self._client: Any = None

    async def call(self, work: Callable[[Any], Any]) -> Any:
        """The result of `work(client)`.

        Raises:
            BotoCoreError, ClientError, TimeoutError, OSError: see `UNREACHABLE`.
        """
        return await self._threads.run(lambda: work(self._made()))

    def _made(self) -> Any:
        with self._lock:
            if self._client is None:
                session = boto3.session.Session(region_name=self._region)
                self._client = session.client(
                    self._service, endpoint_url=self._endpoint, config=_CONFIG
                )
            return self._client


def code_of(error: BaseException) -> str:
    """AWS's own word for a refusal; empty where it is none of AWS's."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))
    return ""
