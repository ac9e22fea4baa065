"""Keys nobody knows: few requests wait for one, and the time of a refusal tells nothing."""

import asyncio
import time

import pytest

from libs.directory.local import WAIT_SECONDS
from libs.web import key_waits
from libs.web.key_waits import POLL_SECONDS, REFUSED_AFTER_SECONDS, KeyWaits


async def nothing() -> str | None:
    return None


async def timed(waits: KeyWaits, address: str = "192.0.2.1") -> float:
    """How long it takes to find nothing."""
    began = time.monotonic()
    assert await waits.find(nothing, address) is None
    return time.monotonic() - began


async def test_a_key_on_its_way_is_waited_for() -> None:
    looks = 0

    async def look() -> str | None:
        nonlocal looks
        looks += 1
        return "found" if looks == 3 else None

    began = time.monotonic()
    assert await KeyWaits().find(look, "192.0.2.1") == "found"
    assert time.monotonic() - began < 4 * POLL_SECONDS


async def test_a_key_that_is_known_takes_no_place() -> None:
    async def look() -> str | None:
        return "found"

    assert await KeyWaits(places=0).find(look, None) == "found"


async def test_beyond_the_places_the_answer_comes_at_once() -> None:
    waits = KeyWaits(places=3, per_address=2)
    of_one = [asyncio.create_task(timed(waits)) for _ in range(5)]
    await asyncio.sleep(0.01)
    of_others = [asyncio.create_task(timed(waits, f"192.0.2.{place}")) for place in range(10, 13)]
    seconds = await asyncio.gather(*of_one)
    assert sum(each >= WAIT_SECONDS for each in seconds) == 2
    assert all(each < WAIT_SECONDS / 2 for each in seconds if each < WAIT_SECONDS)
    seconds = await asyncio.gather(*of_others)
    assert sum(each >= WAIT_SECONDS for each in seconds) == 1
    # Nobody has left a place taken behind.
    assert await timed(waits) >= WAIT_SECONDS


async def test_a_request_that_is_given_up_leaves_its_place() -> None:
    waits = KeyWaits(places=1, per_address=1)
    gone = asyncio.create_task(timed(waits))
    await asyncio.sleep(0.01)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert await timed(waits) >= WAIT_SECONDS


class Clock:
    """Time that passes only where somebody waits, or where a look says it took some."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("places", "ends"), [(0, REFUSED_AFTER_SECONDS), (1, WAIT_SECONDS)])
@pytest.mark.parametrize("look_seconds", [0.0, 0.001, 0.049])
async def test_the_time_does_not_tell_a_slow_look_from_a_quick_one(
    monkeypatch: pytest.MonkeyPatch, places: int, ends: float, look_seconds: float
) -> None:
    """Attack A22: the moment of the refusal is fixed, whatever a look in memory or database takes."""
    clock = Clock()
    monkeypatch.setattr(key_waits, "time", clock)
    monkeypatch.setattr(key_waits, "asyncio", clock)

    async def look() -> str | None:
        clock.now += look_seconds
        return None

    assert await KeyWaits(places=places).find(look, None) is None
    assert clock.now == pytest.approx(ends, abs=1e-9)
