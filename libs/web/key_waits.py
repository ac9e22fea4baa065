"""Waiting for a key that may be on its way: a few requests do, the rest are answered at once.

A key that was made a moment ago is unknown to a service, not wrong, so whoever shows one is given two
seconds. Anybody can invent well-formed keys, so only so many requests of a process wait, and fewer of
one address. A key is refused at the end of one of two fixed times, whether its look-up part is known
or not: the time tells nothing of which keys exist (attack A22).
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

from libs.directory.local import WAIT_SECONDS

PLACES = 64
PLACES_PER_ADDRESS = 16
POLL_SECONDS = 0.1
REFUSED_AFTER_SECONDS = 0.05
"""At once, but for the difference that a look-up in memory and one in the database make."""

T = TypeVar("T")


class KeyWaits:
    """The places of one process for requests that wait."""

    def __init__(self, places: int = PLACES, per_address: int = PLACES_PER_ADDRESS) -> None:
        self._places = places
        self._per_address = per_address
        self._taken: Counter[str] = Counter()

    async def find(self, look: Callable[[], Awaitable[T | None]], address: str | None) -> T | None:
        """What `look` finds, now or while the request may wait; None after one of the fixed times."""
        began = time.monotonic()
        found = await look()
        if found is not None:
            return found
        with self.place(address or "") as waits:
            ends = began + (WAIT_SECONDS if waits else REFUSED_AFTER_SECONDS)
            # The last look, too, is over before the end.
            while waits and time.monotonic() + POLL_SECONDS < ends - REFUSED_AFTER_SECONDS:
                await asyncio.sleep(POLL_SECONDS)
                found = await look()
                if found is not None:
                    return found
            await asyncio.sleep(max(0.0, ends - time.monotonic()))
        return None

    @contextmanager
    def place(self, address: str) -> Generator[bool, None, None]:
        """A place for the block, where there is one."""
        if self._taken.total() >= self._places or self._taken[address] >= self._per_address:
            yield False
            return
        self._taken[address] += 1
        try:
            yield True
        finally:
            self._taken[address] -= 1
            if not self._taken[address]:
                del self._taken[address]
