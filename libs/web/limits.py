"""Limits on every request before a route sees it: path, headers, body size, time, rate.

`RequestGuard` is an ASGI middleware. It refuses by what the headers say where it can, and otherwise
counts what arrives, so that a body in chunks cannot grow past its cap or trickle in for ever.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from libs.web.answers import request_id_of, response_of
from libs.web.problems import HeadersTooLarge, InvalidRequest, Problem, RateLimited, TooLarge

BODY_BYTES_MAX = 1024 * 1024
HEADER_BYTES_MAX = 16 * 1024
HEADERS_MAX = 100
DISCARD_BYTES_MAX = 8 * 1024 * 1024
DISCARD_SECONDS = 2.0
PATH_LENGTH_MAX = 2_000
QUERY_LENGTH_MAX = 8_000
BODY_TIMEOUT_SECONDS = 30.0
RATE_KEYS_MAX = 50_000


@dataclass(frozen=True)
class Limits:
    """The limits of one service.

    `body_bytes_max_by_prefix` names the paths that take more or less than `body_bytes_max`; the
    longest prefix that fits counts.
    """

    body_bytes_max: int = BODY_BYTES_MAX
    body_bytes_max_by_prefix: Mapping[str, int] = field(default_factory=dict)
    header_bytes_max: int = HEADER_BYTES_MAX
    body_timeout_seconds: float = BODY_TIMEOUT_SECONDS

    def body_bytes_max_of(self, path: str) -> int:
        """The cap of this path's body."""
        prefixes = [prefix for prefix in self.body_bytes_max_by_prefix if path.startswith(prefix)]
        return (
            self.body_bytes_max_by_prefix[max(prefixes, key=len)]
            if prefixes
            else self.body_bytes_max
        )


class RequestGuard:
    """Refuses what is over the limits; see `Limits`."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the head of the request, then watch its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        problem = self._problem_of_head(scope)
        if problem is not None:
            if isinstance(problem, TooLarge):
                await _discard(receive)
            # The rest of the request is unread: the connection cannot be used for another one.
            problem.headers["Connection"] = "close"
            await response_of(problem, request_id_of(Request(scope)))(scope, receive, send)
            return
        body = _WatchedBody(
            receive,
            send,
            self._limits.body_bytes_max_of(scope["path"]),
            self._limits.body_timeout_seconds,
        )
        await self._app(scope, body.receive, body.send)

    def _problem_of_head(self, scope: Scope) -> Problem | None:
        if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
            return InvalidRequest("The address holds a NUL character. Leave it out.")
        if len(scope["path"]) > PATH_LENGTH_MAX or len(scope["query_string"]) > QUERY_LENGTH_MAX:
            return InvalidRequest("The address is too long. Shorten it.", code="address_too_long")
        headers = scope["headers"]
        size = sum(len(name) + len(value) for name, value in headers)
        if size > self._limits.header_bytes_max or len(headers) > HEADERS_MAX:
            return HeadersTooLarge()
        return self._problem_of_length(scope)

    def _problem_of_length(self, scope: Scope) -> Problem | None:
        for name, value in scope["headers"]:
            if name != b"content-length":
                continue
            if not value.isdigit() or len(value) > 18:
                return InvalidRequest("`Content-Length` must be a number of bytes.")
            if int(value) > self._limits.body_bytes_max_of(scope["path"]):
                return TooLarge()
        return None


async def _discard(receive: Receive) -> None:
    """Read a body that is refused, up to a bound, and keep nothing of it.

    A proxy that is still sending when the connection closes sees it broken and cannot pass the
    answer on.
    """
    read = 0
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            while read < DISCARD_BYTES_MAX:
                message = await receive()
                read += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


class _WatchedBody:
    """Counts the bytes of one body and the time it takes.

    Raises, inside the application, `HTTPException` 413 or 408: FastAPI passes these on while it reads
    a body, and turns anything else into a 400 of its own.
    """

    def __init__(
        self, receive: Receive, send: Send, bytes_max: int, timeout_seconds: float
    ) -> None:
        self._receive = receive
        self._send = send
        self._bytes_max = bytes_max
        self._bytes = 0
        self._complete = False
        self._refused = False
        self._deadline = time.monotonic() + timeout_seconds

    async def receive(self) -> Message:
        if self._complete:
            # Nothing more but the disconnect, which long answers wait for without a limit.
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._deadline - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            self._refused = True
            raise HTTPException(408) from None
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._bytes > self._bytes_max:
                self._refused = True
                raise HTTPException(413)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self._refused:
            headers = [*message.get("headers", []), (b"connection", b"close")]
            message = {**message, "headers": headers}
        await self._send(message)


class RateLimiter:
    """A token bucket per key, in this process: `burst` at once, `per_second` lasting.

    Keys are look-up prefixes of API keys or addresses. The oldest keys are forgotten beyond
    `RATE_KEYS_MAX`, so that inventing keys cannot fill the memory.
    """

    def __init__(self, per_second: float, burst: int) -> None:
        assert per_second > 0
        assert burst >= 1
        self._per_second = per_second
        self._burst = float(burst)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_seconds(self, key: str, now: float | None = None, *, cost: int = 1) -> float:
        """Take as many tokens as it costs: 0 where there were so many, else the time until there are.

        What costs more than the bucket holds takes a full one.
        """
        wanted = min(float(cost), self._burst)
        moment = time.monotonic() if now is None else now
        tokens, since = self._buckets.pop(key, (self._burst, moment))
        tokens = min(self._burst, tokens + max(0.0, moment - since) * self._per_second)
        granted = tokens >= wanted
        self._buckets[key] = (tokens - wanted if granted else tokens, moment)
        if len(self._buckets) > RATE_KEYS_MAX:
            self._buckets.popitem(last=False)
        return 0.0 if granted else (wanted - tokens) / self._per_second

    def check(self, key: str, *, cost: int = 1) -> None:
        """Take as many tokens as it costs.

        Raises:
            RateLimited: there are too few; it says how long to wait.
        """
        wait = self.wait_seconds(key, cost=cost)
        if wait > 0:
            raise RateLimited(retry_after_seconds=int(wait) + 1)
