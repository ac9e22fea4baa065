"""kill -9 at random moments of the story: nothing lost, nothing doubled, the books balance.

`make chaos` kills at least 20 times; `make test` plays a short round. The seed is printed.
"""

import asyncio
import os
import random
import signal
from collections import Counter
from dataclasses import dataclass, field

import pytest

from cli import proof
from cli.demo import next_number
from cli.story import Story
from cli.terms import draw
from deploy.local.stack import Stack
from tests.conftest import story_seed
from tests.nothing_waits import everything_is_ready, nothing_waits

LONG = os.environ.get("SLUICE_CHAOS") == "long"
KILLS_MIN = 20 if LONG else 5
STEPS_MIN = 5 if LONG else 3
STORIES_MAX = 12 if LONG else 4
KILLS_PER_STEP_MAX = 12 if LONG else 3
"""A slow machine takes longer to recover than the killer to come again: it must get its turn."""
SHORT_SEED = 20_260_101
"""The round inside `make test` kills the same programs in the same order each time."""

SPARED = {"stripe_sim", "caddy", "deploy", "console", "reporting"}
"""The sandbox plays Stripe, which does not crash with us; the rest takes no part in the story."""

pytestmark = [pytest.mark.flow, pytest.mark.timeout(1_500 if LONG else 900)]
"""In a short round Postgres and Kafka may be killed several times, each a minute or two on a busy disk."""


@dataclass
class Killer:
    """Ends programs of a running stack without warning, one at a time."""

    stack: Stack
    rng: random.Random
    step: str = "start"
    stories: int = 0
    kills: list[tuple[str, str]] = field(default_factory=list)

    async def run(self) -> None:
        """Kill for ever, at random moments."""
        while True:
            await asyncio.sleep(self.rng.uniform(0.3, 2.5 if LONG else 2.0))
            if sum(step == self.step for _, step in self.kills) < KILLS_PER_STEP_MAX * self.stories:
                self.kill_one()
            await asyncio.sleep(self.rng.uniform(1.0, 3.0))

    def kill_one(self) -> None:
        """kill -9 one running program and note the step that it hit."""
        state = self.stack.state()
        assert state is not None
        victims = sorted(
            (program.name, program.pid)
            for program in state.programs
            if program.pid and program.name not in SPARED
        )
        name, pid = self.rng.choice(victims)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.kills.append((name, self.step))
        print(f"kill -9 {name} (pid {pid}) during {self.step}")


async def play(story: Story, killer: Killer) -> None:
    """Play the story under fire; the steps check every figure.

    Some steps begin with a kill: a quick machine would else be through them between two others.
    """
    killer.stories += 1
    steps = list(story.steps())
    begun_with_a_kill = set(killer.rng.sample(range(len(steps)), STEPS_MIN))
    hunt = asyncio.create_task(killer.run())
    try:
        for place, step in enumerate(steps):
            killer.step = step.__name__
            if place in begun_with_a_kill:
                killer.kill_one()
            await step()
    finally:
        hunt.cancel()
        await asyncio.gather(hunt, return_exceptions=True)


async def test_nothing_is_lost_or_doubled_by_kill_9(stack: Stack) -> None:
    seed = story_seed() if LONG else SHORT_SEED
    killer = Killer(stack, random.Random(seed))
    environment = stack.environment()
    stories = []
    while len(killer.kills) < KILLS_MIN or len(steps_hit(killer)) < STEPS_MIN:
        assert len(stories) < STORIES_MAX, f"too few kills: {killer.kills}"
        number = await next_number(environment)
        terms = draw(seed + len(stories), events=1_500)
        stories.append(Story(environment, terms, number=number))
        await play(stories[-1], killer)

    await proof.settle(environment)
    for story in stories:
        assert await story.usage_counted()
    await stories[-1].check_ledger()
    await everything_is_ready(stack)
    await nothing_waits(stack)
    print(f"{len(killer.kills)} kills: {Counter(name for name, _ in killer.kills)}")
    print(f"steps hit: {Counter(step for _, step in killer.kills)}")
    for story in stories:
        await story.close()


def steps_hit(killer: Killer) -> set[str]:
    """The steps that were under way when something was killed."""
    return {step for _, step in killer.kills}
