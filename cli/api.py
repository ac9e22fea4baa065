"""A client of the public API, as any outside program would write one."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx

from libs.ids import new_id

T = TypeVar("T")

SETTLE_SECONDS = 60.0
FIRST_ANSWER_SECONDS = 10.0
"""Where nobody has ever answered, nobody is about to come back."""
POLL_SECONDS = 0.2
VERSION_HEADER = "Sluice-Version"
AWAY = frozenset({502, 503, 504})
"""Statuses of a service that is away for the moment."""


class StoryError(Exception):
    """A step of the story did not come out as it must; the message says what was expected."""


class Api:
    """One caller of one Sluice: an origin and a key.

    Attributes:
        version: the last `Sluice-Version` that an answer carried. It is sent along from then on,
            so that no service answers from before this caller's own writes.
    """

    def __init__(self, origin: str, key: str, *, tenant: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        if tenant is not None:
            headers["X-Tenant-ID"] = tenant
        self._http = httpx.AsyncClient(base_url=origin, headers=headers, timeout=30)
        self.version: str | None = None
        self._was_answered = False
        self._may_be_young = False

    async def call(
        self,
        method: str,
        path: str,
        *,
        expect: int | None = None,
        on_its_way: str | None = None,
        **parts: Any,
    ) -> Any:
        """The answer's JSON, asked for again while the service is away or says so.

        A POST carries an Idempotency-Key, so asking again has no second effect.

        Args:
            expect: the status wanted; None: any 2xx.
            on_its_way: the code of a refusal that only says that what was made a moment ago
                elsewhere is not known there yet.

        Raises:
            StoryError: the status is not the expected one (by default any 2xx).
        """
        headers = {"Idempotency-Key": str(new_id())} if method == "POST" else {}
        started = time.monotonic()
        while True:
            try:
                answer = await self._http.request(method, path, headers=headers, **parts)
                self._was_answered = True
                trouble = f"{answer.status_code}: {answer.text[:400]}"
                if not self._is_away(answer) and not _says(answer, on_its_way):
                    break
            except httpx.TransportError as error:
                trouble = type(error).__name__
            patience_seconds = SETTLE_SECONDS if self._was_answered else FIRST_ANSWER_SECONDS
            if time.monotonic() > started + patience_seconds:
                raise StoryError(f"{method} {path} answered {trouble}")
            await asyncio.sleep(0.5)
        if VERSION_HEADER in answer.headers:
            self.version = answer.headers[VERSION_HEADER]
            self._http.headers[VERSION_HEADER] = self.version
        well = answer.status_code == expect if expect else answer.is_success
        if not well:
            raise StoryError(f"{method} {path} answered {trouble}")
        return answer.json() if answer.content else None

    def read_after(self, version: str | None) -> None:
        """From now on be answered only by services that know this version of the tenant.

        The key may be part of it: a service that says it does not know it is asked again.
        """
        if version is not None:
            self._http.headers[VERSION_HEADER] = version
            self._may_be_young = True

    def _is_away(self, answer: httpx.Response) -> bool:
        """Whether a service is away, or has not heard of the key yet."""
        unknown = self._may_be_young and answer.status_code == httpx.codes.UNAUTHORIZED
        return unknown or answer.status_code in AWAY

    async def get(self, path: str, **query: Any) -> Any:
        """GET; the answer's JSON."""
        return await self.call("GET", path, params=query or None)

    async def post(
        self, path: str, body: Any, *, expect: int | None = None, on_its_way: str | None = None
    ) -> Any:
        """POST; the answer's JSON."""
        return await self.call("POST", path, json=body, expect=expect, on_its_way=on_its_way)

    async def status_of(self, method: str, path: str, **parts: Any) -> int:
        """Only the status of an answer, once there is one."""

        async def answered() -> int | None:
            try:
                answer = await self._http.request(method, path, **parts)
            except httpx.TransportError:
                return None
            return None if self._is_away(answer) else answer.status_code

        return await eventually(f"an answer of {path}", answered)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _says(answer: httpx.Response, code: str | None) -> bool:
    """Whether the answer is a problem of this code."""
    return code is not None and answer.is_client_error and answer.json().get("code") == code


async def eventually(
    what: str, probe: Callable[[], Awaitable[T | None]], *, seconds: float | None = None
) -> T:
    """Ask until the answer is there.

    Args:
        seconds: None: as long as every caller waits.

    Raises:
        StoryError: it is not there in time.
    """
    seconds = SETTLE_SECONDS if seconds is None else seconds
    deadline = time.monotonic() + seconds
    while True:
        found = await probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise StoryError(f"{what} did not happen within {seconds:.0f} s")
        await asyncio.sleep(POLL_SECONDS)
