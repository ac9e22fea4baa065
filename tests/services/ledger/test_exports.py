"""Books as files: every posting exactly, as of one moment, in forms that other programs take."""

import asyncio
import csv
import io
import itertools
import json
import subprocess
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.callers import Api
from ledger.facts import START, Tenant, net_balances, transfer
from ledger.facts import book as book_entries
from libs.db.pool import Database
from libs.money import EXPONENTS, Money, format_money
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.ledger import exports, routes_exports
from services.ledger.exports_plain import amount_of, code_of, name_of
from tests.journals import Journal, checker, read_beancount, read_hledger

ACME = {"X-Tenant-ID": "acme"}
PLATFORM = {"book": "platform"}


async def file_of(api: Api, **params: Any) -> httpx.Response:
    """Acme's file, as the platform's staff takes it."""
    answer = await api.get("export", api.operator, ACME, **(PLATFORM | params))
    assert answer.status_code == 200, answer.text
    return answer


def rows_of(answer: httpx.Response) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


async def three_currencies(api: Api, ledger: Database, log: MemoryLog) -> None:
    """More on acme's book: currencies of 0 and 3 decimals, a late fact, and a hostile source key."""
    acme = api.acme_tenant
    for event in (
        acme.payment(1_234, currency="JPY"),
        acme.payment(9_990, currency="KWD"),
        acme.payment(7).model_copy(update={"effective_at": START - timedelta(days=40)}),
    ):
        log.publish(event)
    await log.settle()
    async with ledger.tenant(acme.id, "test", books=("platform", "tenant")) as tx:
        await book_entries(tx, transfer(3, '=2+5;"x"\\ \n(y)'))


async def test_a_row_for_each_posting(
    api: Api, ledger: Database, log: MemoryLog, database: TestDatabase, tmp_path: Path
) -> None:
    """CSV, JSON lines and Parquet hold the same, which is what the API lists."""
    await three_currencies(api, ledger, log)
    answer = await file_of(api, format="csv")
    assert answer.headers["content-type"].startswith("text/csv")
    name = 'attachment; filename="ledger-acme-test-platform.csv"'
    assert answer.headers["content-disposition"] == name
    rows = rows_of(answer)
    sums: dict[str, int] = {}
    for row in rows:
        account = f"{row['account']} {row['currency']}"
        amount = int(row["amount_minor"]) * (1 if row["side"] == "debit" else -1)
        sums[account] = sums.get(account, 0) + amount
        assert sums[account] == int(row["balance_after_minor"])
    in_other_book = {"asset:stripe_clearing:acct_1 EUR", "liability:unapplied_payments EUR"}
    known = await net_balances(database, api.acme_tenant)
    assert {name: net for name, net in sums.items() if net} == {
        name: net for name, net in known.items() if name not in in_other_book
    }
    assert [int(row["chain_seq"]) for row in rows] == sorted(int(row["chain_seq"]) for row in rows)
    hostile = next(row for row in rows if row["source_key"].startswith("'"))
    assert hostile["source_key"] == "'" + '=2+5;"x"\\ \n(y)'

    lines = [json.loads(line) for line in (await file_of(api, format="jsonl")).text.splitlines()]
    listed = (await api.get("entries", api.operator, ACME, **PLATFORM, limit=200)).json()["items"]
    shown = {entry["id"]: entry for entry in listed}
    assert len(lines) == len(listed)
    for line in lines:
        entry = shown[line["entry_id"]]
        assert (line["source_key"], line["chain_hash"]) == (
            entry["source_key"],
            entry["chain_hash"],
        )
        assert [{k: v for k, v in p.items() if k != "line"} for p in line["postings"]] == (
            entry["postings"]
        )

    path = tmp_path / "book.parquet"
    path.write_bytes((await file_of(api, format="parquet")).content)
    with duckdb.connect() as engine:
        engine.execute("set timezone = 'UTC'")
        found = engine.execute(
            "select chain_seq, line, account, amount_minor, source_key, epoch_us(effective_at) "
            "from read_parquet($1) order by chain_seq, line",
            [str(path)],
        ).fetchall()
    flat = [(line, posting) for line in lines for posting in line["postings"]]
    assert [each[:5] for each in found] == [
        (line["chain_seq"], p["line"], p["account"], p["amount_minor"], line["source_key"])
        for line, p in flat
    ]
    assert min(each[5] for each in found) == int((START - timedelta(days=40)).timestamp()) * 10**6


@pytest.mark.parametrize("plain", ["beancount", "hledger"])
async def test_a_journal_that_others_read(
    api: Api, ledger: Database, log: MemoryLog, database: TestDatabase, plain: str
) -> None:
    """Declared, balanced, to the last decimal, and with what stands on each account at its end."""
    await three_currencies(api, ledger, log)
    text = (await file_of(api, format=plain)).text
    journal = {"beancount": read_beancount, "hledger": read_hledger}[plain](text)
    known = await net_balances(database, api.acme_tenant)
    shown = {
        f"{journal.accounts[account]} {currency}": int(amount.scaleb(EXPONENTS[currency]))
        for (account, currency), amount in journal.balances().items()
    }
    in_other_book = {"asset:stripe_clearing:acct_1 EUR", "liability:unapplied_payments EUR"}
    assert {name: net for name, net in shown.items() if net} == {
        name: net for name, net in known.items() if name not in in_other_book
    }
    assert dict(journal.places) == {
        "EUR": {2},
        "JPY": {0},
        "KWD": {3},
    }
    assert journal.asserted == len(shown)
    assert all(code_of(name) == code for name, code in journal.accounts.items())
    assert_told(journal)
    # The reader's own checks can fail: an amount that was changed is found.
    with pytest.raises(AssertionError):
        {"beancount": read_beancount, "hledger": read_hledger}[plain](
            text.replace("49.00", "49.01", 1)
        )


