"""Taking entries back: once, with a link, by the platform's staff alone, and in the audit log."""

import asyncio
from typing import Any

import pytest

from ledger.callers import Api
from ledger.facts import assert_sound, net_balances, snapshot
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.ledger import JournalEntryPosted
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.ids import new_id, public_id
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog

ACME = {"X-Tenant-ID": "acme"}
WHY = {"reason": "booked twice by hand"}


async def invoice_entry(api: Api) -> dict[str, Any]:
    """Acme's invoice: 4,900 from receivable to revenue."""
    items = (await api.get("entries", api.operator, ACME, account="revenue:flat")).json()["items"]
    entry: dict[str, Any] = items[0]
    return entry


async def tables(database: TestDatabase) -> dict[str, list[str]]:
    """Every row but what is told of refusals and of staff that looks at tenants."""
    rows = await snapshot(database)
    del rows["outbox"]
    return rows


async def test_an_entry_is_taken_back(api: Api, log: MemoryLog, database: TestDatabase) -> None:
    entry = await invoice_entry(api)
    before = await net_balances(database, api.acme_tenant)
    body = WHY | {"effective_at": "2026-01-16T10:30:00Z"}
    answer = await api.post(f"entries/{entry['id']}/reverse", api.operator, body, ACME)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["reverses"] == entry["id"]
    assert made["rule"] == "reversal"
    assert made["effective_at"] == "2026-01-16T10:30:00Z"
    other = {"debit": "credit", "credit": "debit"}
    assert [(p["account"], p["side"], p["amount_minor"]) for p in made["postings"]] == [
        (p["account"], other[p["side"]], p["amount_minor"]) for p in entry["postings"]
    ]
    after = await net_balances(database, api.acme_tenant)
    assert after.get("asset:receivable EUR", 0) == before.get("asset:receivable EUR", 0) - 4900
    assert "revenue:flat EUR" not in after
    await log.settle()
    (told,) = [e for e in log.events(JournalEntryPosted) if e.data.reverses]
    (change,) = log.events(ConfigurationChanged)
    assert change.tenant_id == PLATFORM_TENANT_ID
    assert change.data.action == "ledger_entry.reversed"
    assert change.data.object_id == f"{api.acme_tenant.id} {entry['id']}"
    assert change.data.after == {
        "reversal": made["id"],
        "source_key": entry["source_key"],
        "reason": WHY["reason"],
    }
    assert told.causation_id == change.id
    assert made["causation_id"] == str(change.id)
    await assert_sound(database)


async def test_only_once_also_at_the_same_time(api: Api, database: TestDatabase) -> None:
    entry = await invoice_entry(api)
    path = f"entries/{entry['id']}/reverse"
    answers = await asyncio.gather(*(api.post(path, api.operator, WHY, ACME) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.json()["code"] == "entry_reversed"
    before = await tables(database)
    assert (await api.post(path, api.operator, WHY, ACME)).status_code == 409
    assert await tables(database) == before
    await assert_sound(database)


async def test_a_reversal_is_reversed_and_a_key_answers_again(
    api: Api, database: TestDatabase
) -> None:
    before = await net_balances(database, api.acme_tenant)
    entry = await invoice_entry(api)
    keyed = ACME | {"Idempotency-Key": "once"}
    path = f"entries/{entry['id']}/reverse"
    first = await api.post(path, api.operator, WHY, keyed)
    again = await api.post(path, api.operator, WHY, keyed)
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    back = await api.post(f"entries/{first.json()['id']}/reverse", api.operator, WHY, ACME)
    assert back.status_code == 201
    assert await net_balances(database, api.acme_tenant) == before
    await assert_sound(database)


async def test_who_may_not_and_what_is_not_there(api: Api, database: TestDatabase) -> None:
    entry = await invoice_entry(api)
    before = await tables(database)
    path = f"entries/{entry['id']}/reverse"
    for key in (api.acme, api.globex, api.usage_only):
        refused = await api.post(path, key, WHY)
        assert (refused.status_code, refused.json()["permission"]) == (403, "operator")
    for name in (entry["id"], public_id("entry", new_id()), "ent_x", str(new_id())):
        answer = await api.post(
            f"entries/{name}/reverse", api.operator, WHY, {"X-Tenant-ID": "globex"}
        )
        assert answer.status_code == 404
    assert await tables(database) == before


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reason": ""},
        {"reason": "x" * 501},
        {"reason": "a\x00b"},
        {"reason": "x", "effective_at": "2026-01-01T00:00:00"},
        {"reason": "x", "amount_minor": 1},
    ],
)
async def test_bad_reversals(api: Api, body: dict[str, Any]) -> None:
    entry = await invoice_entry(api)
    answer = await api.post(f"entries/{entry['id']}/reverse", api.operator, body, ACME)
    assert answer.status_code == 422, answer.text
