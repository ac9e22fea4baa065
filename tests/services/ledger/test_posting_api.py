"""Entries over the API: booked at once and once, judged one by one, and told so that they come back."""

import asyncio
import json
from typing import Any

import httpx

from ledger.callers import Api
from ledger.facts import assert_sound, net_balances, snapshot
from ledger.test_rebooking import contents, forget_everything, read_anew
from libs.contracts.audit import ConfigurationChanged, SecurityEventRaised
from libs.contracts.ledger import JournalEntryPosted, PostEntry
from libs.db.pool import Database
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog

ACME = {"X-Tenant-ID": "acme"}


def line(account: str, side: str, amount_minor: Any, currency: str = "EUR") -> dict[str, Any]:
    return {"account": account, "side": side, "amount_minor": amount_minor, "currency": currency}


def sale(key: str, amount_minor: Any = 490, **members: Any) -> dict[str, Any]:
    """An entry: somebody owes for something that was sold."""
    postings = [
        line("asset:receivable", "debit", amount_minor),
        line("revenue:flat", "credit", amount_minor),
    ]
    return {"source_key": key, "postings": postings} | members


def in_book(body: dict[str, Any], book: str = "tenant") -> dict[str, Any]:
    return {"book": book} | body


async def entries_of(database: TestDatabase) -> list[str]:
    """The source keys of the API's entries."""
    async with database.admin() as admin:
        rows = await admin.fetch(
            "select source_key from ledger.journal_entry where source_key like 'api:%' order by 1"
        )
    return [row["source_key"] for row in rows]


async def test_an_entry_is_booked_at_once(api: Api, log: MemoryLog, database: TestDatabase) -> None:
    body = sale("order-1", effective_at="2026-01-02T03:04:05Z", metadata={"order": "1"})
    answer = await api.post("entries", api.poster, in_book(body))
    assert answer.status_code == 201, answer.text
    assert "idempotent-replayed" not in answer.headers
    made = answer.json()
    assert (made["book"], made["source_key"], made["rule"]) == ("tenant", "api:order-1", "posted")
    assert made["tenant_id"] == str(api.poster_tenant.id)
    assert (made["effective_at"], made["metadata"]) == ("2026-01-02T03:04:05Z", {"order": "1"})
    assert [(p["account"], p["side"], p["balance_after_minor"]) for p in made["postings"]] == [
        ("asset:receivable", "debit", 490),
        ("revenue:flat", "credit", -490),
    ]
    found = await api.get("entries", api.poster, source_key="api:order-1")
    assert found.json()["items"] == [made]
    await log.settle()
    (told,) = log.events(PostEntry)
    assert told.data.postings[0].model_dump() == line("asset:receivable", "debit", 490)
    assert (told.data.actor[:4], told.data.metadata) == ("key_", {"order": "1"})
    (posted,) = [e for e in log.events(JournalEntryPosted) if e.data.source_key == "api:order-1"]
    assert (posted.causation_id, str(told.id)) == (told.id, made["causation_id"])
    assert (posted.effective_at, posted.tenant_id) == (told.effective_at, api.poster_tenant.id)
    assert log.events(ConfigurationChanged) == []
    before = await snapshot(database)
    await log.replay(clear_inboxes=True)
    assert await snapshot(database) == before
    await assert_sound(database)


async def test_the_same_again_gets_the_same_answer_and_another_is_refused(
    api: Api, database: TestDatabase
) -> None:
    body = sale("order-1", effective_at="2026-01-02T03:04:05Z", metadata={"order": "1"})
    first = await api.post("entries", api.poster, in_book(body))
    turned = body | {"postings": body["postings"][::-1]}
    undated = {name: value for name, value in body.items() if name != "effective_at"}
    for same in (body, turned, undated):
        again = await api.post("entries", api.poster, in_book(same))
        assert (again.status_code, again.json()) == (201, first.json())
        assert again.headers["idempotent-replayed"] == "true"
    before = await snapshot(database)
    for other in (
        sale("order-1", 491, effective_at=body["effective_at"], metadata=body["metadata"]),
        body | {"metadata": {"order": "2"}},
        body | {"metadata": {}},
        body | {"effective_at": "2026-01-02T03:04:06Z"},
        body | {"postings": [p | {"currency": "USD"} for p in body["postings"]]},
    ):
        refused = await api.post("entries", api.poster, in_book(other))
        assert (refused.status_code, refused.json()["code"]) == (409, "source_key_taken")
        assert refused.json()["fields"][0]["field"] == "body.source_key"
    assert await snapshot(database) == before
    # Another book has keys of its own, and a fact's key is out of reach.
    operator = await api.post(
        "entries", api.operator, in_book(body, "platform"), {"X-Tenant-ID": "hooli"}
    )
    assert operator.status_code == 201
    assert "idempotent-replayed" not in operator.headers


