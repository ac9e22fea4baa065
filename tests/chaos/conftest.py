"""What is killed again and again takes longer to come back than what only starts."""

import pytest

PATIENCE_SECONDS = 180.0


@pytest.fixture(autouse=True)
def _patient_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers ask again for longer than a person would wait."""
    monkeypatch.setattr("cli.api.SETTLE_SECONDS", PATIENCE_SECONDS)
