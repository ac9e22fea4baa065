"""Whatever is booked, held and closed, by however many, told again and taken back: the book is a plain one's."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from ledger.model import Books, Twice, world_of
from ledger.model_kept import Closed, Held
from ledger.planted import PLANTED, Planted
from libs.testing.databases import TestDatabase

LOOKED_AT = settings(
    max_examples=12,
    stateful_step_count=8,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
LOOKED_AT_FOR_A_BUG = settings(
    LOOKED_AT,
    max_examples=150,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    print_blob=False,
    report_multiple_bugs=False,
)


NOTICED = (AssertionError, asyncpg.PostgresError)
"""How the machines and the database say that something is wrong."""

ROUNDS_MAX = 5


@pytest.mark.parametrize("machine", [Books, Held, Closed])
def test_the_book_is_that_of_the_reference(database: TestDatabase, machine: type[Twice]) -> None:
    with world_of(database) as world:
        examples = LOOKED_AT if machine is Books else settings(LOOKED_AT, max_examples=7)
        run_state_machine_as_test(lambda: machine(world), settings=examples)


def _parameter(bug: Planted) -> Any:
    """The quick one is planted in every run of the tests, the others by `make bench-ledger`."""
    return pytest.param(bug, id=bug.name, marks=[] if bug.quick else [pytest.mark.bench])


def _telling(seen: list[Exception], step: Callable[..., None]) -> Callable[..., None]:
    """The same step of a machine; what it fails with is seen."""

    def told(*args: Any) -> None:
        try:
            step(*args)
        except Exception as failure:
            seen.append(failure)
            raise

    return told


@pytest.mark.parametrize("bug", [_parameter(bug) for bug in PLANTED])
def test_a_planted_bug_is_caught(
    database: TestDatabase, bug: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world_of(database) as world:
        world.run(bug.plant(world.admin, monkeypatch))
        seen: list[Exception] = []

        def machine() -> Twice:
            made = bug.machine(world)
            for name in ("all_at_once", "teardown"):
                setattr(made, name, _telling(seen, getattr(made, name)))
            return made

        # Where what follows rests on the order of what happens at the same time, Hypothesis calls it
        # flaky and ends, perhaps before anything went wrong. Only what the machine has seen counts.
        for _ in range(ROUNDS_MAX):
            with suppress(*NOTICED, Flaky):
                run_state_machine_as_test(machine, settings=LOOKED_AT_FOR_A_BUG)
            if seen:
                break
    assert seen, "the machine has noticed nothing"
    for each in seen:
        assert isinstance(each, NOTICED), "the machine itself fails"
        assert not isinstance(each, asyncpg.SyntaxOrAccessError), "what is planted does not run"
