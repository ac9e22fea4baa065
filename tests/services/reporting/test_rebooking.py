"""A ledger that was restored tells facts again, as other entries: revenue stays what it is."""

from datetime import timedelta

import asyncpg
import pytest

from libs.contracts.ledger import JournalEntryPosted
from libs.db import migrate
from libs.db.migrate import ensure_service_role, password_of, service_migrations
from libs.db.pool import TRANSIENT_ERRORS, Database
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from tests.services.ledger.facts import Tenant

BEFORE = "reporting/0001_create_read_models.sql"
INSERT_OF_BEFORE = """
insert into reporting.revenue_line (tenant_id, mode, book, entry_id, account, currency,
    amount_minor, month)
values ($1, 'test', 'platform', $2, 'revenue:flat', 'EUR', 4900, '2026-01-01')
"""


async def revenue(database: TestDatabase) -> list[tuple[str, int]]:
    """Revenue by account, as the months say."""
    async with database.admin() as admin:
        rows = await admin.fetch(
            "select account, sum(amount_minor)::bigint from reporting.revenue_month "
            "group by account order by account"
        )
    return [(row[0], row[1]) for row in rows]


@pytest.mark.usefixtures("reporting")
async def test_a_fact_that_is_booked_again_counts_once(
    log: MemoryLog, database: TestDatabase
) -> None:
    acme = Tenant()
    log.publish(acme.invoice({"flat": 4900, "usage": 1350}))
    await log.settle()
    expected = [("revenue:flat", 4900), ("revenue:usage", 1350)]
    assert await revenue(database) == expected
    (told,) = log.events(JournalEntryPosted)
    again = told.data.model_copy(update={"entry_id": new_id()})
    log.publish(acme.event(again))
    await log.settle()
    assert await revenue(database) == expected
    log.publish(acme.event(again.model_copy(update={"source_key": "another"})))
    await log.settle()
    assert await revenue(database) == [("revenue:flat", 9800), ("revenue:usage", 2700)]


@pytest.mark.usefixtures("reporting")
async def test_a_fact_counts_once_however_often_it_is_told_at_once(
    log: MemoryLog, database: TestDatabase
) -> None:
    """Of one batch, in which two tenants earn in two months."""
    acme, globex = Tenant(), Tenant()
    for tenant in (acme, globex):
        log.publish(tenant.invoice({"flat": 4900}))
    await log.settle()
    for told in list(log.events(JournalEntryPosted)):
        twice = told.data.model_copy(update={"source_key": "another"})
        later = told.effective_at + timedelta(days=31)
        for update in ({}, {"data": twice}, {"data": twice, "effective_at": later}):
            log.publish(told.model_copy(update={"id": new_id(), **update}))
    await log.settle()
    assert await revenue(database) == [("revenue:flat", 2 * 9800)]
    async with database.admin() as admin:
        rows = await admin.fetch("select tenant_id, month from reporting.revenue_month")
    assert {row["tenant_id"] for row in rows} == {acme.id, globex.id}
    assert len(rows) == 2, "who tells it first says in which month it was earned"


async def test_what_was_counted_before_is_counted_anew(
    reporting: Database, log: MemoryLog, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upgrade puts right what a restore had doubled; who runs the version before waits."""
    acme = Tenant()
    log.publish(acme.invoice({"flat": 4900}))
    await log.settle()
    (told,) = log.events(JournalEntryPosted)
    known = [
        each
        for each in service_migrations("reporting")
        if each.name.startswith("core/") or each.name == BEFORE
    ]
    async with database.admin() as admin:
        await admin.execute(
            "create table public.kept as select * from reporting.fence;"
            "create table public.seen as select * from reporting.inbox;"
            "drop schema reporting cascade"
        )
        await ensure_service_role(admin, "reporting", password_of(database.dsn("reporting")))
        monkeypatch.setattr(migrate, "service_migrations", lambda _: known)
        await migrate.migrate(admin, "reporting")
        monkeypatch.setattr(migrate, "service_migrations", service_migrations)
        await admin.execute(
            "insert into reporting.fence select * from public.kept;"
            "insert into reporting.inbox select * from public.seen"
        )
        for entry_id in (told.data.entry_id, new_id()):
            await admin.execute(INSERT_OF_BEFORE, acme.id, entry_id)
        await admin.execute(
            "insert into reporting.revenue_month (tenant_id, mode, book, month, currency, account, "
            "amount_minor) values ($1, 'test', 'platform', '2026-01-01', 'EUR', 'revenue:flat', 9800)",
            acme.id,
        )
        await migrate.migrate(admin, "reporting")
        with pytest.raises(asyncpg.LockNotAvailableError) as refused:
            await admin.execute(INSERT_OF_BEFORE, acme.id, new_id())
    assert isinstance(refused.value, TRANSIENT_ERRORS)
    for consumer in log.consumers(reporting):
        consumer.places.positions.clear()
    await log.settle()
    assert await revenue(database) == [("revenue:flat", 4900)]