async def test_fifty_callers_with_one_key_book_one_entry(api: Api, database: TestDatabase) -> None:
    answers = await asyncio.gather(
        *(api.post("entries", api.poster, in_book(sale("order-1"))) for _ in range(50))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert await entries_of(database) == ["api:order-1"]
    assert (await net_balances(database, api.poster_tenant))["asset:receivable EUR"] == 490
    await assert_sound(database)


async def test_callers_go_together_and_a_bad_one_fails_alone(
    api: Api, log: MemoryLog, database: TestDatabase
) -> None:
    known = await api.post("entries", api.poster, in_book(sale("order-0")))
    assert known.status_code == 201
    missing = sale("bad-1")
    missing["postings"][1]["account"] = "revenue:own:nowhere"
    bodies = [sale(f"order-{at}", at) for at in range(1, 31)]
    bodies[7:7] = [missing, sale("order-0", 1)]
    bodies[20:20] = [sale("order-3", 3), sale("order-3", 4)]
    answers = await asyncio.gather(
        *(api.post("entries", api.poster, in_book(body)) for body in bodies)
    )
    codes = {
        at: answer.json()["code"] for at, answer in enumerate(answers) if not answer.is_success
    }
    assert list(codes.values()) == ["unknown_account", "source_key_taken", "source_key_taken"]
    assert answers[7].status_code == 422
    assert answers[7].json()["fields"][0]["field"] == "body.postings.1.account"
    assert await entries_of(database) == sorted(f"api:order-{at}" for at in range(31))
    async with database.admin() as admin:
        commits = await admin.fetchval(
            "select count(distinct xmin::text) from ledger.journal_entry where source_key like 'api:%'"
        )
    assert commits < 20, "they went together"
    await log.settle()
    assert len(log.events(PostEntry)) == 31
    await assert_sound(database)


async def test_several_tenants_go_together_each_in_its_own_book(
    api: Api, database: TestDatabase
) -> None:
    answers = await asyncio.gather(
        *(
            api.post("entries", api.operator, in_book(sale("same", at)), {"X-Tenant-ID": slug})
            for at, slug in enumerate(("acme", "globex", "hooli", "initech"), start=1)
        )
    )
    assert [answer.status_code for answer in answers] == [201] * 4
    assert [answer.json()["postings"][0]["amount_minor"] for answer in answers] == [1, 2, 3, 4]
    assert len({answer.json()["tenant_id"] for answer in answers}) == 4
    await assert_sound(database)


async def test_who_may_post_where(api: Api, log: MemoryLog, database: TestDatabase) -> None:
    before = await entries_of(database)
    body = in_book(sale("order-1"))
    for key in (api.acme, api.globex, api.usage_only):
        refused = await api.post("entries", key, body)
        assert (refused.status_code, refused.json()["permission"]) == (403, "ledger:post")
    foreign = await api.post("entries", api.poster, body, ACME)
    assert foreign.status_code == 403
    for path, beyond in (
        ("entries", in_book(sale("order-1"), "platform")),
        ("entries/batch", {"book": "platform", "atomic": True, "entries": [sale("order-1")]}),
        ("accounts", {"book": "platform", "type": "asset", "name": "x", "purpose": "x"}),
    ):
        refused = await api.post(path, api.poster, beyond)
        assert (refused.status_code, refused.json()["permission"]) == (403, "operator")
    assert await entries_of(database) == before
    await log.settle()
    alarms = [event.data.permission for event in log.events(SecurityEventRaised)]
    assert (alarms.count("operator"), alarms.count("ledger:post")) == (3, 3)
    # Staff may, in either book of a tenant that it names; and it stands in the audit log.
    for book in ("platform", "tenant"):
        answer = await api.post("entries", api.operator, in_book(sale("order-1"), book), ACME)
        assert answer.status_code == 201, answer.text
    await log.settle()
    # The change of the book `platform` is told by the platform: nothing orders it with the other.
    changes = {c.data.after["book"]: c for c in log.events(ConfigurationChanged)}
    assert {book: (c.data.action, c.data.after) for book, c in changes.items()} == {
        book: ("ledger_entry.posted", {"book": book, "source_key": "api:order-1"})
        for book in ("platform", "tenant")
    }
    assert {told.data.book: told.causation_id for told in log.events(PostEntry)} == {
        book: c.id for book, c in changes.items()
    }
    # Who posts sees the book; who has the scope for one tenant sees no other's entry.
    seen = await api.get("entries", api.poster)
    assert (seen.status_code, seen.json()["items"]) == (200, [])


BAD_ENTRIES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"source_key": ""}, "source_key"),
    ({"source_key": "x" * 201}, "source_key"),
    ({"source_key": "two words"}, "source_key"),
    ({"source_key": "ada@acme.example"}, "source_key"),
    ({"source_key": "a\x00"}, "source_key"),
    ({"book": "both"}, "book"),
    ({"amount": 1}, "amount"),
    ({"effective_at": "2026-01-01T00:00:00"}, "effective_at"),
    ({"effective_at": "1999-12-31T23:59:59Z"}, "effective_at"),
    ({"effective_at": "2999-12-31T23:59:59Z"}, "effective_at"),
    ({"metadata": {"a": "\x00"}}, "metadata.a"),
    ({"metadata": {f"n{at}": "" for at in range(21)}}, "metadata"),
    ({"postings": []}, "postings"),
    ({"postings": [line("asset:bank", "debit", 1)]}, "postings"),
    ({"postings": [line("asset:bank", "debit", 1)] * 101}, "postings"),
    ({"postings": [line("asset:bank", "debit", 1)] * 2}, "postings"),
)
BAD_POSTINGS: tuple[tuple[dict[str, Any], str], ...] = (
    (line("asset:bank", "debit", 0), "amount_minor"),
    (line("asset:bank", "debit", -490), "amount_minor"),
    (line("asset:bank", "debit", 10**13 + 1), "amount_minor"),
    (line("asset:bank", "debit", "490"), "amount_minor"),
    (line("asset:bank", "debit", 490.0), "amount_minor"),
    (line("asset:bank", "debit", True), "amount_minor"),
    (line("asset:bank", "debit", 490, "XXX"), "currency"),
    (line("asset:bank", "debit", 490, "eur"), "currency"),
    (line("asset:bank", "both", 490), "side"),
    (line("asset:gold", "debit", 490), "account"),
    (line("asset:own:gold", "debit", 490), "account"),
    (line("asset:stripe_clearing:acct_9", "debit", 490), "account"),
    (line("'; drop table posting; --", "debit", 490), "account"),
    (line("asset:bank", "debit", 490) | {"entry_id": "x"}, "entry_id"),
)


