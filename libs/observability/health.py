"""Whether this process is ready: named checks that its parts register.

Alive is being able to answer at all. Ready is being able to do the work: the pool reaches Postgres,
the consumer makes progress, topics and migrations are there. A check that hangs or raises fails.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

CHECK_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True)
class Check:
    """The outcome of one check; `detail` says what is wrong, or the figure behind the verdict."""

    ok: bool
    detail: str = ""


CheckFunction = Callable[[], Check | Awaitable[Check]]


class Health:
    """The checks of one process."""

    def __init__(self) -> None:
        self._checks: dict[str, CheckFunction] = {}
        self._stopping = False

    def register(self, name: str, check: CheckFunction) -> None:
        """Add a check.

        Raises:
            ValueError: a check of this name exists already.
        """
        if name in self._checks:
            raise ValueError(f"the check {name} is already registered")
        self._checks[name] = check

    def stop(self) -> None:
        """From now on not ready: the process is draining."""
        self._stopping = True

    async def run(self) -> Mapping[str, Check]:
        """Run every check at the same time, each for at most `CHECK_TIMEOUT_SECONDS`."""
        names = list(self._checks)
        outcomes = await asyncio.gather(*(_run(self._checks[name]) for name in names))
        results = dict(zip(names, outcomes, strict=True))
        if self._stopping:
            results["process"] = Check(ok=False, detail="stopping")
        return results


async def _run(check: CheckFunction) -> Check:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            outcome = check()
            return await outcome if inspect.isawaitable(outcome) else outcome
    except TimeoutError:
        return Check(ok=False, detail=f"no answer within {CHECK_TIMEOUT_SECONDS} s")
    except Exception as error:  # noqa: BLE001 - whatever a check raises, the part is not ready
        # The class alone: the message may quote an address with its password.
        return Check(ok=False, detail=type(error).__name__)
