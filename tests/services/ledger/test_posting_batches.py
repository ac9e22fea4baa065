"""Many entries in one request: each by itself, or all or none."""

import asyncio
from typing import Any

from ledger.callers import Api
from ledger.facts import assert_sound
from ledger.test_posting_api import entries_of, in_book, sale
from libs.testing.databases import TestDatabase


async def test_a_batch_each_by_itself(api: Api, database: TestDatabase) -> None:
    await api.post("entries", api.poster, in_book(sale("order-0")))
    unbalanced = sale("order-2")
    unbalanced["postings"][0]["amount_minor"] = 1
    unopened = sale("order-3")
    unopened["postings"][1]["account"] = "revenue:own:nowhere"
    sent = [sale("order-0"), sale("order-1"), unbalanced, unopened, sale("order-1", 1), sale("z")]
    body = {"book": "tenant", "atomic": False, "entries": sent}
    answer = await api.post("entries/batch", api.poster, body)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [each["source_key"] for each in results] == [each["source_key"] for each in sent]
    assert [each["status"] for each in results] == [
        "known",
        "posted",
        "refused",
        "refused",
        "refused",
        "posted",
    ]
    assert [(e["refusal"]["code"], e["refusal"]["fields"][0]["field"]) for e in results[2:5]] == [
        ("unbalanced", "body.entries.2.postings"),
        ("unknown_account", "body.entries.3.postings.1.account"),
        ("source_key_taken", "body.entries.4.source_key"),
    ]
    assert results[1]["entry"]["source_key"] == "api:order-1"
    assert await entries_of(database) == ["api:order-0", "api:order-1", "api:z"]
    again = (await api.post("entries/batch", api.poster, body)).json()["results"]
    assert [each["status"] for each in again] == [
        each["status"].replace("posted", "known") for each in results
    ]
    assert [each["entry"] for each in again] == [each["entry"] for each in results]
    await assert_sound(database)


async def test_a_batch_all_or_none(api: Api, database: TestDatabase) -> None:
    sent = [sale(f"o{at}") for at in range(5)]
    body: dict[str, Any] = {"book": "tenant", "atomic": True, "entries": sent}
    spoiled = body | {"entries": [*sent, sale("o0", 1)]}
    refused = await api.post("entries/batch", api.poster, spoiled)
    assert (refused.status_code, refused.json()["code"]) == (409, "source_key_taken")
    unbalanced = sale("o9")
    unbalanced["postings"][0]["amount_minor"] = 1
    spoiled["entries"] = [*sent, unbalanced]
    refused = await api.post("entries/batch", api.poster, spoiled)
    assert (refused.status_code, refused.json()["code"]) == (422, "unbalanced")
    assert refused.json()["fields"][0]["field"] == "body.entries.5.postings"
    assert await entries_of(database) == []
    answers = await asyncio.gather(
        *(api.post("entries/batch", api.poster, body) for _ in range(3)),
        api.post("entries", api.poster, in_book(sale("o3", 1))),
    )
    statuses = [answer.status_code for answer in answers]
    assert statuses in ([200, 200, 200, 409], [409, 409, 409, 201]), "it came first, or last"
    booked = range(5) if statuses[3] == 409 else [3]
    assert await entries_of(database) == [f"api:o{at}" for at in booked]
    await assert_sound(database)


async def test_batches_have_a_size(api: Api) -> None:
    for count in (0, 501):
        entries = [sale(f"o{at}") for at in range(count)]
        body = {"book": "tenant", "atomic": True, "entries": entries}
        answer = await api.post("entries/batch", api.poster, body)
        assert (answer.status_code, answer.json()["fields"][0]["field"]) == (422, "body.entries")
