"""`sluice rotate-keys` where nothing runs; where something does: tests/flows/test_master_key.py."""

from tests.cli.conftest import Sluice


def test_without_a_stack_it_says_what_is_missing(sluice: Sluice) -> None:
    result = sluice("rotate-keys")
    assert result.returncode == 1
    assert "SLUICE_ORIGIN is not set, and no stack runs here" in result.stderr


def test_a_sluice_elsewhere_that_does_not_answer_is_told(sluice: Sluice) -> None:
    result = sluice(
        "rotate-keys", SLUICE_ORIGIN="http://127.0.0.1:9", SLUICE_OPERATOR_KEY="slk_test_x"
    )
    assert result.returncode == 1
    assert "GET /api/v1/key-rotations answered ConnectError" in result.stderr
