"""Questions that come together share a look; what comes meanwhile shares the next, and none waits for good."""

import asyncio
from collections.abc import Sequence

import pytest

from libs.db.gathered_looks import AT_ONCE, AT_ONCE_MAX, TOGETHER_MAX, GatheredLooks


class Looks:
    """Looks that take as long as they are told to; each question is answered by its look's number."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.go_on = asyncio.Event()

    async def look(self, questions: Sequence[str]) -> list[tuple[int, str]]:
        self.asked.append([*questions])
        number = len(self.asked)
        await self.go_on.wait()
        return [(number, question) for question in questions]


async def turn() -> None:
    """Let everything that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_comes_in_the_same_moment_shares_a_look() -> None:
    gathered, looks = GatheredLooks[str, tuple[int, str]](), Looks()
    looks.go_on.set()
    found = await asyncio.gather(*(gathered.ask("a", each, looks.look) for each in "xyz"))
    assert found == [(1, "x"), (1, "y"), (1, "z")]
    assert await gathered.ask("a", "x", looks.look) == (2, "x")


async def test_what_comes_meanwhile_waits_for_a_look_that_begins_later() -> None:
    gathered, looks = GatheredLooks[str, tuple[int, str]](), Looks()
    first = []
    for number in range(AT_ONCE):
        first.append(asyncio.create_task(gathered.ask("a", f"first {number}", looks.look)))
        await turn()
    many = [f"later {number}" for number in range(TOGETHER_MAX)]
    later = [asyncio.create_task(gathered.ask("a", each, looks.look)) for each in many]
    other = asyncio.create_task(gathered.ask("b", "another's", looks.look))
    await turn()
    assert looks.asked == [*([f"first {number}"] for number in range(AT_ONCE)), ["another's"]]
    looks.go_on.set()
    await asyncio.gather(*first, other)
    assert await asyncio.gather(*later) == [(AT_ONCE + 2, each) for each in many], (
        "what they are told is not older than they are"
    )


async def test_where_more_wait_than_share_a_look_more_looks_begin_up_to_a_bound() -> None:
    gathered, looks = GatheredLooks[str, tuple[int, str]](), Looks()
    asked = []
    for number in range(AT_ONCE_MAX * TOGETHER_MAX * 2):
        asked.append(asyncio.create_task(gathered.ask("a", str(number), looks.look)))
        await turn()
    assert len(looks.asked) == AT_ONCE_MAX
    assert max(map(len, looks.asked)) == TOGETHER_MAX
    looks.go_on.set()
    found = await asyncio.gather(*asked)
    assert [question for _, question in found] == [str(each) for each in range(len(asked))]
    assert max(map(len, looks.asked)) == TOGETHER_MAX


async def test_a_failure_is_told_to_those_it_is_of_and_forgotten() -> None:
    gathered, looks = GatheredLooks[str, tuple[int, str]](), Looks()

    async def fail(questions: Sequence[str]) -> list[tuple[int, str]]:
        raise LookupError(",".join(questions))

    told = await asyncio.gather(
        *(gathered.ask("a", each, fail) for each in "xy"), return_exceptions=True
    )
    assert [str(each) for each in told] == ["x,y", "x,y"]
    looks.go_on.set()
    assert await gathered.ask("a", "x", looks.look) == (1, "x")


async def test_a_question_without_an_answer_fails() -> None:
    gathered: GatheredLooks[str, str] = GatheredLooks()

    async def forget(questions: Sequence[str]) -> list[str]:
        return [*questions[1:]]

    with pytest.raises(AssertionError):
        await gathered.ask("a", "x", forget)


async def test_who_gives_up_takes_the_answer_from_nobody() -> None:
    gathered, looks = GatheredLooks[str, tuple[int, str]](), Looks()
    asked = [asyncio.create_task(gathered.ask("a", each, looks.look)) for each in "xyz"]
    asked[0].cancel()
    await turn()
    assert looks.asked == [["y", "z"]], "who gave up before is not asked for"
    asked[1].cancel()
    looks.go_on.set()
    assert await asked[2] == (1, "z")
    alone = asyncio.create_task(gathered.ask("a", "x", looks.look))
    alone.cancel()
    await turn()
    assert looks.asked == [["y", "z"]]
