"""A lean sender of HTTP requests: connections kept alive, bytes made beforehand, times kept.

A full client would take the machine from what is measured.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

HEAD_ENDS = b"\r\n\r\n"
LENGTH = b"content-length: "


@dataclass
class Line(asyncio.Protocol):
    """One connection; one request at a time."""

    host: str
    port: int
    _received: bytes = b""
    _transport: asyncio.Transport | None = None
    _answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        received = self._received + data
        head, ends, body = received.partition(HEAD_ENDS)
        length = head.lower().partition(LENGTH)[2].partition(b"\r\n")[0]
        if ends and len(body) >= int(length) and self._answer is not None:
            received = b""
            self._answer.set_result(int(head[9:12]))
        self._received = received

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed"))

    async def post(self, request: bytes) -> int:
        """Send one request; the status of its answer."""
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await loop.create_connection(lambda: self, self.host, self.port)
        assert self._transport is not None
        self._answer = loop.create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()


@dataclass
class Measured:
    """What a run of requests took.

    Attributes:
        seconds: of each request, in no order.
        statuses: how often each status was answered.
        lasted_seconds: of the whole run.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    lasted_seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Requests answered per second."""
        return len(self.seconds) / self.lasted_seconds

    def percentile_ms(self, share: float) -> float:
        """The time that this share of the requests did not exceed."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000

    def note(self, status: int, seconds: float) -> None:
        """One more answer."""
        self.seconds.append(seconds)
        self.statuses[status] = self.statuses.get(status, 0) + 1


async def as_fast_as_it_goes(
    requests: Iterator[bytes], port: int, *, lines: int, seconds: float
) -> Measured:
    """Each line sends its next request when the one before is answered."""
    measured = Measured()
    started = time.perf_counter()

    async def one() -> None:
        line = Line("127.0.0.1", port)
        while time.perf_counter() - started < seconds:
            since = time.perf_counter()
            measured.note(await line.post(next(requests)), time.perf_counter() - since)
        line.close()

    await asyncio.gather(*(one() for _ in range(lines)))
    measured.lasted_seconds = time.perf_counter() - started
    return measured


async def each_once(requests: Iterable[bytes], port: int, *, lines: int) -> Measured:
    """Each line sends the next request that nobody has sent, until none is left."""
    measured = Measured()
    left = iter(requests)
    started = time.perf_counter()

    async def one() -> None:
        line = Line("127.0.0.1", port)
        for request in left:
            since = time.perf_counter()
            measured.note(await line.post(request), time.perf_counter() - since)
        line.close()

    await asyncio.gather(*(one() for _ in range(lines)))
    measured.lasted_seconds = time.perf_counter() - started
    return measured


async def at_a_rate(
    requests: Iterator[bytes], port: int, *, per_second: float, lines: int, seconds: float
) -> Measured:
    """Requests at fixed moments, timed from the moment they were due, answered or not before."""
    measured = Measured()
    started = time.perf_counter()
    total = int(per_second * seconds)
    places = iter(range(total))

    async def one() -> None:
        line = Line("127.0.0.1", port)
        for place in places:
            due = started + place / per_second
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            measured.note(await line.post(next(requests)), time.perf_counter() - due)
        line.close()

    await asyncio.gather(*(one() for _ in range(lines)))
    measured.lasted_seconds = time.perf_counter() - started
    return measured
