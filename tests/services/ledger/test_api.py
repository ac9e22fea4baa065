"""The HTTP interface of the ledger: whose book, what is refused, what the answers say."""

from typing import Any

import pytest

from ledger.callers import Api
from libs.contracts.audit import SecurityEventRaised
from libs.testing.memory_log import MemoryLog


async def test_an_operator_reads_the_whole_book(api: Api) -> None:
    answer = await api.get("trial-balance", api.operator, book="platform")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["book"] == "platform"
    assert body["rows"] == [
        row("asset:receivable", "EUR", 4900, 4900),
        row("asset:receivable", "USD", 100, 0),
        row("asset:stripe_clearing:platform", "EUR", 4950, 172),
        row("expense:stripe_fees", "EUR", 172, 0),
        row("liability:unapplied_payments", "EUR", 0, 50),
        row("revenue:flat", "EUR", 0, 4900),
        row("revenue:flat", "USD", 0, 100),
    ]
    assert body["totals"] == [
        {"currency": "EUR", "debit_minor": 10022, "credit_minor": 10022},
        {"currency": "USD", "debit_minor": 100, "credit_minor": 100},
    ]
    assert (await api.get("trial-balance", api.operator)).json() == body


def row(account: str, currency: str, debit_minor: int, credit_minor: int) -> dict[str, Any]:
    return {
        "account": account,
        "type": account.partition(":")[0],
        "currency": currency,
        "debit_minor": debit_minor,
        "credit_minor": credit_minor,
    }


async def test_an_operator_reads_one_tenant_and_one_currency(api: Api) -> None:
    for reference in (str(api.acme_tenant.id), "acme"):
        answer = await api.get(
            "trial-balance", api.operator, {"X-Tenant-ID": reference}, book="platform"
        )
        assert answer.json()["totals"] == [
            {"currency": "EUR", "debit_minor": 9972, "credit_minor": 9972}
        ]
    usd = await api.get("trial-balance", api.operator, currency="USD")
    assert {each["currency"] for each in usd.json()["rows"]} == {"USD"}
    none = await api.get("trial-balance", api.operator, currency="JPY")
    assert (none.json()["rows"], none.json()["totals"]) == ([], [])


async def test_a_member_reads_its_own_book_and_never_the_platforms(
    api: Api, log: MemoryLog
) -> None:
    own = (await api.get("trial-balance", api.acme)).json()
    assert [each["account"] for each in own["rows"]] == [
        "asset:stripe_clearing:acct_1",
        "liability:unapplied_payments",
    ]
    assert (await api.get("trial-balance", api.acme, book="tenant")).json() == own
    for path in ("trial-balance", "entries", "accounts"):
        refused = await api.get(path, api.acme, book="platform")
        assert refused.status_code == 403
        assert refused.json()["code"] == "insufficient_permissions"
        assert refused.json()["permission"] == "operator"
    assert (await api.get("trial-balance", api.globex)).json()["rows"] == []
    await log.settle()
    alarms = [event.data for event in log.events(SecurityEventRaised)]
    assert [(alarm.kind, alarm.permission) for alarm in alarms] == [
        ("permission_denied", "operator")
    ] * 3


async def test_who_may_not(api: Api) -> None:
    assert (await api.get("trial-balance", "nonsense")).status_code == 401
    refused = await api.get("trial-balance", api.usage_only)
    assert (refused.status_code, refused.json()["permission"]) == (403, "ledger:read")
    foreign = await api.get("entries", api.globex, {"X-Tenant-ID": "acme"})
    assert foreign.status_code == 403
    unknown = await api.get("entries", api.operator, {"X-Tenant-ID": "nobody"})
    assert unknown.status_code == 404


async def test_entries_page_by_page(api: Api) -> None:
    whole = (await api.get("entries", api.operator)).json()
    assert len(whole["items"]) == 5
    assert whole["next_cursor"] is None
    paged, cursor = [], None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await api.get("entries", api.operator, None, **params)).json()
        paged += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert paged == whole["items"]
    of_acme = [each for each in paged if each["tenant_id"] == str(api.acme_tenant.id)]
    (invoiced,) = (each for each in of_acme if each["source_key"].startswith("invoice:"))
    assert invoiced["id"].startswith("ent_")
    assert invoiced["effective_at"] == "2026-01-16T10:30:00Z"
    assert [
        (each["account"], each["side"], each["amount_minor"], each["currency"])
        for each in invoiced["postings"]
    ] == [("asset:receivable", "debit", 4900, "EUR"), ("revenue:flat", "credit", 4900, "EUR")]
    assert invoiced["postings"][0]["balance_after_minor"] == 4900


async def test_entries_of_an_account_and_of_a_fact(api: Api) -> None:
    cleared = (
        await api.get("entries", api.operator, None, account="asset:stripe_clearing:platform")
    ).json()["items"]
    assert len(cleared) == 3
    key = cleared[0]["source_key"]
    found = (await api.get("entries", api.operator, None, source_key=key)).json()["items"]
    assert found == cleared[:1]
    assert (await api.get("entries", api.acme)).json()["items"][0]["book"] == "tenant"
    mine = await api.get("entries", api.acme, None, source_key=key)
    assert mine.json()["items"] == []


async def test_accounts_stand_positive_on_their_normal_side(api: Api) -> None:
    items = (await api.get("accounts", api.operator)).json()["items"]
    assert {(each["account"], each["currency"]): each["balance_minor"] for each in items} == {
        ("asset:receivable", "EUR"): 0,
        ("asset:receivable", "USD"): 100,
        ("asset:stripe_clearing:platform", "EUR"): 4778,
        ("expense:stripe_fees", "EUR"): 172,
        ("liability:unapplied_payments", "EUR"): 50,
        ("revenue:flat", "EUR"): 4900,
        ("revenue:flat", "USD"): 100,
    }


@pytest.mark.parametrize(
    ("path", "params", "status"),
    [
        ("trial-balance", {"book": "both"}, 422),
        ("trial-balance", {"currency": "eur"}, 422),
        ("trial-balance", {"currency": "XXX"}, 422),
        ("entries", {"limit": 0}, 422),
        ("entries", {"limit": 201}, 422),
        ("entries", {"cursor": "!"}, 400),
        ("entries", {"cursor": "WzFd"}, 400),
        ("entries", {"account": "a\x00b"}, 400),
        ("entries", {"account": "a" * 201}, 422),
        ("entries", {"source_key": "\x00"}, 400),
        ("entries", {"source_key": "x" * 501}, 422),
        ("entries", {"account": "'; drop table posting; --"}, 200),
    ],
)
async def test_bad_questions(api: Api, path: str, params: dict[str, Any], status: int) -> None:
    answer = await api.get(path, api.operator, None, **params)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert answer.headers["content-type"] == "application/problem+json"
