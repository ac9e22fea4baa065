"""Accounts that a book opens for itself: typed, for ever, by name and never by a posting."""

import asyncio
from typing import Any

import pytest

from ledger.callers import Api
from ledger.facts import assert_sound, net_balances, snapshot
from ledger.test_posting_api import in_book, line
from ledger.test_rebooking import contents, forget_everything, read_anew
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.ledger import OpenAccount
from libs.db.pool import Database
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.ledger import own_accounts

SHIPPING = {
    "book": "tenant",
    "type": "revenue",
    "name": "shipping",
    "purpose": "Shipping charged to customers.",
}


def shipped(key: str, amount_minor: int, account: str = "revenue:own:shipping") -> dict[str, Any]:
    postings = [
        line("asset:receivable", "debit", amount_minor),
        line(account, "credit", amount_minor),
    ]
    return in_book({"source_key": key, "postings": postings})


async def test_an_account_is_opened_and_posted_on(api: Api, log: MemoryLog) -> None:
    answer = await api.post("accounts", api.poster, SHIPPING)
    assert answer.status_code == 201, answer.text
    account = answer.json()
    assert (account["account"], account["normal_side"]) == ("revenue:own:shipping", "credit")
    again = await api.post("accounts", api.poster, SHIPPING | {"normal_side": "credit"})
    assert (again.status_code, again.json()) == (201, account)
    assert again.headers["idempotent-replayed"] == "true"
    contra = await api.post("accounts", api.poster, SHIPPING | {"normal_side": "debit"})
    assert contra.json()["account"] == "revenue:own_contra:shipping"
    assert (await api.post("entries", api.poster, shipped("s1", 490))).status_code == 201
    balance = await api.get("accounts/revenue:own:shipping/balance", api.poster)
    assert balance.json()["balances"][0]["balance_minor"] == 490
    chart = (await api.get("chart", api.poster)).json()["items"]
    assert account in chart
    assert "asset:receivable" in {each["account"] for each in chart}
    # Another tenant, and the other book, have nothing of it.
    operator = await api.get("chart", api.operator, {"X-Tenant-ID": "hooli"})
    assert account not in operator.json()["items"]
    assert account not in (await api.get("chart", api.globex)).json()["items"]
    await log.settle()
    assert [told.data.account for told in log.events(OpenAccount)] == [
        "revenue:own:shipping",
        "revenue:own_contra:shipping",
    ]
    changes = log.events(ConfigurationChanged)
    assert [(c.data.action, c.data.object_id) for c in changes] == [
        ("ledger_account.opened", "revenue:own:shipping"),
        ("ledger_account.opened", "revenue:own_contra:shipping"),
    ]


async def test_an_account_never_changes(
    api: Api, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_accounts, "OPEN_MAX", 3)
    answers = await asyncio.gather(
        *(api.post("accounts", api.poster, SHIPPING | {"name": f"n{at}"}) for at in range(5)),
        *(api.post("accounts", api.poster, SHIPPING | {"name": "n0"}) for _ in range(3)),
    )
    opened = {answer.json().get("account") for answer in answers if answer.status_code == 201}
    assert len(opened) == 3
    refused = {answer.json()["code"] for answer in answers if answer.status_code == 409}
    assert refused == {"too_many_accounts"}
    name = next(iter(opened)).rpartition(":")[2]
    other = await api.post("accounts", api.poster, SHIPPING | {"name": name, "purpose": "Other."})
    assert (other.status_code, other.json()["code"]) == (409, "account_exists")
    async with database.admin() as admin:
        assert await admin.fetchval("select count(*) from ledger.own_account") == 3


BAD_ACCOUNTS: tuple[tuple[dict[str, str], str], ...] = (
    ({"name": ""}, "name"),
    ({"name": "Shipping"}, "name"),
    ({"name": "a:b:c:d:e"}, "name"),
    ({"name": "a::b"}, "name"),
    ({"name": "x" * 41}, "name"),
    ({"name": "a\x00"}, "name"),
    ({"type": "income"}, "type"),
    ({"normal_side": "left"}, "normal_side"),
    ({"purpose": ""}, "purpose"),
    ({"purpose": "a\x00b"}, "purpose"),
    ({"book": "both"}, "book"),
    ({"code": "asset:x"}, "code"),
)


async def test_bad_accounts(api: Api) -> None:
    for change, field in BAD_ACCOUNTS:
        answer = await api.post("accounts", api.poster, SHIPPING | change)
        assert answer.status_code == 422, (change, answer.text)
        assert answer.json()["fields"][0]["field"] == f"body.{field}", change


async def test_books_made_anew_hold_accounts_entries_and_reversals(
    api: Api, ledger: Database, log: MemoryLog, database: TestDatabase
) -> None:
    await api.post("accounts", api.poster, SHIPPING)
    await api.post("accounts", api.poster, SHIPPING | {"normal_side": "debit"})
    for at in range(3):
        body = shipped(f"s{at}", 490 + at) | {"metadata": {"at": str(at)}}
        made = await api.post("entries", api.poster, body)
        assert made.status_code == 201, made.text
    await api.post("entries", api.poster, shipped("c", 90, "revenue:own_contra:shipping"))
    back = await api.post(
        f"entries/{made.json()['id']}/reverse",
        api.operator,
        {"reason": "sent back"},
        {"X-Tenant-ID": "hooli"},
    )
    assert back.status_code == 201, back.text
    await log.settle()
    balances, entries = await net_balances(database), await contents(database)
    assert balances["revenue:own:shipping EUR"] == -981
    kept = await snapshot(database)
    topics = sorted({name for each in log.consumers(ledger) for name in each.topics})
    for order in (topics, topics[::-1]):
        await forget_everything(database)
        await read_anew(log, ledger, order)
        assert (await net_balances(database), await contents(database)) == (balances, entries)
        after = await snapshot(database)
        assert {name: after[name] for name in ("asked_entry", "own_account")} == {
            name: kept[name] for name in ("asked_entry", "own_account")
        }
        await assert_sound(database)
