"""What a capture is refused for the sake of others: facts that must be booked, and the lock's others."""

from datetime import date
from typing import Any

import pytest

from ledger.callers import Api
from ledger.test_holds import capture, grant, hold
from libs.contracts.ledger_holds import CaptureHold
from libs.db.pool import Database
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.ledger import holds
from services.ledger.exports_plain import _Beancount

RECEIVABLE = "asset:receivable"


async def test_a_capture_leaves_room_for_facts(
    api: Api, ledger: Database, log: MemoryLog, database: TestDatabase
) -> None:
    hooli = api.poster_tenant
    await grant(ledger, hooli, 5000)
    log.publish(hooli.invoice({"flat": 100}, billed_by="tenant"))
    await log.settle()
    held = (await hold(api)).json()["id"]
    first = await capture(api, held, to=RECEIVABLE, amount_minor=10, rest="stays")
    async with database.admin() as admin:
        planted = await admin.execute(
            "update ledger.account_balance set debit_minor = 2::bigint ^ 62, "
            "credit_minor = 2::bigint ^ 62 "
            "where account = $2 and tenant_id = $1 and book = 'tenant'",
            hooli.id,
            RECEIVABLE,
        )
        assert planted == "UPDATE 1"
    refused = await capture(api, held, key="c-2", to=RECEIVABLE)
    assert (refused.status_code, refused.json()["code"]) == (409, "account_full")
    again = await capture(api, held, to=RECEIVABLE, amount_minor=10, rest="stays")
    assert again.json()["entry"] == first.json()["entry"]
    await log.settle()
    assert len(log.events(CaptureHold)) == 1
    log.publish(hooli.invoice({"flat": 4900}, billed_by="tenant"))
    await log.settle()
    async with database.admin() as admin:
        assert await admin.fetchval("select count(*) from ledger.parked_key") == 0
        debited = await admin.fetchval(
            "select debit_minor - (2::numeric ^ 62)::bigint from ledger.account_balance "
            "where account = $2 and tenant_id = $1 and book = 'tenant'",
            hooli.id,
            RECEIVABLE,
        )
    assert debited == 4900
    assert (await capture(api, held, key="c-3")).status_code == 201


async def test_what_is_held_on_an_account_that_is_full_is_not_captured(
    api: Api, ledger: Database, database: TestDatabase
) -> None:
    await grant(ledger, api.poster_tenant, 5000)
    held = (await hold(api)).json()["id"]
    async with database.admin() as admin:
        await admin.execute(
            "update ledger.account_balance set debit_minor = 2::bigint ^ 62, "
            "credit_minor = 2::bigint ^ 62 where account = 'liability:customer_credits'"
        )
    refused = await capture(api, held)
    assert (refused.status_code, refused.json()["code"]) == (409, "account_full")


async def test_a_hold_is_captured_in_so_many_parts(
    api: Api, ledger: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds, "CAPTURES_MAX", 2)
    await grant(ledger, api.poster_tenant, 5000)
    held, other = [(await hold(api, key=key)).json()["id"] for key in ("order-1", "order-2")]
    answers = [
        await capture(api, held, key=f"c-{number}", amount_minor=1, rest="stays")
        for number in (0, 1, 2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 409]
    assert answers[2].json()["code"] == "too_many_captures"
    again = await capture(api, held, key="c-1", amount_minor=1, rest="stays")
    assert again.json()["entry"] == answers[1].json()["entry"]
    assert (await capture(api, other)).status_code == 201
    assert (await api.post(f"holds/{held}/release", api.poster, None)).status_code == 200


async def test_nothing_is_captured_or_taken_back_in_times_that_are_none(
    api: Api, ledger: Database
) -> None:
    await grant(ledger, api.poster_tenant, 5000)
    held = (await hold(api)).json()["id"]
    acme = {"X-Tenant-ID": "acme"}
    entry = (await api.get("entries", api.operator, acme)).json()["items"][0]["id"]
    for time in ("1999-12-31T23:59:59Z", "9999-12-31T00:00:00Z"):
        body: dict[str, Any] = {"reason": "x", "effective_at": time}
        for answer in (
            await capture(api, held, effective_at=time),
            await api.post(f"entries/{entry}/reverse", api.operator, body, acme),
        ):
            assert answer.status_code == 422, answer.text
            assert answer.json()["fields"][0]["field"] == "body.effective_at"
    in_time = await capture(api, held, effective_at="2000-01-01T00:00:00Z")
    assert in_time.status_code == 201, in_time.text


def test_no_balance_is_asserted_after_the_last_day_there_is() -> None:
    assert _Beancount().end(date.max, [(("asset:bank", "EUR"), 1)]) == ""
