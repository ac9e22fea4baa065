"""What staff does in the book `platform` is told to the platform, and to no tenant."""

from collections.abc import Awaitable, Callable

import httpx
import pytest

from ledger.callers import Api
from ledger.test_posting_api import sale
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.ledger import Book
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.testing.memory_log import MemoryLog

ACME = {"X-Tenant-ID": "acme"}
CREDITS = "liability:customer_credits"


async def post(api: Api, book: Book) -> httpx.Response:
    body = sale("secret-key") | {"book": book}
    return await api.post("entries", api.operator, body, ACME)


async def take_back(api: Api, book: Book) -> httpx.Response:
    entry = (await post(api, book)).json()["id"]
    body = {"reason": "secret reason"}
    return await api.post(f"entries/{entry}/reverse", api.operator, body, ACME)


async def open_own(api: Api, book: Book) -> httpx.Response:
    body = {"book": book, "type": "revenue", "name": "shipping", "purpose": "secret purpose"}
    return await api.post("accounts", api.operator, body, ACME)


async def bound(api: Api, book: Book) -> httpx.Response:
    return await api.client.put(
        f"/api/v1/ledger/accounts/{CREDITS}/bounds",
        json={"book": book, "currency": "EUR", "min_minor": -77, "max_minor": None},
        headers={"X-API-Key": api.operator} | ACME,
    )


async def close(api: Api, book: Book) -> httpx.Response:
    return await api.post("periods/2026-01/close", api.operator, {"book": book}, ACME)


async def reopen(api: Api, book: Book) -> httpx.Response:
    await close(api, book)
    body = {"book": book, "reason": "secret reason"}
    return await api.post("periods/2026-01/reopen", api.operator, body, ACME)


@pytest.mark.parametrize("action", [post, take_back, open_own, bound, close, reopen])
async def test_a_change_is_told_to_whoever_reads_the_book(
    api: Api, log: MemoryLog, action: Callable[[Api, Book], Awaitable[httpx.Response]]
) -> None:
    acme = str(api.acme_tenant.id)
    books: tuple[Book, ...] = ("platform", "tenant")
    for book in books:
        before = len(log.events(ConfigurationChanged))
        answer = await action(api, book)
        assert answer.is_success, answer.text
        await log.settle()
        told = log.events(ConfigurationChanged)[before:]
        assert told
        reader = PLATFORM_TENANT_ID if book == "platform" else api.acme_tenant.id
        assert {event.tenant_id for event in told} == {reader}
        for event in told:
            assert event.data.object_id.startswith(acme) == (book == "platform")
            assert event.mode == "test"
    for event in log.events(ConfigurationChanged):
        if event.tenant_id == api.acme_tenant.id:
            assert "platform" not in event.model_dump_json()
