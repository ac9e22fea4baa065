"""docs/requirements.md names tests that exist, and says of every row whether it holds."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "requirements.md").read_text()
ROWS = re.findall(r"^\| ([A-Z]\d+) \| ([^|]+) \|([^|]*)\|$", TEXT, re.MULTILINE)
ROWS_PER_LETTER = {"T": 9, "S": 7, "W": 4, "P": 7, "M": 7, "B": 12, "L": 4, "R": 3, "C": 5, "O": 6}


def test_every_row_is_there_once() -> None:
    expected = [
        f"{letter}{n}" for letter, last in ROWS_PER_LETTER.items() for n in range(1, last + 1)
    ]
    assert [row for row, _, _ in ROWS] == expected


def test_a_row_that_holds_names_its_test_and_one_that_does_not_says_so() -> None:
    for row, state, tests in ROWS:
        assert state.startswith(("holds", "in part:", "not yet")), row
        assert bool(tests.strip()) != state.startswith("not yet"), row


def test_every_test_named_exists() -> None:
    named = re.findall(r"`(tests/[^`]+)`", TEXT)
    assert len(named) > 40
    for name in named:
        file, _, function = name.partition("::")
        source = (ROOT / file).read_text()
        assert not function or f"def {function}(" in source, name
