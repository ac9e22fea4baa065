"""Reconciliations and breaks over HTTP: who sees and decides what, lists, CSV, and bad requests."""

import csv
from typing import Any

import httpx
import pytest

from ledger.callers import Api, publish_tenant
from ledger.facts import Tenant
from ledger.stripe_side import TERMS, StripeSide, platforms_account
from ledger.test_statements import connected
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.ledger import StatementRequested
from libs.contracts.stripe_payouts import PayoutAllocated
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database
from libs.ids import new_id, public_id
from libs.testing.memory_log import MemoryLog
from services.ledger import reconciling

SOMEBODY = f"usr_{new_id()}"


@pytest.fixture
async def side(ledger: Database, log: MemoryLog) -> StripeSide:
    """A tenant's account with three breaks."""
    owner = Tenant()
    found = StripeSide("acct_own", owner.id, owner, log)
    publish_tenant(log, owner.id, "own", ("billing:manage",))
    connected(log, owner.id, "own", "acct_own")
    found.pay(1_000, 30, told_minor=999)
    found.move("climate_order_purchase", -70)
    found.pay(2_000, 30, untold=("transaction",))
    await found.reconcile(ledger)
    return found


def named(side: StripeSide) -> dict[str, str]:
    return {"X-Tenant-ID": str(side.owner)}


async def decide(
    api: Api, side: StripeSide, found: dict[str, Any], what: str, body: Any, key: str | None = None
) -> httpx.Response:
    path = f"breaks/{found['id']}/{what}"
    return await api.post(path, key or api.operator, body, named(side))


async def listed(api: Api, side: StripeSide, **params: Any) -> list[dict[str, Any]]:
    answer = await api.get("breaks", api.operator, named(side), **params)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_a_run_is_begun_once_shown_and_listed(api: Api, log: MemoryLog) -> None:
    answer = await api.post("reconciliations", api.operator, {"account": "platform"})
    again = await api.post("reconciliations", api.operator, {"account": "platform"})
    assert (answer.status_code, again.json()["id"]) == (202, answer.json()["id"])
    body = answer.json()
    assert (body["state"], body["account"], body["tenant_id"]) == (
        "listing",
        "platform",
        str(PLATFORM_TENANT_ID),
    )
    await log.settle()
    (asked,) = log.events(StatementRequested)
    assert asked.data.listed_from < asked.data.listed_to
    shown = await api.get(f"reconciliations/{body['id']}", api.operator)
    assert shown.json() == body
    page = (await api.get("reconciliations", api.operator, account="platform")).json()
    assert [each["id"] for each in page["items"]] == [body["id"]]
    for other in (api.acme, api.globex):
        assert (await api.get(f"reconciliations/{body['id']}", other)).status_code == 404
        assert (await api.get("reconciliations", other)).json()["items"] == []


async def test_breaks_are_listed_filtered_and_exported(api: Api, side: StripeSide) -> None:
    found = await listed(api, side)
    assert {each["kind"] for each in found} == {"amount", "unknown_type", "late_fee"}
    (amount,) = await listed(api, side, kind="amount")
    assert (amount["stripe_minor"], amount["ledger_minor"], amount["difference_minor"]) == (
        970,
        969,
        1,
    )
    assert amount["proposal"]["action"] == "adjust"
    assert {each["amount_minor"] for each in amount["proposal"]["postings"]} == {1}
    assert await listed(api, side, state="resolved") == []
    assert len(await listed(api, side, state=["open", "proposed"])) == 3
    first = await api.get("breaks", api.operator, named(side), limit=2)
    rest = await api.get(
        "breaks", api.operator, named(side), limit=2, cursor=first.json()["next_cursor"]
    )
    assert [each["id"] for each in first.json()["items"] + rest.json()["items"]] == [
        each["id"] for each in found
    ]
    answer = await api.get("breaks/export", api.operator, named(side))
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(answer.text.splitlines()))
    assert [row["id"] for row in rows] == [each["id"] for each in found]
    assert {row["difference_minor"] for row in rows} == {
        str(each["difference_minor"]) for each in found
    }


