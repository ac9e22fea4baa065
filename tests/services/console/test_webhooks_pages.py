"""Webhooks: found, looked at, given to their tenant, and replayed."""

from datetime import UTC, datetime

import httpx
import pytest

from tests.services.console.conftest import send, text_of
from tests.services.console.money_api import ACME, EVENT, REPLAY, event, replay
from tests.services.console.public_api import TENANTS, PublicApi, at, problem
from tests.services.console.test_payments_pages import words_of


async def test_events_are_found_by_what_the_form_says(member: httpx.AsyncClient, api: PublicApi):
    text = await text_of(member, "/webhooks")
    assert f'href="/webhooks/{EVENT}?tenant=acme"' in text
    assert "in_sim_1" in text
    query = "type=invoice.paid&object=in_1&assignment=unassigned&quarantined=true"
    text = await text_of(member, f"/webhooks?{query}&from=2026-02-01&to=2026-02-28")
    assert dict(httpx.URL(api.money.last()[1]).params) == {
        "limit": "50",
        "type": "invoice.paid",
        "object_id": "in_1",
        "assignment": "unassigned",
        "quarantined": "true",
        "received_from": "2026-02-01T00:00:00Z",
        "received_to": "2026-03-01T00:00:00Z",
    }
    assert 'value="2026-02-28"' in text
    assert "/webhooks/replays?tenant=acme&amp;type=invoice.paid" in text, "replay what was found"
    assert "must be a date" in await text_of(member, "/webhooks?from=soon", 422)
    api.money.empty = True
    assert "No event fits" in await text_of(member, "/webhooks?type=x")
    assert "Nothing has come in yet" in await text_of(member, "/webhooks")


async def test_an_event_shows_what_stripe_sent(member: httpx.AsyncClient):
    text = await text_of(member, f"/webhooks/{EVENT}")
    assert "&#34;id&#34;: &#34;evt_sim_1&#34;" in text
    assert "Stripe/1.0" in text
    assert "found by the Stripe account" in words_of(text)
    assert "<img src=x" not in text
    assert "Give it to its tenant" not in text
    await text_of(member, "/webhooks/whe_unknown", 404)


async def test_an_unassigned_event_is_given_to_its_tenant(
    operator: httpx.AsyncClient, api: PublicApi
):
    api.money.event = event(assignment="unassigned")
    assert "unassigned" in await text_of(operator, "/webhooks")
    assert "Give it to its tenant" in await text_of(operator, f"/webhooks/{EVENT}")
    answer = await send(operator, f"/webhooks/{EVENT}/assign", {"to_tenant": "globex"})
    assert answer.headers["location"] == f"/webhooks/{EVENT}?done=event_assigned"
    path = f"/api/v1/webhook-events/{EVENT}/assign"
    assert api.money.last() == ("POST", path, {"tenant_id": TENANTS["globex"]["id"]})
    api.refusing[path] = problem(404, "There is no such tenant.")
    refused = await send(operator, f"/webhooks/{EVENT}/assign", {"to_tenant": "nobody"})
    assert refused.status_code == 404
    assert "There is no such tenant." in refused.text


async def test_a_quarantined_event_says_why(member: httpx.AsyncClient, api: PublicApi):
    api.money.event = event(quarantine_reason="unknown_account")
    text = await text_of(member, f"/webhooks/{EVENT}")
    assert "no tenant has connected this Stripe account" in text
    assert "Try it without effect" not in text


async def test_staff_lets_go_what_is_kept_aside(operator: httpx.AsyncClient, api: PublicApi):
    api.money.event = event(quarantine_reason="livemode_mismatch", assignment="unassigned")
    page, path = f"/webhooks/{EVENT}", f"/api/v1/webhook-events/{EVENT}/release"
    text = await text_of(operator, page)
    assert "Let it go" in text
    assert "Give it to its tenant" not in text, "that would be refused"

    # First what that would do, of each of its three ends.
    for outcome, told in (
        ("stored", "It would be taken in for Globex"),
        ("duplicate", "The same event had come before"),
        ("quarantined", "a tenant that connects the account acct_sim_9"),
    ):
        api.money.released = {
            "outcome": outcome,
            "tenant_id": TENANTS["globex"]["id"],
            "account": "acct_sim_9",
        }
        seen = await send(operator, f"{page}/release", {"why": "Seen at <Stripe>", "really": ""})
        assert told in words_of(seen.text)
        assert 'value="Seen at &lt;Stripe&gt;"' in seen.text, "what was typed stays"
        assert api.money.last()[1:] == (path, {"why": "Seen at <Stripe>", "dry_run": True})

    answer = await send(operator, f"{page}/release", {"why": "Seen at Stripe", "really": "yes"})
    assert answer.headers["location"] == f"{page}?done=event_released"
    assert api.money.last() == ("POST", path, {"why": "Seen at Stripe"})
    api.refusing[path] = problem(409, "The event is not kept aside.")
    for really in ("", "yes"):
        refused = await send(operator, f"{page}/release", {"why": "again", "really": really})
        assert refused.status_code == 409
        assert "The event is not kept aside." in refused.text


async def test_what_is_not_for_staff_to_let_go_has_no_form(
    operator: httpx.AsyncClient, member: httpx.AsyncClient, api: PublicApi
):
    for reason in (None, "unknown_account", "released"):
        api.money.event = event(quarantine_reason=reason)
        text = await text_of(operator, f"/webhooks/{EVENT}")
        assert "Let it go" not in text
        assert ("let go</span>" in text) == (reason == "released")
    api.money.event = event(quarantine_reason="account_missing")
    assert "Let it go" not in await text_of(member, f"/webhooks/{EVENT}")


