"""How much of Stripe an account may have: calls per second and at once, in two lanes.

Everything runs on one event loop, so nothing here needs a lock: a caller either goes on at once or
waits on a future of its own. A call made inside `user_facing` takes the lane of people who wait for
an answer: it goes before everything that waits in the background, a share of the calls is kept for
it, and it waits a few seconds at most.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from libs.observability.metrics import STRIPE_WAITING_CALLS

Lane = Literal["user", "background"]

CALLS_AT_ONCE_MAX = 8
BACKGROUND_AT_ONCE_MAX = 6
BACKGROUND_SHARE = 0.8
"""Of the calls per second; what the background leaves is there for people at any moment."""
BURST_SECONDS = 0.25
"""How many seconds' calls may go out at once: with 80 % of Stripe's limit as the rate, no second ever
holds more calls than Stripe allows."""
WAIT_SECONDS_MAX: dict[Lane, float] = {"user": 5.0, "background": 30.0}

_lane: ContextVar[Lane] = ContextVar("stripe_lane", default="background")


class NotInTimeError(Exception):
    """The call would have to wait longer than its caller can."""


@contextmanager
def user_facing() -> Generator[None, None, None]:
    """Calls to Stripe inside the block are those somebody waits for."""
    token = _lane.set("user")
    try:
        yield
    finally:
        _lane.reset(token)


def current_lane() -> Lane:
    """The lane that a call made now takes."""
    return _lane.get()


class _Bucket:
    """Tokens that come back at a steady rate, up to a burst."""

    def __init__(self, per_second: float, now: float) -> None:
        self.per_second = per_second
        self._most = max(1.0, per_second * BURST_SECONDS)
        self._tokens = self._most
        self._at = now

    def fill(self, now: float) -> None:
        """Add what has come back since the last time."""
        self._tokens = min(self._most, self._tokens + (now - self._at) * self.per_second)
        self._at = now

    def wait_seconds(self) -> float:
        """How long until a token is there; 0 where one is."""
        return max(0.0, (1.0 - self._tokens) / self.per_second)

    def take(self) -> None:
        """Use one up."""
        self._tokens -= 1.0


class Budget:
    """Calls of one account in one mode, by this process.

    Args:
        calls_per_second: 0 sets no limit per second, only that of calls at once.
    """

    def __init__(
        self, calls_per_second: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        now = clock()
        self._all = _Bucket(calls_per_second, now) if calls_per_second else None
        share = calls_per_second * BACKGROUND_SHARE
        self._background = _Bucket(share, now) if calls_per_second else None
        self._running: dict[Lane, int] = {"user": 0, "background": 0}
        self._waiting: dict[Lane, deque[asyncio.Future[None]]] = {
            "user": deque(),
            "background": deque(),
        }
        self._timer: asyncio.TimerHandle | None = None

    async def take(self, lane: Lane) -> None:
        """Wait for a turn; `give_back` it when the call has ended.

        Raises:
            NotInTimeError: it would not come in time; at once where that is certain.
        """
        if not self._waiting["user"] and not self._waiting[lane] and self._may_go(lane):
            self._go(lane)
            return
        if self._expected_seconds(lane) > WAIT_SECONDS_MAX[lane]:
            raise NotInTimeError(f"{len(self._waiting[lane])} calls wait already")
        turn = asyncio.get_running_loop().create_future()
        self._waiting[lane].append(turn)
        STRIPE_WAITING_CALLS.labels(lane=lane).inc()
        self._serve()
        try:
            async with asyncio.timeout(WAIT_SECONDS_MAX[lane]):
                await turn
        except BaseException as error:
            self._leave(lane, turn)
            if isinstance(error, TimeoutError):
                raise NotInTimeError("no turn came in time") from None
            raise
        finally:
            STRIPE_WAITING_CALLS.labels(lane=lane).dec()

    def give_back(self, lane: Lane) -> None:
        """The call has ended."""
        self._running[lane] -= 1
        self._serve()

    def _leave(self, lane: Lane, turn: asyncio.Future[None]) -> None:
        """Give up waiting; a turn that came in the same moment goes to the next."""
        if turn.done() and not turn.cancelled():
            self.give_back(lane)
        else:
            turn.cancel()
            if turn in self._waiting[lane]:
                self._waiting[lane].remove(turn)
            self._serve()

    def _may_go(self, lane: Lane) -> bool:
        return self._has_room(lane) and self._wait_seconds(lane) == 0.0

    def _has_room(self, lane: Lane) -> bool:
        if sum(self._running.values()) >= CALLS_AT_ONCE_MAX:
            return False
        return lane == "user" or self._running["background"] < BACKGROUND_AT_ONCE_MAX

    def _buckets(self, lane: Lane) -> list[_Bucket]:
        buckets = (self._all, self._background if lane == "background" else None)
        return [bucket for bucket in buckets if bucket is not None]

    def _wait_seconds(self, lane: Lane) -> float:
        now, wait = self._clock(), 0.0
        for bucket in self._buckets(lane):
            bucket.fill(now)
            wait = max(wait, bucket.wait_seconds())
        return wait

    def _expected_seconds(self, lane: Lane) -> float:
        """At least how long a newcomer waits, by those before it; calls at once may add to it."""
        buckets = self._buckets(lane)
        if not buckets:
            return 0.0
        return len(self._waiting[lane]) / min(bucket.per_second for bucket in buckets)

    def _go(self, lane: Lane) -> None:
        self._running[lane] += 1
        for bucket in self._buckets(lane):
            bucket.take()

    def _serve(self) -> None:
        """Give turns to those who wait, people first, and come back when the next token is there."""
        for lane in ("user", "background"):
            queue = self._waiting[lane]
            while queue and self._may_go(lane):
                turn = queue.popleft()
                if not turn.done():
                    self._go(lane)
                    turn.set_result(None)
            if queue and self._has_room(lane):
                self._serve_later(self._wait_seconds(lane))
                return

    def _serve_later(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # A hair too early would find no token and set the timer again.
        self._timer = asyncio.get_running_loop().call_later(seconds + 0.001, self._serve)
