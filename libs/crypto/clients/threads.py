"""Blocking calls off the event loop, with a limit on how many and how long.

The threads are our own: a key service that hangs must not take the default executor's away from
others.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

CONNECT_SECONDS = 2.0
READ_SECONDS = 5.0
CALL_SECONDS = 10.0
"""A whole call with its retries; whoever waits gets `TimeoutError`."""

_THREADS = 8


class Threads:
    """A few threads for one service outside."""

    def __init__(self, name: str, *, call_seconds: float = CALL_SECONDS) -> None:
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix=name)
        self._call_seconds = call_seconds

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The call's result.

        Raises:
            TimeoutError: it takes too long; the thread ends when the client's own limit is reached.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._call_seconds):
            return await loop.run_in_executor(self._executor, partial(call, *args, **kwargs))
