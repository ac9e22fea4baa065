"""What is kept for a while only goes; what may still matter stays."""

from collections.abc import AsyncGenerator

import pytest
from prometheus_client import REGISTRY

from libs.contracts.billing import CreditGranted
from libs.db.pool import Database
from libs.ids import new_id
from libs.messaging import retention
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from tests.libs.messaging.test_exactly_once import ACME, Sums, credit


@pytest.fixture
async def ledger(database: TestDatabase) -> AsyncGenerator[Database, None]:
    async with database.open("ledger") as opened:
        yield opened


async def test_old_rows_go_and_young_or_unsent_ones_stay(
    database: TestDatabase, ledger: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH_ROWS", 3)
    async with database.admin() as admin:
        for days in [39] * 2 + [41] * 8:
            await admin.execute(
                "insert into ledger.inbox (consumer, event_id, received_at) "
                "values ('ledger', $1, now() - make_interval(days => $2))",
                new_id(),
                days,
            )
        for sent_days in [None] * 2 + [6] * 2 + [8] * 8:
            await admin.execute(
                "insert into ledger.outbox (tenant_id, mode, topic, event_id, event_type, payload, "
                "shard, created_at, sent_at) values ($1, 'test', 't', $2, 'e', '{}', 0, "
                "now() - interval '1 year', now() - make_interval(days => $3))",
                ACME,
                new_id(),
                sent_days,
            )
        for days in [6] * 2 + [8] * 8:
            await admin.execute(
                "insert into ledger.idempotency_key (tenant_id, mode, caller, key, request_hash, "
                "created_at) values ($1, 'test', 'c', $2, '', now() - make_interval(days => $3))",
                ACME,
                str(new_id()),
                days,
            )
        await retention.prune(ledger)
        left = {
            table: await admin.fetchval(f"select count(*) from ledger.{table}")
            for table in ("inbox", "outbox", "idempotency_key")
        }
    assert left == {"inbox": 2, "outbox": 4, "idempotency_key": 2}


async def test_one_run_is_bounded(
    database: TestDatabase, ledger: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH_ROWS", 2)
    monkeypatch.setattr(retention, "BATCHES_MAX", 2)
    async with database.admin() as admin:
        await admin.execute(
            "insert into ledger.inbox (consumer, event_id, received_at) "
            "select 'ledger', gen_random_uuid(), now() - interval '50 days' "
            "from generate_series(1, 9)"
        )
        await retention.prune(ledger)
        assert await admin.fetchval("select count(*) from ledger.inbox") == 5


async def test_records_that_wait_are_shown(ledger: Database, log: MemoryLog) -> None:
    sums = Sums()
    log.add(ledger, {CreditGranted: sums.on_credit})
    events = [credit(ACME) for _ in range(3)]
    sums.poisoned.add(events[0].id)
    for event in events:
        log.publish(event)
    await log.settle()
    await retention.measure(ledger)
    assert REGISTRY.get_sample_value("sluice_parked_records") == 3
