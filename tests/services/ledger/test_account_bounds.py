"""Bounds of accounts: who waits for the answer is refused beyond them, facts are booked and told."""

import asyncio
from typing import Any

import httpx
import pytest

from ledger.callers import Api
from ledger.facts import Tenant, assert_sound, snapshot
from ledger.test_holds import CREDITS, WISH, grant, hold, standing
from ledger.test_rebooking import forget_everything, read_anew
from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.ledger_holds import AccountOverrun, BoundAccount
from libs.db.pool import Database
from libs.ids import new_id
from libs.observability.metrics import LEDGER_ACCOUNT_OVERRUNS_TOTAL
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.ledger import bounds

pytestmark = pytest.mark.usefixtures("hooli")

PATH = f"accounts/{CREDITS}/bounds"


async def put(api: Api, key: str, headers: Any = None, path: str = PATH, **changes: Any) -> Any:
    body = {"book": "tenant", "currency": "EUR", "min_minor": 0, "max_minor": None} | changes
    return await api.client.put(
        f"/api/v1/ledger/{path}", json=body, headers={"X-API-Key": key} | (headers or {})
    )


@pytest.fixture
async def hooli(api: Api, ledger: Database) -> Tenant:
    """A tenant with 50.00 EUR of credit that may not be overdrawn, nor come to more than 60.00."""
    await grant(ledger, api.poster_tenant, 5000)
    answer = await put(api, api.operator, {"X-Tenant-ID": "hooli"}, max_minor=6000)
    assert answer.status_code == 200, answer.text
    return api.poster_tenant


async def take(api: Api, amount_minor: int, key: str = "take", **changes: Any) -> httpx.Response:
    """Post that credit was used up, or paid in where the amount is negative."""
    sides = ("debit", "credit") if amount_minor > 0 else ("credit", "debit")
    lines = [
        {"account": account, "side": side, "amount_minor": abs(amount_minor), "currency": "EUR"}
        for account, side in zip((CREDITS, "revenue:usage"), sides, strict=True)
    ]
    body = {"book": "tenant", "source_key": key, "postings": lines} | changes
    return await api.post("entries", api.poster, body)


def credits_used(tenant: Tenant, amount_minor: int) -> Any:
    """An invoice that used credit up: a fact of billing."""
    return tenant.invoice(
        {"usage": amount_minor}, credits_minor=amount_minor, billed_by="tenant", invoice_id=new_id()
    )


async def test_posting_is_refused_beyond_the_minimum(api: Api, database: TestDatabase) -> None:
    refused = await take(api, 5001)
    assert refused.status_code == 409, refused.text
    told = refused.json()
    assert (told["code"], told["bound"], told["limit_minor"]) == ("account_overrun", "minimum", 0)
    assert (told["account"], told["available_minor"], told["asked_minor"]) == (CREDITS, 5000, 5001)
    assert (await take(api, 5000)).status_code == 201
    assert (await take(api, 1, "more")).status_code == 409
    assert await standing(api) == (0, 0, 0)
    await assert_sound(database)


async def test_posting_is_refused_beyond_the_maximum_and_what_is_held(
    api: Api, database: TestDatabase
) -> None:
    above = await take(api, -1001)
    assert (above.status_code, above.json()["bound"]) == (409, "maximum")
    assert (await hold(api, amount_minor=4000)).status_code == 201
    held = await take(api, 1001)
    assert (held.status_code, held.json()["available_minor"]) == (409, 1000)
    assert (await take(api, 1000)).status_code == 201
    assert (await take(api, -2000, "in")).status_code == 201
    assert await standing(api) == (6000, 4000, 2000)
    await assert_sound(database)


async def test_twenty_post_at_once_and_one_refusal_keeps_nobody_else_out(
    api: Api, database: TestDatabase
) -> None:
    answers = await asyncio.gather(*(take(api, 1000, f"take-{number}") for number in range(20)))
    assert sorted(answer.status_code for answer in answers) == [201] * 5 + [409] * 15
    assert await standing(api) == (0, 0, 0)
    await assert_sound(database)


async def test_a_credit_line_is_a_minimum_below_zero(api: Api) -> None:
    named = {"X-Tenant-ID": "hooli"}
    assert (await put(api, api.operator, named, min_minor=-2000)).status_code == 200
    assert (await hold(api, amount_minor=7001)).status_code == 409
    assert (await hold(api, amount_minor=7000)).status_code == 201
    assert await standing(api) == (5000, 7000, -2000)
    assert (await put(api, api.operator, named, min_minor=None)).status_code == 200
    assert (await take(api, 1)).status_code == 409, "what is held stays nobody else's"


async def test_a_reversal_is_refused_beyond_a_bound(api: Api) -> None:
    (entry,) = (await api.get("entries", api.poster)).json()["items"]
    assert (await take(api, 1)).status_code == 201
    path = f"entries/{entry['id']}/reverse"
    refused = await api.post(path, api.operator, {"reason": "x"}, {"X-Tenant-ID": "hooli"})
    assert (refused.status_code, refused.json()["code"]) == (409, "account_overrun")
    assert (await take(api, -1, "back")).status_code == 201
    taken = await api.post(path, api.operator, {"reason": "x"}, {"X-Tenant-ID": "hooli"})
    assert taken.status_code == 201, taken.text


