"""Keys nobody knows: few requests wait for one, and the time of a refusal tells nothing."""

import asyncio

import pytest

from libs.directory.local import WAIT_SECONDS
from libs.web import key_waits
from libs.web.key_waits import POLL_SECONDS, REFUSED_AFTER_SECONDS, KeyWaits

sleep = asyncio.sleep


class Clock:
    """Time that passes only where everybody waits, or where a look says it took some."""

    def __init__(self) -> None:
        self.now = 0.0
        self._ends: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        self._ends.append(end)
        try:
            while self.now < end:
                await sleep(0)
                if end == min(self._ends):
                    self.now = end
        finally:
            self._ends.remove(end)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """In place of the real one."""
    made = Clock()
    monkeypatch.setattr(key_waits, "time", made)
    monkeypatch.setattr(key_waits, "asyncio", made)
    return made


async def nothing() -> str | None:
    return None


async def timed(clock: Clock, waits: KeyWaits, address: str = "192.0.2.1") -> float:
    """How long it takes to find nothing."""
    began = clock.now
    assert await waits.find(nothing, address) is None
    return clock.now - began


async def test_a_key_on_its_way_is_waited_for(clock: Clock) -> None:
    looks = 0

    async def look() -> str | None:
        nonlocal looks
        looks += 1
        return "found" if looks == 3 else None

    assert await KeyWaits().find(look, "192.0.2.1") == "found"
    assert clock.now == pytest.approx(2 * POLL_SECONDS)


async def test_a_key_that_is_known_takes_no_place(clock: Clock) -> None:
    async def look() -> str | None:
        return "found"

    assert await KeyWaits(places=0).find(look, None) == "found"
    assert clock.now == 0


async def test_beyond_the_places_the_answer_comes_at_once(clock: Clock) -> None:
    waits = KeyWaits(places=3, per_address=2)
    seconds = await asyncio.gather(
        *(timed(clock, waits) for _ in range(5)),
        *(timed(clock, waits, f"192.0.2.{place}") for place in range(10, 13)),
    )
    at_once, waited = REFUSED_AFTER_SECONDS, WAIT_SECONDS
    assert seconds[:5] == pytest.approx([waited, waited, at_once, at_once, at_once])
    assert seconds[5:] == pytest.approx([waited, at_once, at_once])
    # Nobody has left a place taken behind.
    assert await timed(clock, waits) == pytest.approx(WAIT_SECONDS)


async def test_a_request_that_is_given_up_leaves_its_place(clock: Clock) -> None:
    waits = KeyWaits(places=1, per_address=1)
    gone = asyncio.create_task(timed(clock, waits))
    await sleep(0)
    assert await timed(clock, waits) == pytest.approx(REFUSED_AFTER_SECONDS)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert await timed(clock, waits) == pytest.approx(WAIT_SECONDS)


@pytest.mark.parametrize(("places", "ends"), [(0, REFUSED_AFTER_SECONDS), (1, WAIT_SECONDS)])
@pytest.mark.parametrize("look_seconds", [0.0, 0.001, 0.049])
async def test_the_time_does_not_tell_a_slow_look_from_a_quick_one(
    clock: Clock, places: int, ends: float, look_seconds: float
) -> None:
    """Attack A22: the moment of the refusal is fixed, whatever a look in memory or database takes."""

    async def look() -> str | None:
        clock.now += look_seconds
        return None

    assert await KeyWaits(places=places).find(look, None) is None
    assert clock.now == pytest.approx(ends, abs=1e-9)