async def test_a_replay_is_tried_without_effect_first(member: httpx.AsyncClient, api: PublicApi):
    form = {"event": f"{EVENT}, {EVENT}", "kind": "invoice.paid", "object_id": " in_1 "}
    days = {"begin": "2026-02-01", "end": "2026-02-01", "once": "0192-cd"}
    answer = await send(member, "/webhooks/replays", {**form, **days})
    goal = f"/webhooks/replays/{REPLAY}?tenant=acme&event={EVENT}+{EVENT}"
    assert answer.headers["location"] == goal
    assert api.money.last()[2] == {
        "ids": [EVENT, EVENT],
        "type": "invoice.paid",
        "object_id": "in_1",
        "received_from": "2026-02-01T00:00:00Z",
        "received_to": "2026-02-02T00:00:00Z",
        "dry_run": True,
    }
    assert api.money.told[-1][3]["idempotency-key"] == "0192-cd"
    text = await text_of(member, f"/webhooks/replays/{REPLAY}")
    for shown in (
        "3 of 3 events",
        "1 differs",
        '"open"',
        '"paid"',
        "1 could not be compared",
        "rate limited",
        "Replay for real",
    ):
        assert shown in text.replace("&#34;", '"')
    answer = await send(member, f"/webhooks/replays/{REPLAY}/run", {"once": "0192-ef"})
    assert answer.headers["location"] == f"/webhooks/replays/{REPLAY}?tenant=acme"
    assert api.money.last()[2] == {
        "type": "invoice.paid",
        "received_from": "2026-02-01T00:00:00Z",
        "dry_run": False,
    }


async def test_events_named_one_by_one_are_replayed_as_they_were_tried(
    member: httpx.AsyncClient, api: PublicApi
):
    api.money.replay = replay(ids=1, type=None, received_from=None)
    text = await text_of(member, f"/webhooks/replays/{REPLAY}?event={EVENT}")
    assert f'name="event" value="{EVENT}"' in text
    assert "named events <code>1</code>" in text
    refused = await send(member, f"/webhooks/replays/{REPLAY}/run")
    assert refused.status_code == 409
    assert api.money.told == []
    answer = await send(member, f"/webhooks/replays/{REPLAY}/run", {"event": EVENT})
    assert answer.status_code == 303
    assert api.money.last()[2] == {"ids": [EVENT], "dry_run": False}


async def test_progress_renews_itself_until_it_is_done(member: httpx.AsyncClient, api: PublicApi):
    api.money.replay = replay(state="running", dry_run=False, replayed=1)
    text = await text_of(member, f"/webhooks/replays/{REPLAY}")
    assert f'data-live="/webhooks/replays/{REPLAY}?tenant=acme&amp;part=progress"' in text
    assert "data-settled" not in text
    part = await text_of(member, f"/webhooks/replays/{REPLAY}?part=progress")
    assert "<html" not in part
    assert "1 of 3 events" in part
    api.money.replay |= {"counted": False, "matched": 0, "replayed": 0}
    assert "Counting" in await text_of(member, f"/webhooks/replays/{REPLAY}?part=progress")
    answer = await send(member, f"/webhooks/replays/{REPLAY}/cancel")
    assert answer.headers["location"].endswith("done=replay_canceled")
    assert api.money.last()[1] == f"/api/v1/webhook-replays/{REPLAY}/cancel"
    api.money.replay, api.money.pending = replay(), 2
    assert "data-settled" not in await text_of(member, f"/webhooks/replays/{REPLAY}")
    api.money.pending, api.money.compared = 0, False
    text = await text_of(member, f"/webhooks/replays/{REPLAY}")
    assert "about nothing that is kept here" in text
    api.money.replay = replay(finished_at=at(datetime.now(UTC)))
    assert "being read at Stripe" in await text_of(member, f"/webhooks/replays/{REPLAY}")
    api.money.replay, api.money.compared = replay(), True
    assert "data-settled" in await text_of(member, f"/webhooks/replays/{REPLAY}")


async def test_runs_are_listed_with_the_form_filled_in(member: httpx.AsyncClient, api: PublicApi):
    text = await text_of(member, "/webhooks/replays?type=invoice.paid&from=2026-02-01")
    assert 'value="invoice.paid"' in text
    assert 'value="2026-02-01"' in text
    assert f'href="/webhooks/replays/{REPLAY}?tenant=acme"' in text
    assert "dry run" in text
    api.refusing["/api/v1/webhook-events/replay"] = problem(409, "One is running already.")
    answer = await send(member, "/webhooks/replays", {"kind": "invoice.paid"})
    assert answer.status_code == 409
    assert "One is running already." in answer.text
    assert 'value="invoice.paid"' in answer.text


@pytest.mark.parametrize("path", ["/webhooks", "/webhooks/replays", f"/webhooks/{EVENT}"])
async def test_an_operator_sees_everybody_s(operator: httpx.AsyncClient, api: PublicApi, path: str):
    text = await text_of(operator, path)
    assert "Traceback" not in text
    told = api.seen[-1]
    assert told[2].get("x-tenant-id") is None
    assert ACME not in text or path != "/webhooks", "a tenant is called by its name"
