"""Doing several things at once and hearing of the first failure only when all have ended."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def all_of(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run everything to its end; then raise the first error there was, as itself."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