async def test_a_fact_is_never_refused_and_its_overrun_is_told_once(
    api: Api, ledger: Database, hooli: Tenant, log: MemoryLog, database: TestDatabase
) -> None:
    await hold(api, amount_minor=4000)
    counted = LEDGER_ACCOUNT_OVERRUNS_TOTAL.labels(bound="minimum")._value.get()
    for amount_minor in (900, 200, 5000):
        log.publish(credits_used(hooli, amount_minor))
        await log.settle()
    assert await standing(api) == (-1100, 4000, -5100)
    for _ in range(2):
        await bounds.tell_overruns(ledger, utc_now())
    await log.settle()
    (told,) = log.events(AccountOverrun)
    assert (told.tenant_id, told.data.account, told.data.bound) == (hooli.id, CREDITS, "minimum")
    assert (told.data.balance_minor, told.data.held_minor) == (3900, 4000)
    assert LEDGER_ACCOUNT_OVERRUNS_TOTAL.labels(bound="minimum")._value.get() == counted + 1

    # Whoever brings it back is not refused, and from then on the next overrun is another one.
    assert (await take(api, -1, "a-little")).status_code == 201
    assert (await take(api, 1, "a-little-less")).status_code == 409
    assert (await take(api, -5200, "back")).status_code == 201
    log.publish(credits_used(hooli, 500))
    await log.settle()
    await bounds.tell_overruns(ledger, utc_now())
    await log.settle()
    assert [event.data.balance_minor for event in log.events(AccountOverrun)] == [3900, 3601]
    before = await snapshot(database)
    await log.replay(clear_inboxes=True)
    assert await snapshot(database) == before
    await assert_sound(database)


async def test_what_is_held_is_captured_whatever_facts_did(
    api: Api, hooli: Tenant, log: MemoryLog
) -> None:
    held = (await hold(api, amount_minor=4000)).json()["id"]
    log.publish(credits_used(hooli, 3000))
    await log.settle()
    body = {"key": "c", "to": "liability:unapplied_payments"}
    answer = await api.post(f"holds/{held}/capture", api.poster, body)
    assert answer.status_code == 201, answer.text
    assert await standing(api) == (-2000, 0, -2000)


async def test_who_bounds_which_account(api: Api, hooli: Tenant, log: MemoryLog) -> None:
    for key in (api.poster, api.acme, api.usage_only):
        refused = await put(api, key)
        assert (refused.status_code, refused.json()["permission"]) == (403, "billing:manage")
    refused = await put(api, api.globex, book="platform")
    assert (refused.status_code, refused.json()["permission"]) == (403, "operator")
    assert (await put(api, api.globex, min_minor=-5)).status_code == 200
    named = {"X-Tenant-ID": "hooli"}
    for account, status in (
        ("asset:receivable", 422),
        ("asset:stripe_clearing:platform", 404),
        ("liability:suspense", 422),
        ("revenue:usage", 422),
        ("liability:nothing", 404),
        ("x", 404),
    ):
        path = f"accounts/{account}/bounds"
        assert (await put(api, api.operator, named, path)).status_code == status, account
    for changes in (
        {"min_minor": 2, "max_minor": 1},
        {"min_minor": 10**19},
        {"min_minor": "0"},
        {"currency": "EURO"},
        {"book": "both"},
        {"held_minor": 0},
    ):
        assert (await put(api, api.operator, named, **changes)).status_code == 422, changes
    for _ in "ab":
        assert (await put(api, api.operator, named, min_minor=-1)).status_code == 200
    await log.settle()
    told = [event.data for event in log.events(BoundAccount) if event.tenant_id == hooli.id]
    assert [(each.min_minor, each.max_minor, each.version) for each in told] == [
        (0, 6000, 1),
        (-1, None, 2),
    ]
    changes_told = [
        event.data
        for event in log.events(ConfigurationChanged)
        if event.data.action == "ledger_account.bounded" and event.tenant_id == hooli.id
    ]
    assert changes_told[1].before == {"min_minor": 0, "max_minor": 6000}
    assert changes_told[1].object_id == f"tenant {CREDITS} EUR"
    shown = (await api.get(f"accounts/{CREDITS}/balance", api.poster)).json()["balances"]
    assert [(each["min_minor"], each["max_minor"]) for each in shown] == [(-1, None)]


async def test_books_made_anew_have_the_bounds(
    api: Api, ledger: Database, log: MemoryLog, database: TestDatabase
) -> None:
    await put(api, api.operator, {"X-Tenant-ID": "hooli"}, min_minor=-7)
    assert (await api.post("holds", api.poster, WISH)).status_code == 201
    await log.settle()
    before = (await snapshot(database))["account_guard"]
    topics = sorted({name for each in log.consumers(ledger) for name in each.topics})
    await forget_everything(database)
    await read_anew(log, ledger, topics)
    assert (await snapshot(database))["account_guard"] == before
