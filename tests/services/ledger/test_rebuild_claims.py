"""A run that was taken over is the other worker's: what the first one says of it comes too late."""

from datetime import timedelta

from ledger.facts import START, Tenant
from libs.db.pool import Database
from libs.ids import new_id
from services.ledger import store_rebuilds as store


async def test_a_worker_that_was_given_up_changes_nothing(ledger: Database) -> None:
    acme, run_id = Tenant(), new_id()
    async with ledger.tenant(acme.id, "test") as tx:
        await store.add_run(tx, run_id, START)
    first = await store.claim(ledger, START, START - timedelta(hours=1))
    assert first is not None
    await store.note(ledger, first, 1, 9, START)
    later = START + timedelta(hours=2)
    second = await store.claim(ledger, later, later - timedelta(hours=1))
    assert second is not None
    assert (second.id, second.attempts) == (run_id, 2)

    async def row() -> dict[str, object]:
        async with ledger.tenant(acme.id, "test") as tx:
            return dict(await store.find_run(tx, run_id) or {})

    before = await row()
    await store.note(ledger, first, 5, 9, later)
    await store.end(ledger, first, "failed", later, error="left behind")
    assert await row() == before
    assert before["state"] == "running"
    await store.note(ledger, second, 9, 9, later)
    await store.end(ledger, second, "equal", later, found={"faults": []})
    ended = await row()
    assert (ended["state"], ended["records_read"]) == ("equal", 9)
    await store.end(ledger, second, "failed", later, error="once more")
    assert await row() == ended
