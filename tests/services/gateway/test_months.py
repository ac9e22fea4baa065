"""The archive month by month: what was there moved, what is old goes, and no month is open to read."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from libs.clock import utc_now
from libs.db import migrate
from libs.db.tenant import Scope
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from services.gateway import months
from tests.services.gateway.conftest import ACME, ACME_CUSTOMER, GLOBEX, Gateway, about

PARTS = """
select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
where i.inhparent = 'gateway.webhook_event'::regclass order by 1
"""


async def parts(database: TestDatabase) -> list[str]:
    """The names of the archive's partitions."""
    async with database.admin() as admin:
        return [row["relname"] for row in await admin.fetch(PARTS)]


def part_of(at: datetime) -> str:
    """What the partition of a month is called."""
    return f"webhook_event_{at:%Y_%m}"


async def put_back(gateway: Gateway, days: int) -> Any:
    """Send an event of acme, as if it had come so many days ago; its id."""
    await gateway.send(about(id=f"in_{days}", customer=ACME_CUSTOMER))
    *_, row = await gateway.archived()
    async with gateway.database.maintenance() as tx:
        # Maintenance may write what the service may not: the row goes to another partition.
        await tx.execute(
            "update webhook_event set received_at = received_at - make_interval(days => $2) "
            "where id = $1",
            row["id"],
            days,
        )
    return row["id"]


async def test_the_next_months_are_made_ahead_and_once(
    gateway: Gateway, database: TestDatabase
) -> None:
    now = utc_now()
    later = datetime(now.year + 2, 12, 5, tzinfo=UTC)
    for _ in range(2):
        await months.make_ahead(gateway.database, later)
    made = await parts(database)
    ahead = [later, later + timedelta(days=31), later + timedelta(days=62)]
    assert {part_of(each) for each in (now, *ahead)} <= set(made)
    assert "webhook_event_rest" in made


async def test_what_came_when_no_month_was_made_is_kept_all_the_same(
    gateway: Gateway, database: TestDatabase
) -> None:
    stray = await put_back(gateway, 2000)
    old = utc_now() - timedelta(days=2000)
    # The month of the stray cannot be made any more; the one after it can.
    async with gateway.database.maintenance() as tx:
        made = await tx.fetchval("select make_archive_months($1, 2)", old)
    assert made == 1
    assert part_of(old) not in await parts(database)
    assert await gateway.count("webhook_event") == 1
    found = await gateway.get(f"/api/v1/webhook-events/whe_{stray}", "acme")
    assert found.json()["object_id"] == "in_2000"


async def test_only_what_is_too_old_goes_and_its_id_stays_taken(
    gateway: Gateway, database: TestDatabase
) -> None:
    now = utc_now()
    await months.make_ahead(gateway.database, now - timedelta(days=400))
    ancient, old = await put_back(gateway, 400), await put_back(gateway, 200)
    stray, fresh = await put_back(gateway, 900), await put_back(gateway, 0)
    *_, sent = [row for row in await gateway.archived() if row["id"] == ancient]
    await months.drop_old(gateway.database, now, 0)
    assert await gateway.count("webhook_event") == 4
    await months.drop_old(gateway.database, now, 12)
    left = {row["id"] for row in await gateway.archived()}
    assert left == {old, fresh}
    assert stray not in left
    assert part_of(now - timedelta(days=400)) not in await parts(database)
    assert part_of(now) in await parts(database)
    again = bytes(sent["payload"])
    assert (await gateway.send(again)).json() == {"status": "duplicate"}
    await months.drop_old(gateway.database, now, 12)
    assert await gateway.count("webhook_event") == 2