async def test_the_staff_sees_all_and_a_tenant_its_own(api: Api, side: StripeSide) -> None:
    (amount,) = await listed(api, side, kind="amount")
    everything = (await api.get("breaks", api.operator)).json()["items"]
    assert {each["tenant_id"] for each in everything} == {str(side.owner)}
    for other in (api.acme, api.globex):
        assert (await api.get("breaks", other)).json()["items"] == []
        assert (await api.get(f"breaks/{amount['id']}", other)).status_code == 404
        assert len((await api.get("breaks/export", other)).text.splitlines()) == 1


async def test_the_platforms_own_are_for_its_staff(api: Api, log: MemoryLog) -> None:
    reader = publish_tenant(log, PLATFORM_TENANT_ID, "platform", ("ledger:read",), version=2)
    await log.settle()
    for path in ("breaks", "breaks/export", "reconciliations"):
        answer = await api.get(path, reader)
        assert (answer.status_code, answer.json()["permission"]) == (403, "operator")


async def test_what_staff_decides_is_kept_once_and_audited(
    api: Api, side: StripeSide, ledger: Database, log: MemoryLog
) -> None:
    (amount,) = await listed(api, side, kind="amount")
    (unknown,) = await listed(api, side, kind="unknown_type")
    (late,) = await listed(api, side, kind="late_fee")
    given = await decide(api, side, amount, "assign", {"owner": SOMEBODY})
    assert given.json()["owner"] == SOMEBODY
    assert [each["id"] for each in await listed(api, side, owner=SOMEBODY)] == [amount["id"]]
    accepted = await decide(api, side, amount, "accept", {})
    again = await decide(api, side, amount, "accept", {})
    assert (accepted.json()["state"], again.json()["history"]) == (
        "accepted",
        accepted.json()["history"],
    )
    assert [each["change"] for each in accepted.json()["history"]] == [
        "found",
        "assigned",
        "accepted",
    ]
    for body, status in (
        ({}, 422),
        ({"account": "nothing:here"}, 422),
        ({"account": "liability:suspense"}, 422),
        ({"account": "expense:own:never_opened"}, 422),
        ({"account": "expense:stripe_fees"}, 200),
    ):
        answer = await decide(api, side, unknown, "accept", body)
        assert answer.status_code == status, answer.text
    assert (await decide(api, side, late, "accept", {"account": "asset:bank"})).status_code == 422
    ignored = await decide(api, side, late, "ignore", {"reason": "known to support"})
    assert (ignored.json()["state"], ignored.json()["reason"]) == ("ignored", "known to support")
    await log.settle()
    actions = [each.data.action for each in log.events(ConfigurationChanged)]
    decided = [each for each in actions if each.startswith("reconciliation_break.")]
    assert sorted(decided) == [
        "reconciliation_break.accepted",
        "reconciliation_break.accepted",
        "reconciliation_break.assigned",
        "reconciliation_break.ignored",
    ]
    await side.reconcile(ledger)
    resolved = await listed(api, side, state="resolved")
    assert {each["id"] for each in resolved} == {amount["id"], unknown["id"]}
    answer = await decide(api, side, resolved[0], "ignore", {"reason": "late"})
    assert (answer.status_code, answer.json()["code"]) == (409, "break_resolved")
    shown = await api.get(f"breaks/{resolved[0]['id']}", api.operator, named(side))
    assert shown.json()["history"][-1]["change"] == "resolved"


async def test_where_nothing_is_proposed_nothing_is_accepted(
    api: Api, ledger: Database, log: MemoryLog
) -> None:
    # Given a payout, of which one tenant's share is booked and the platform's is not,
    platform = platforms_account(log)
    share = PayoutAllocated(
        account="platform",
        stripe_payout_id="po_1",
        share_minor=500,
        currency="EUR",
        part=1,
        parts=2,
        booked_minor=0,
    )
    log.publish(platform.payer.event(share))
    await platform.reconcile(ledger)
    found = (await api.get("breaks", api.operator, kind="missing_in_ledger")).json()["items"]
    ((state, reference, break_id),) = [
        (each["state"], each["reference"], each["id"]) for each in found
    ]
    assert (state, reference) == ("open", "po_1")
    # then there is nothing to accept, and it can be let be.
    answer = await api.post(f"breaks/{break_id}/accept", api.operator, {})
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_proposed")
    answer = await api.post(f"breaks/{break_id}/ignore", api.operator, {"reason": "known"})
    assert answer.json()["state"] == "ignored"


