"""The service's pool: room for both lanes."""

import base64
from typing import Any

import pytest
from fastapi import FastAPI

from ledger.callers import PEPPER
from libs.db.pool import open_database
from services.ledger import app


class OpenedError(Exception):
    """The pool was asked for, which is all that is looked at here."""


async def test_each_lane_has_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def opens(_dsn: str, _service: str, *, max_connections: int) -> None:
        asked.append(max_connections)
        raise OpenedError

    for name, value in {
        "SLUICE_LEDGER_PORT": "8106",
        "SLUICE_LEDGER_POSTGRES": "postgresql://nobody@127.0.0.1:1/none",
        "SLUICE_KAFKA": "127.0.0.1:1",
        "SLUICE_KEY_PEPPER": base64.b64encode(PEPPER).decode(),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(app, "open_database", opens)
    built: FastAPI = app.build()
    with pytest.raises(OpenedError):
        async with built.router.lifespan_context(built):
            pass
    of_one_lane: Any = (open_database.__kwdefaults__ or {})["max_connections"]
    assert asked == [of_one_lane + 2 * (app.LANES - 1)]
