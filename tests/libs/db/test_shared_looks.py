"""Who asks the same at the same time shares a look, and no answer is older than its question."""

import asyncio

import pytest

from libs.db.shared_looks import SharedLooks


class Counter:
    """A look that takes as long as it is told to."""

    def __init__(self) -> None:
        self.looks = 0
        self.go_on = asyncio.Event()

    async def look(self) -> int:
        self.looks += 1
        number = self.looks
        await self.go_on.wait()
        return number


async def turn() -> None:
    """Let everything that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_look_answers_all_who_asked_before_it_began() -> None:
    looks, counter = SharedLooks[int](), Counter()
    first = [asyncio.create_task(looks.ask("a", counter.look)) for _ in range(20)]
    await turn()
    later = [asyncio.create_task(looks.ask("a", counter.look)) for _ in range(20)]
    other = asyncio.create_task(looks.ask("b", counter.look))
    await turn()
    assert counter.looks == 2, "the later ones wait; another question does not"
    counter.go_on.set()
    assert set(await asyncio.gather(*first)) == {1}
    assert set(await asyncio.gather(*later)) == {3}, "what they are told is not older than they are"
    assert await other == 2
    assert await looks.ask("a", counter.look) == 4


async def test_a_failure_is_told_to_all_and_forgotten() -> None:
    looks: SharedLooks[int] = SharedLooks()

    async def fail() -> int:
        raise LookupError("nothing there")

    told = await asyncio.gather(*(looks.ask("a", fail) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in told] == [LookupError] * 3
    with pytest.raises(LookupError):
        await looks.ask("a", fail)


async def test_who_gives_up_takes_the_answer_from_nobody() -> None:
    looks, counter = SharedLooks[int](), Counter()
    impatient = asyncio.create_task(looks.ask("a", counter.look))
    patient = asyncio.create_task(looks.ask("a", counter.look))
    await turn()
    impatient.cancel()
    await turn()
    counter.go_on.set()
    assert await patient == 1
    assert impatient.cancelled()