async def test_only_staff_decides(api: Api, side: StripeSide) -> None:
    (amount,) = await listed(api, side, kind="amount")
    for what, body in (
        ("accept", {}),
        ("ignore", {"reason": "x"}),
        ("assign", {"owner": None}),
    ):
        for key in (api.acme, api.globex):
            assert (await api.post(f"breaks/{amount['id']}/{what}", key, body)).status_code == 403
        # Staff names the tenant; without it the break is not among the platform's own.
        answer = await api.post(f"breaks/{amount['id']}/{what}", api.operator, body)
        assert answer.status_code == 404
    assert (await listed(api, side, kind="amount"))[0]["state"] == "proposed"


async def test_bad_requests(api: Api, log: MemoryLog) -> None:
    for body, status in (
        ({}, 422),
        ({"account": "acct_nobodys"}, 404),
        ({"account": "platform", "to": "2099-01-01T00:00:00Z"}, 422),
        ({"account": "platform", "from": "2099-01-01T00:00:00Z"}, 422),
        ({"account": "platform", "from": "2020-01-01T00:00:00Z"}, 422),
        ({"account": "platform", "to": "0001-01-05T00:00:00Z"}, 422),
        ({"account": "a\x00"}, 422),
        ({"account": "platform", "tenant": "x"}, 422),
    ):
        answer = await api.post("reconciliations", api.operator, body)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    await log.settle()
    assert log.events(StatementRequested) == []


async def test_bad_decisions(api: Api) -> None:
    absent = public_id("break", new_id())
    for path, body, status in (
        (f"breaks/{absent}/accept", {}, 404),
        ("breaks/nothing/accept", {}, 404),
        (f"breaks/{absent}/accept", {"account": "a\x00"}, 422),
        (f"breaks/{absent}/ignore", {}, 422),
        (f"breaks/{absent}/ignore", {"reason": ""}, 422),
        (f"breaks/{absent}/assign", {"owner": "somebody"}, 422),
        (f"breaks/{absent}/assign", {}, 422),
    ):
        assert (await api.post(path, api.operator, body)).status_code == status, path
    for path in (f"breaks/{absent}", "breaks/nothing", "reconciliations/nothing"):
        assert (await api.get(path, api.operator)).status_code == 404
    for params in ({"kind": "x"}, {"state": "x"}, {"owner": "x"}, {"account": "a:b"}):
        assert (await api.get("breaks", api.operator, **params)).status_code == 422


@pytest.mark.usefixtures("api")
async def test_accounts_have_their_turn_and_a_run_goes_by_itself(
    side: StripeSide, ledger: Database, log: MemoryLog
) -> None:
    await reconciling.enrol(ledger, TERMS.every)
    await reconciling.enrol(ledger, TERMS.every)
    async with ledger.maintenance() as tx:
        turns = await tx.fetch(
            "select tenant_id, mode, account from reconciliation_schedule order by account"
        )
        assert [tuple(row) for row in turns] == [
            (side.owner, "test", "acct_own"),
            (PLATFORM_TENANT_ID, "test", "platform"),
        ]
        await tx.execute("update reconciliation_schedule set next_at = now()")
    before = len(log.events(StatementRequested))
    await reconciling.begin_due(ledger, TERMS)
    await reconciling.begin_due(ledger, TERMS)
    await reconciling.advance_all(ledger, TERMS)
    await log.settle()
    asked = log.events(StatementRequested)[before:]
    assert {each.data.account for each in asked} == {"acct_own", "platform"}
    await reconciling.measure(ledger)