@pytest.mark.parametrize(
    ("now", "back", "begins"),
    [
        (datetime(2026, 11, 21, 10, tzinfo=UTC), 0, datetime(2026, 11, 1, tzinfo=UTC)),
        (datetime(2026, 1, 1, tzinfo=UTC), 1, datetime(2025, 12, 1, tzinfo=UTC)),
        (datetime(2026, 3, 31, tzinfo=UTC), 25, datetime(2024, 2, 1, tzinfo=UTC)),
    ],
)
def test_the_begin_of_a_month(now: datetime, back: int, begins: datetime) -> None:
    assert months.begin_of_month(now, back) == begins


async def test_a_partition_cannot_be_read_or_written_directly(
    gateway: Gateway, database: TestDatabase
) -> None:
    await gateway.send(about(customer=ACME_CUSTOMER))
    names = await parts(database)
    assert len(names) > 3
    for name in names:
        for sql in (
            f"select from {name}",
            f"delete from {name}",
            f"insert into {name} default values",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with gateway.database.tenant(ACME, "test") as tx:
                    await tx.execute(sql)
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with gateway.database.maintenance() as tx:
                    await tx.execute(sql)
    async with gateway.database.transaction(Scope((GLOBEX,), "test")) as tx:
        assert await tx.fetchval("select count(*) from webhook_event") == 0


async def test_the_service_itself_makes_and_drops_nothing(gateway: Gateway) -> None:
    for sql in ("select make_archive_months(now(), 1)", "select drop_archive_months(now())"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with gateway.database.tenant(ACME, "test") as tx:
                await tx.execute(sql)
    with pytest.raises(asyncpg.RaiseError, match="running month"):
        async with gateway.database.maintenance() as tx:
            await tx.execute("select drop_archive_months(now())")


BEFORE_ROW = """
insert into webhook_event (tenant_id, mode, id, account, stripe_event_id, event_type,
    event_created_at, assignment, quarantine_reason, payload, payload_bytes, headers, received_at)
values ($1, 'test', $2, 'platform', $3, 'invoice.paid', now(), $4, $5, '\\x7b7d', 2, '{}', $6)
"""


async def test_an_archive_that_was_one_table_moves_whole(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an archive as it was before it had months, with events of several years,
    every = migrate.service_migrations("gateway")
    before = [each for each in every if each.name < "gateway/0005" or each.name[:4] == "core"]
    now = utc_now()
    ages = (0, 1, 40, 300, 700, 9000)
    async with database.admin() as admin:
        await admin.execute("drop schema gateway cascade")
        await migrate.ensure_service_role(admin, "gateway", "test-only")
        monkeypatch.setattr(migrate, "service_migrations", lambda _: before)
        await migrate.migrate(admin, "gateway")
        for days in ages:
            reason = "unknown_account" if days == 1 else None
            assignment = "unassigned" if days == 1 else "customer"
            received_at = now - timedelta(days=days)
            event = (ACME, new_id(), f"evt_{days}", assignment, reason, received_at)
            await admin.execute("set search_path = gateway;")
            await admin.execute(BEFORE_ROW, *event)
        columns = "tenant_id, mode, id, stripe_event_id, quarantine_reason, payload, received_at"
        read = f"select {columns} from gateway.webhook_event order by received_at"
        were = await admin.fetch(read)
        # when the migration runs,
        monkeypatch.setattr(migrate, "service_migrations", lambda _: every)
        await migrate.migrate(admin, "gateway")
        # then each is there as it was, in the partition of its month, and the old table is gone.
        assert await admin.fetch(read) == were
        places = await admin.fetch(
            "select received_at, tableoid::regclass::text as part from gateway.webhook_event"
        )
        assert await admin.fetchval("select to_regclass('gateway.webhook_event_whole')") is None
    for row in places:
        known = row["received_at"] > now - timedelta(days=3600)
        expected = part_of(row["received_at"]) if known else "webhook_event_rest"
        assert row["part"].rpartition(".")[2] == expected
    async with database.open("gateway") as opened, opened.tenant(ACME, "test") as tx:
        assert await tx.fetchval("select count(*) from webhook_event") == len(ages)