async def test_bad_entries_and_postings(api: Api, database: TestDatabase) -> None:
    cases = [(sale("order-1") | change, field) for change, field in BAD_ENTRIES]
    for posting, field in BAD_POSTINGS:
        body = sale("order-1")
        body["postings"][0] = posting
        cases.append((body, f"postings.0.{field}"))
    for body, field in cases:
        answer = await api.post("entries", api.poster, {"book": "tenant"} | body)
        assert answer.status_code == 422, (body, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["fields"][0]["field"] == f"body.{field}", body
    assert await entries_of(database) == []
    async with database.admin() as admin:
        opened = await admin.fetchval(
            "select count(*) from ledger.account where tenant_id = $1", api.poster_tenant.id
        )
    assert opened == 0, "a posting opens no account"


async def test_requests_that_are_none(api: Api, database: TestDatabase) -> None:
    async def send(content: bytes, key: str = api.poster, media: str = "application/json") -> str:
        headers = {"X-API-Key": key, "Content-Type": media}
        path = "/api/v1/ledger/entries"
        answer = await api.client.post(path, content=content, headers=headers)
        assert answer.headers["content-type"] == "application/problem+json"
        return f"{answer.status_code} {answer.json()['code']}"

    whole = json.dumps(in_book(sale("order-1"))).encode()
    assert await send(whole, "nonsense") == "401 unauthorized"
    assert await send(b"{", "nonsense") == "401 unauthorized"
    assert await send(whole, media="text/plain") == "415 unsupported_media_type"
    assert await send(b" " * (1024 * 1024 + 1)) == "413 body_too_large"
    for content in (b"", b"{", whole + b"x", b"\xff", b"[" * 100_000):
        assert await send(content) == "400 invalid_request", content[:20]
    for content in (b"null", b"[]", b"{}", b"1", b'{"book": NaN}'):
        assert await send(content) == "422 invalid_request", content
    got = await api.client.put("/api/v1/ledger/entries", headers={"X-API-Key": api.poster})
    assert got.status_code == 405
    assert await entries_of(database) == []


async def test_the_header_is_looked_at_first(api: Api, database: TestDatabase) -> None:
    async def post(body: dict[str, Any], key: str, path: str = "entries") -> httpx.Response:
        return await api.post(path, api.poster, body, {"Idempotency-Key": key})

    body = in_book(sale("order-1"))
    first = await post(body, "a")
    assert (first.status_code, "idempotent-replayed" in first.headers) == (201, False)
    for key in ("a", "b"):
        again = await post(body, key)
        assert (again.status_code, again.json()) == (201, first.json())
        assert again.headers["idempotent-replayed"] == "true"
    reused = await post(in_book(sale("order-2")), "a")
    assert (reused.status_code, reused.json()["code"]) == (409, "idempotency_key_reused")
    taken = await post(in_book(sale("order-1", 1)), "c")
    assert (taken.status_code, taken.json()["code"]) == (409, "source_key_taken")
    # What was refused took no key.
    assert (await post(in_book(sale("order-3")), "c")).status_code == 201
    batch = {"book": "tenant", "atomic": False, "entries": [sale("order-4"), sale("order-1", 1)]}
    results = await post(batch, "d", "entries/batch")
    assert [each["status"] for each in results.json()["results"]] == ["posted", "refused"]
    assert (await post(batch, "d", "entries/batch")).json() == results.json()
    assert await entries_of(database) == ["api:order-1", "api:order-3", "api:order-4"]
    await assert_sound(database)


async def test_what_belongs_to_a_closed_month_is_known_again(
    api: Api, ledger: Database, log: MemoryLog, database: TestDatabase
) -> None:
    early, late = (
        sale(f"o{day}", day, effective_at=f"2026-01-{day}T00:00:00Z") for day in (10, 20)
    )
    first = await api.post("entries", api.poster, in_book(early))
    hooli = {"X-Tenant-ID": "hooli"}
    closed = await api.post("periods/2026-01/close", api.operator, {"book": "tenant"}, hooli)
    assert closed.is_success, closed.text
    again = await api.post("entries", api.poster, in_book(early))
    assert (again.status_code, again.json()) == (201, first.json())
    moved = await api.post("entries", api.poster, in_book(late))
    assert moved.status_code == 201, moved.text
    assert (moved.json()["effective_at"], moved.json()["belongs_to"]) == (
        "2026-02-01T00:00:00Z",
        "2026-01",
    )
    known = await api.post("entries", api.poster, in_book(late))
    assert (known.json(), known.headers["idempotent-replayed"]) == (moved.json(), "true")
    other = await api.post("entries", api.poster, in_book(late | {"effective_at": None}))
    assert other.json() == moved.json()
    dated = await api.post(
        "entries", api.poster, in_book(late | {"effective_at": "2026-02-01T00:00:00Z"})
    )
    assert dated.json()["code"] == "source_key_taken"
    # Books that are made anew put both where they were.
    await log.settle()
    entries = await contents(database)
    await forget_everything(database)
    topics = sorted({name for each in log.consumers(ledger) for name in each.topics})
    await read_anew(log, ledger, topics)
    assert await contents(database) == entries
    await assert_sound(database)


async def test_an_account_that_is_nearly_full_takes_facts_alone(
    api: Api, log: MemoryLog, database: TestDatabase
) -> None:
    async with database.admin() as admin:
        await admin.execute(
            "update ledger.account_balance set debit_minor = 2::bigint ^ 62, "
            "credit_minor = 2::bigint ^ 62 where account = 'revenue:flat' and tenant_id = $1",
            api.acme_tenant.id,
        )
    body = in_book(sale("order-1"), "platform")
    refused = await api.post("entries", api.operator, body, ACME)
    assert (refused.status_code, refused.json()["code"]) == (409, "account_full")
    assert refused.json()["fields"][0]["field"] == "body.postings.1.account"
    log.publish(api.acme_tenant.invoice({"flat": 4900}))
    await log.settle()
    async with database.admin() as admin:
        assert await admin.fetchval("select count(*) from ledger.parked_key") == 0
