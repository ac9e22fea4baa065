"""Applying migrations: each statement has a limit, which a file may set for itself."""

from pathlib import Path

import pytest

from libs.db import migrate
from libs.db.migrate import MigrationError, read_migrations
from libs.testing.databases import TestDatabase

SLOW = "select pg_sleep(0.5);"


async def test_a_file_may_take_its_own_time(
    database: TestDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "STATEMENT_TIMEOUT", "100ms")
    monkeypatch.setattr(
        migrate, "service_migrations", lambda service: read_migrations(tmp_path, service)
    )
    for name, head in (("0001_take_time", "set local statement_timeout = 0;"), ("0002_hurry", "")):
        (tmp_path / f"{name}.sql").write_text(f"-- migrate:up\n\n{head}\n{SLOW}\n")
    async with database.admin() as admin:
        with pytest.raises(MigrationError, match=r"0002_hurry.*statement timeout"):
            await migrate.migrate(admin, "ledger")
        applied = await admin.fetch(
            "select name from ledger.schema_migration where name like '%hurry' or name like '%time%'"
        )
    assert [row["name"] for row in applied] == ["ledger/0001_take_time.sql"]
