"""Whatever is booked, held and closed, by however many, told again and taken back: the book is a plain one's."""

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


@pytest.mark.parametrize("machine", [Books, Held, Closed])
def test_the_book_is_that_of_the_reference(database: TestDatabase, machine: type[Twice]) -> None:
    with world_of(database) as world:
        examples = LOOKED_AT if machine is Books else settings(LOOKED_AT, max_examples=7)
        run_state_machine_as_test(lambda: machine(world), settings=examples)


def _parameter(bug: Planted) -> Any:
    """The quick one is planted in every run of the tests, the others by `make bench-ledger`."""
    return pytest.param(bug, id=bug.name, marks=[] if bug.quick else [pytest.mark.bench])


@pytest.mark.parametrize("bug", [_parameter(bug) for bug in PLANTED])
def test_a_planted_bug_is_caught(
    database: TestDatabase, bug: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world_of(database) as world:
        world.run(bug.plant(world.admin, monkeypatch))
        # What fails only in some orders of what happens at the same time, Hypothesis calls flaky.
        with pytest.raises((AssertionError, asyncpg.PostgresError, Flaky)) as caught:
            run_state_machine_as_test(lambda: bug.machine(world), settings=LOOKED_AT_FOR_A_BUG)
        assert not isinstance(caught.value, asyncpg.SyntaxOrAccessError)
