"""`sluice parked` and `sluice stopped` on the tables of a service."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from libs.clock import utc_now
from libs.db.pool import Database, Tx
from libs.deploy import services_with_schema
from libs.ids import new_id
from libs.messaging.parked import park_key, queue_behind
from libs.messaging.records import TYPE_HEADER, Record
from libs.messaging.stops import remember
from libs.testing.databases import TestDatabase

TOPIC = "billing.events"
WHY = ("--why", "billing sends it anew")

Sluice = Callable[..., Awaitable[Result]]


@pytest.fixture
def sluice(database: TestDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sluice:
    """Runs the command as an operator does where the services run elsewhere."""
    monkeypatch.setenv("SLUICE_LOCAL", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    for service in services_with_schema():
        monkeypatch.setenv(f"SLUICE_{service.upper()}_POSTGRES", database.dsn(service))

    async def run(*arguments: str, answer: str | None = None) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, arguments, input=answer)

    return run


@pytest.fixture
async def ledger(database: TestDatabase) -> Any:
    async with database.open("ledger") as opened:
        yield opened


async def park(ledger: Database, tenant: UUID) -> None:
    """Two records of a tenant wait."""
    first, second = (
        Record(
            TOPIC,
            3,
            offset,
            utc_now(),
            str(tenant).encode(),
            b"{}",
            ((TYPE_HEADER, b"CreditGranted"),),
        )
        for offset in (7, 8)
    )
    async with ledger.transaction() as tx:
        await tx.execute(
            "insert into fence (consumer, topic, partition, next_offset) values ('ledger', $1, 3, 9)",
            TOPIC,
        )
        await park_key(tx, "ledger", first, "AccountError", "no such account")
        await queue_behind(tx, "ledger", [second])


async def key_of(tx: Tx) -> Any:
    return await tx.fetchrow("select records, released_at is not null as released from parked_key")


async def acts(ledger: Database) -> list[tuple[str, str, str]]:
    """What the audit log is told."""
    async with ledger.maintenance() as tx:
        told = [json.loads(row["payload"]) for row in await tx.fetch("select payload from outbox")]
    return [(e["data"]["action"], e["data"]["actor"], e["data"]["after"]["why"]) for e in told]


async def test_a_key_is_listed_and_released(ledger: Database, sluice: Sluice) -> None:
    assert "None." in (await sluice("parked")).output
    tenant = new_id()
    await park(ledger, tenant)
    shown = await sluice("parked")
    assert shown.exit_code == 0
    for word in ("ledger", TOPIC, str(tenant), "AccountError", "no such account"):
        assert word in shown.output
    (row,) = json.loads((await sluice("parked", "--json")).stdout)
    assert (row["service"], row["records"], row["released_at"]) == ("ledger", 2, None)

    done = await sluice("parked", "release", "ledger", TOPIC, str(tenant), *WHY)
    assert done.exit_code == 0
    async with ledger.transaction() as tx:
        assert tuple(await key_of(tx)) == (2, True)
    assert await acts(ledger) == [("parked_key.released", "cli:ada", WHY[1])]


async def test_the_first_record_is_discarded_after_a_look_at_it(
    ledger: Database, sluice: Sluice
) -> None:
    tenant = new_id()
    await park(ledger, tenant)
    discard = ("parked", "discard", "ledger", TOPIC, str(tenant), *WHY)
    for looked in (await sluice(*discard, "--dry-run"), await sluice(*discard, answer="n\n")):
        assert "CreditGranted of " in looked.output
        assert f"{TOPIC}[3] 7, 2 bytes" in looked.output
        async with ledger.transaction() as tx:
            assert tuple(await key_of(tx)) == (2, False)
    assert await acts(ledger) == []

    done = await sluice(*discard, "--yes")
    assert done.exit_code == 0, done.output
    async with ledger.transaction() as tx:
        assert tuple(await key_of(tx)) == (1, True)
    async with ledger.maintenance() as tx:
        (letter,) = await tx.fetch("select record_offset, reason from dead_letter")
    assert tuple(letter) == (7, "discarded")
    assert await acts(ledger) == [("parked_record.discarded", "cli:ada", WHY[1])]


async def test_a_record_that_nobody_was_shown_is_not_discarded(
    ledger: Database, sluice: Sluice, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = new_id()
    await park(ledger, tenant)
    discard = ("parked", "discard", "ledger", TOPIC, str(tenant), *WHY)

    def somebody_else_is_faster(*_: object, **__: object) -> None:
        assert CliRunner().invoke(app, (*discard, "--yes")).exit_code == 0

    monkeypatch.setattr("typer.confirm", somebody_else_is_faster)
    refused = await sluice(*discard)
    assert refused.exit_code == 1
    assert f"Another one is first now ({TOPIC}[3] 8)" in refused.output
    async with ledger.maintenance() as tx:
        (letter,) = await tx.fetch("select record_offset from dead_letter")
        assert letter["record_offset"] == 7
        assert tuple(await key_of(tx)) == (1, True)


async def test_a_stop_is_listed_and_lifted(ledger: Database, sluice: Sluice) -> None:
    assert "None." in (await sluice("stopped")).output
    await remember(ledger, "ledger", "ValueError: no such account", "abc123")
    shown = await sluice("stopped")
    for word in ("ledger", "abc123", "ValueError: no such account"):
        assert word in shown.output
    assert (await sluice("stopped", "lift", "ledger", *WHY)).exit_code == 0
    assert json.loads((await sluice("stopped", "--json")).stdout) == []
    assert await acts(ledger) == [("consumer_stop.lifted", "cli:ada", WHY[1])]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("parked", "release", "ledger", TOPIC, "nobody", *WHY), "has parked no key"),
        (("parked", "discard", "ledger", TOPIC, "nobody", *WHY), "has parked no key"),
        (("parked", "release", "console", TOPIC, "nobody", *WHY), "No service 'console'"),
        (("stopped", "lift", "ledger", *WHY), "has not stopped itself"),
        (("stopped", "lift", "ledger", "--why", " "), "--why is one line"),
        (("stopped", "lift", "ledger", "--why", "a\nb"), "--why is one line"),
        (("stopped", "lift", "ledger", "--why", "a" * 501), "--why is one line"),
    ],
)
async def test_what_cannot_be_done_is_said(
    sluice: Sluice, arguments: tuple[str, ...], said: str
) -> None:
    refused = await sluice(*arguments)
    assert refused.exit_code == 1
    assert said in refused.output


async def test_a_database_that_the_shell_names_goes_before_the_stack_s(
    sluice: Sluice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody_there = "postgresql://ledger@127.0.0.1:1/sluice"
    (tmp_path / "env").write_text(f"SLUICE_LEDGER_POSTGRES={nobody_there}\n")
    assert "ledger has not stopped" in (await sluice("stopped", "lift", "ledger", *WHY)).output
    monkeypatch.delenv("SLUICE_LEDGER_POSTGRES")
    assert "does not answer" in (await sluice("stopped", "lift", "ledger", *WHY)).output


async def test_what_postgres_refuses_is_said(
    sluice: Sluice, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_LEDGER_POSTGRES", database.dsn("metering"))
    refused = await sluice("stopped", "lift", "ledger", *WHY)
    assert refused.exit_code == 1
    assert 'Postgres refuses it: relation "consumer_stop" does not exist' in refused.output
    assert "does not answer" not in refused.output


async def test_without_a_stack_it_says_how_to_have_one(
    sluice: Sluice, monkeypatch: pytest.MonkeyPatch
) -> None:
    for service in services_with_schema():
        monkeypatch.delenv(f"SLUICE_{service.upper()}_POSTGRES")
    refused = await sluice("parked")
    assert refused.exit_code == 1
    assert "`sluice up`" in refused.output