@pytest.mark.parametrize("program", ["bean-check", "hledger"])
async def test_the_program_itself_takes_it(
    api: Api, ledger: Database, log: MemoryLog, tmp_path: Path, program: str
) -> None:
    """Where it is installed, strictly; and it finds an amount that was changed."""
    command = checker(program)
    if command is None:
        pytest.skip(f"{program} is not installed here")
    await three_currencies(api, ledger, log)
    plain = "beancount" if program == "bean-check" else "hledger"
    text = (await file_of(api, format=plain)).text
    path = tmp_path / f"book.{plain}"
    for written, is_right in ((text, True), (text.replace("49.00", "49.01", 1), False)):
        path.write_text(written)
        checked = await asyncio.to_thread(
            subprocess.run, [*command, path], capture_output=True, text=True, check=False
        )
        assert (checked.returncode == 0) == is_right, checked.stdout + checked.stderr


def assert_told(journal: Journal) -> None:
    """Every transaction names the entry it is, and when it held."""
    told = [each for each in journal.transactions if each.facts.get("entry")]
    assert all(each.facts["entry"].startswith("ent_") for each in told)
    assert all(each.facts["effective"][:10] == str(each.on) for each in told)
    assert len({each.facts["entry"] for each in told}) == len(told) == 7


async def test_what_is_wanted(api: Api, ledger: Database, log: MemoryLog) -> None:
    await three_currencies(api, ledger, log)
    yen = rows_of(await file_of(api, currency="JPY"))
    assert [row["amount_minor"] for row in yen] == ["1234", "1234"]
    early = rows_of(await file_of(api, to="2026-01-01T00:00:00Z"))
    assert [row["amount_minor"] for row in early] == ["7", "7"]
    late = rows_of(await file_of(api, **{"from": "2026-01-01T00:00:00Z"}))
    assert len(early) + len(late) == len(rows_of(await file_of(api)))
    # What stands at the end is said of the whole book only: a part's sums are no balances.
    part = await file_of(api, format="beancount", to="2026-01-01T00:00:00Z")
    assert read_beancount(part.text).asserted == 0
    own = await api.get("export", api.acme, format="beancount")
    assert read_beancount(own.text).balances()["Assets:Stripe-clearing:Acct-1", "EUR"] == Decimal(
        10
    )


async def test_a_large_book_comes_in_parts_as_of_one_moment(
    api: Api, ledger: Database, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await three_currencies(api, ledger, log)
    whole = rows_of(await file_of(api))
    monkeypatch.setattr(exports, "EXPORTED_ENTRIES_MAX", 3)
    monkeypatch.setattr(exports, "READ_PAGE", 2)
    parts, after = [], "0"
    for _ in range(10):
        answer = await file_of(api, after=after)
        parts += rows_of(answer)
        if routes_exports.NEXT_AFTER_HEADER not in answer.headers:
            break
        after = answer.headers[routes_exports.NEXT_AFTER_HEADER]
    assert parts == whole
    first = await file_of(api, format="beancount")
    assert read_beancount(first.text).asserted == 0

    acme = api.acme_tenant
    reader = exports.Reader(ledger, acme.id, "test", "platform")
    monkeypatch.setattr(exports, "EXPORTED_ENTRIES_MAX", 1_000)
    export = await exports.begin(reader, exports.Wanted(None, None, None, 0), "csv")
    found: list[Any] = []
    async for rows in export.pages():
        found += rows
        log.publish(acme.payment(5))
        await log.settle()
    assert len(found) == len(whole), "what was booked meanwhile is not in it"


async def test_whose_book(api: Api) -> None:
    assert (await api.get("export", api.acme, **PLATFORM)).status_code == 403
    assert (await api.get("export", api.usage_only)).status_code == 403
    nobodys = await api.get("export", api.operator, **PLATFORM)
    assert nobodys.status_code == 422
    assert "X-Tenant-ID" in nobodys.json()["detail"]
    order = {"from": "2026-02-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}
    assert (await api.get("export", api.acme, **order)).status_code == 422
    empty = await api.get("export", api.globex, format="beancount")
    assert read_beancount(empty.text).transactions == []


async def test_decimals_that_nobody_knows(api: Api, log: MemoryLog) -> None:
    log.publish(Tenant(id=api.acme_tenant.id, days=90).payment(5, currency="XXX"))
    await log.settle()
    answer = await api.get("export", api.operator, ACME, **PLATFORM, format="hledger")
    assert answer.status_code == 422
    assert "XXX" in answer.json()["detail"]
    assert "XXX" in (await file_of(api)).text


PARTS = st.from_regex(r"[A-Za-z0-9_]{1,12}", fullmatch=True)
CODES = st.builds(
    lambda root, parts: ":".join([root, *parts]),
    st.sampled_from(["asset", "liability", "equity", "revenue", "expense"]),
    st.lists(PARTS, min_size=1, max_size=3),
)


@given(st.lists(CODES, unique=True, max_size=20))
def test_names_lead_back_to_their_accounts(codes: list[str]) -> None:
    names = [name_of(code) for code in codes]
    assert [code_of(name) for name in names] == codes
    text = "".join(f"1970-01-01 open {name}\n" for name in names)
    assert list(read_beancount(text).accounts) == names


@given(
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.sampled_from(sorted(EXPONENTS)),
)
def test_amounts_are_exact(amount_minor: int, currency: str) -> None:
    text = amount_of(amount_minor, currency)
    assert text == format_money(Money(amount_minor, currency)).replace(",", "")
    number, _ = text.split()
    assert Decimal(number).scaleb(EXPONENTS[currency]) == amount_minor
    assert all(char in "-.0123456789" for char in itertools.chain(number))
