"""What stood on an account at a time, by both axes, and its statement page by page."""

import random
from datetime import datetime, timedelta
from typing import Any

import pytest

from ledger.callers import Api
from ledger.facts import START, book, transfer
from libs.db.pool import Database
from libs.ids import new_id
from libs.testing.memory_log import MemoryLog
from services.ledger import accounts
from services.ledger.books import Reader

HOUR = timedelta(hours=1)
TEN_SECONDS = timedelta(seconds=10)
AT_A_TIME = dict.fromkeys(("held_minor", "available_minor", "min_minor", "max_minor"))


def free(currency: str, balance_minor: int) -> dict[str, str | int | None]:
    """A balance of which nothing is held, and that nothing bounds."""
    available = {"balance_minor": balance_minor, "available_minor": balance_minor}
    return AT_A_TIME | available | {"currency": currency, "held_minor": 0}


async def test_balances_at_any_time_are_the_sum_of_what_was_before(ledger: Database) -> None:
    """Facts of every age come in any order; each time and axis is compared with a plain sum."""
    chance = random.Random(3)
    acme = new_id()
    told: list[tuple[int, datetime, datetime]] = []
    for start in range(0, 2600, 650):
        async with ledger.tenant(acme, "test", books=("platform",)) as tx:
            for number in range(start, start + 650, 130):
                # Mostly in order, some of it long late.
                late = HOUR * chance.choice([0, 0, 0, 500])
                recorded = START + TEN_SECONDS * number
                held = recorded - late
                amounts = [chance.randrange(1, 10**6) for _ in range(130)]
                made = [transfer(each, f"{number}:{at}") for at, each in enumerate(amounts)]
                await book(tx, *made, effective_at=held, booked_at=recorded)
                told += [(each, held, recorded) for each in amounts]
    reader = Reader(ledger, acme, "test", "platform")
    times = [held for _, held, _ in told[::130]] + [START - HOUR * 1000, START + HOUR * 9999]
    for at in {time + shift for time in times for shift in (timedelta(), -timedelta.resolution)}:
        for axis, place in (("effective", 1), ("booked", 2)):
            expected = sum(each[0] for each in told if each[place] <= at)
            _, rows = await accounts.balances(reader, "asset:bank", None, at, axis)  # type: ignore[arg-type]
            assert [row["net_minor"] for row in rows] == [expected]
    _, rows = await accounts.balances(reader, "asset:bank", "EUR", None, "effective")
    assert [row["net_minor"] for row in rows] == [sum(each[0] for each in told)]


async def test_a_balance_by_the_api(api: Api) -> None:
    acme = {"X-Tenant-ID": "acme"}
    path = "accounts/asset:receivable/balance"
    body = (await api.get(path, api.operator, acme, at="2026-01-16T23:00:00Z")).json()
    assert body == {
        "account": "asset:receivable",
        "type": "asset",
        "normal_side": "debit",
        "book": "platform",
        "axis": "effective",
        "at": "2026-01-16T23:00:00Z",
        "balances": [AT_A_TIME | {"currency": "EUR", "balance_minor": 4900}],
    }
    now = (await api.get(path, api.operator, acme)).json()
    assert (now["at"], now["balances"]) == (None, [free("EUR", 0)])
    booked = await api.get(path, api.operator, acme, at="2026-01-16T23:00:00Z", axis="booked")
    assert booked.json()["balances"] == [AT_A_TIME | {"currency": "EUR", "balance_minor": 0}]
    own = await api.get("accounts/liability:unapplied_payments/balance", api.acme)
    assert own.json()["balances"] == [free("EUR", 1000)]


async def test_a_statement_page_by_page(api: Api) -> None:
    acme = {"X-Tenant-ID": "acme"}
    path = "accounts/asset:stripe_clearing:platform/statement"
    first = (await api.get(path, api.operator, acme, currency="EUR", limit=1)).json()
    rest = await api.get(
        path, api.operator, acme, currency="EUR", limit=1, cursor=first["next_cursor"]
    )
    (fee,), (paid,) = first["items"], rest.json()["items"]
    assert rest.json()["next_cursor"] is None
    assert [(each["side"], each["amount_minor"]) for each in (fee, paid)] == [
        ("credit", 172),
        ("debit", 4900),
    ]
    assert [each["balance_after_minor"] for each in (fee, paid)] == [4728, 4900]
    assert [each["account_seq"] for each in (fee, paid)] == [2, 1]
    assert paid["source_key"].startswith("payment:platform:")
    assert paid["effective_at"] == "2026-01-17T10:30:00Z"
    entry = (await api.get("entries", api.operator, acme, source_key=paid["source_key"])).json()[
        "items"
    ][0]
    assert entry["id"] == paid["entry_id"]
    credit = await api.get("accounts/revenue:flat/statement", api.operator, acme)
    assert credit.json()["items"][0]["balance_after_minor"] == 4900


async def test_of_several_currencies_one_is_named(api: Api, log: MemoryLog) -> None:
    log.publish(api.acme_tenant.invoice({"flat": 7}, currency="USD"))
    log.publish(api.acme_tenant.created())
    await log.settle()
    acme = {"X-Tenant-ID": "acme"}
    path = "accounts/revenue:flat/statement"
    assert (await api.get(path, api.operator, acme)).status_code == 422
    items = (await api.get(path, api.operator, acme, currency="USD")).json()["items"]
    assert [each["amount_minor"] for each in items] == [7]
    unused = await api.get("accounts/asset:bank/statement", api.operator, acme)
    assert unused.json()["items"] == []
    balance = await api.get("accounts/revenue:flat/balance", api.operator, acme)
    assert balance.json()["balances"] == [free("EUR", 4900), free("USD", 7)]


@pytest.mark.parametrize(
    ("path", "params", "status"),
    [
        ("accounts/asset:nothing/balance", {}, 404),
        ("accounts/asset:nothing/statement", {"currency": "EUR"}, 404),
        ("accounts/asset:bank/statement", {}, 404),
        ("accounts/revenue:flat/statement", {"currency": "XXX"}, 422),
        ("accounts/asset:receivable/statement", {"currency": "EUR", "cursor": "x"}, 400),
        ("accounts/asset:receivable/balance", {"at": "2026-01-01"}, 422),
        ("accounts/asset:receivable/balance", {"at": "0001-01-01T00:00:00+23:59"}, 422),
        ("accounts/asset:receivable/balance", {"axis": "sideways"}, 422),
        ("accounts/x%00y/balance", {}, 400),
        ("accounts/" + "x" * 201 + "/balance", {}, 422),
        ("accounts/asset:receivable/balance", {"at": "9999-12-31T23:59:59Z"}, 200),
    ],
)
async def test_bad_questions(api: Api, path: str, params: dict[str, Any], status: int) -> None:
    answer = await api.get(path, api.operator, {"X-Tenant-ID": "acme"}, **params)
    assert answer.status_code == status, answer.text


async def test_another_book_and_no_book_are_not_read(api: Api) -> None:
    for noun in ("balance", "statement"):
        path = f"accounts/liability:unapplied_payments/{noun}"
        refused = await api.get(path, api.acme, currency="EUR", book="platform")
        assert refused.status_code == 403
        assert (await api.get(path, api.globex, currency="EUR")).status_code == 404
        unnamed = await api.get(path, api.operator, currency="EUR")
        assert unnamed.status_code == 404
