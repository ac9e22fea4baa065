"""What exports may take: memory by the page, and places by process and tenant."""

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from ledger.callers import Api
from ledger.facts import START
from ledger.facts import book as book_entries
from libs.db.pool import Database
from services.ledger import chart, exports, exports_rows, routes_exports
from services.ledger.books import Reader
from services.ledger.entries import Entry, credit, debit
from services.ledger.exports import BusyError

ACME = {"X-Tenant-ID": "acme"}
PLATFORM = {"book": "platform"}
POSTINGS = 100


async def export(api: Api, **params: Any) -> httpx.Response:
    return await api.get("export", api.operator, ACME, **(PLATFORM | params))


async def test_no_page_is_longer_than_a_hundred_large_entries(api: Api, ledger: Database) -> None:
    acme = api.acme_tenant
    lines = (
        *(debit(chart.BANK, 1, "EUR") for _ in range(POSTINGS - 1)),
        credit(chart.UNAPPLIED_PAYMENTS, POSTINGS - 1, "EUR"),
    )
    async with ledger.tenant(acme.id, "test", books=("platform", "tenant")) as tx:
        for number in range(130):
            await book_entries(tx, Entry("platform", f"large:{number}", "trial", lines))
    reader = Reader(ledger, acme.id, "test", "platform")
    whole = await exports.begin(reader, exports.Wanted(None, None, None, 0), "csv")
    pages = [len(rows) async for rows in whole.pages()]
    assert sum(pages) > 130 * POSTINGS
    assert max(pages) <= 100 * POSTINGS


async def test_a_place_is_free_again_however_a_file_ends(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "AT_WORK_PER_TENANT_MAX", 1)
    for export_format in routes_exports.MEDIA_TYPES:
        assert (await export(api, format=export_format)).status_code == 200
    row_of = exports_rows.row_of

    def fails(_: object) -> Iterable[Any]:
        raise ValueError("planted")

    monkeypatch.setattr(exports_rows, "row_of", fails)
    # So the transport says that an answer broke off.
    with pytest.raises(AssertionError):
        await export(api)
    monkeypatch.setattr(exports_rows, "row_of", row_of)
    assert (await export(api)).status_code == 200
    asked = asyncio.create_task(export(api))
    await asyncio.sleep(0.01)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert (await export(api)).status_code == 200


async def test_whoever_comes_while_all_places_are_taken_comes_back(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "AT_WORK_MAX", 3)
    acme, hooli = api.acme_tenant.id, api.poster_tenant.id
    for _ in "ab":
        exports.enter(acme)
    try:
        refused = await export(api)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_exports")
        assert int(refused.headers["retry-after"]) > 0
        exports.enter(hooli)
        try:
            with pytest.raises(BusyError):
                exports.enter(hooli)
        finally:
            exports.leave(hooli)
    finally:
        for _ in "ab":
            exports.leave(acme)
    whole = await export(api, to=(START + timedelta(days=400)).isoformat())
    assert whole.status_code == 200
