"""Replays: stored, resumable, one at a time, seen by whom they concern; no effect twice."""

import asyncio
from typing import Any

import pytest

from libs.contracts.tenants import PLATFORM_TENANT_ID
from services.gateway import keeping, replays
from tests.services.gateway.conftest import ACME, ACME_CUSTOMER, GLOBEX, Gateway, about

EVENTS = "/api/v1/webhook-events"
PATH = "/api/v1/webhook-replays"


@pytest.fixture
async def filled(gateway: Gateway) -> Gateway:
    """Three events of acme and one of nobody."""
    for number in range(3):
        await gateway.send(about(id=f"in_{number}", customer=ACME_CUSTOMER))
    await gateway.send(about(id="in_unassigned", customer="cus_nobody"))
    return gateway


async def begin(gateway: Gateway, who: str, **body: Any) -> dict[str, Any]:
    """Begin a replay; its first answer."""
    answer = await gateway.post(f"{EVENTS}/replay", who, body)
    assert answer.status_code == 202, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def state_of(gateway: Gateway, who: str, replay: dict[str, Any]) -> dict[str, Any]:
    """How far it has come."""
    answer = await gateway.get(f"{PATH}/{replay['id']}", who)
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def sent_again(gateway: Gateway, replay: dict[str, Any]) -> list[Any]:
    """(tenant, object id, dry run) of what a replay has sent, in order."""
    return [
        (tenant_id, event["data"]["object_id"], event["data"]["dry_run"])
        for tenant_id, _, event in await gateway.published()
        if event["data"]["replay_id"] == replay["id"]
    ]


async def told(gateway: Gateway, action: str) -> list[Any]:
    """(tenant, actor, after) of configuration changes of a kind."""
    return [
        (tenant_id, event["data"]["actor"], event["data"]["after"])
        for tenant_id, event in await gateway.told("ConfigurationChanged")
        if event["data"]["action"] == action
    ]


async def test_a_replay_sends_what_was_chosen_again_under_its_own_id(filled: Gateway) -> None:
    replay = await begin(filled, "acme", object_id="in_1")
    assert (replay["state"], replay["counted"], replay["replayed"]) == ("running", False, 0)
    assert replay["tenant_id"] == str(ACME)
    assert await sent_again(filled, replay) == []
    await replays.run_once(filled.database)
    done = await state_of(filled, "acme", replay)
    assert (done["state"], done["replayed"]) == ("done", 1)
    assert (done["matched"], done["counted"]) == (1, True)
    assert done["finished_at"]
    assert await sent_again(filled, replay) == [(ACME, "in_1", False)]
    await replays.run_once(filled.database)
    assert len(await sent_again(filled, replay)) == 1
    assert await filled.count("webhook_event") == 4
    ((tenant_id, actor, after),) = await told(filled, "webhook_events.replayed")
    assert (tenant_id, actor) == (ACME, replay["started_by"])
    assert (after["object_id"], after["dry_run"]) == ("in_1", False)


async def test_a_dry_run_sends_with_the_flag(filled: Gateway) -> None:
    replay = await begin(filled, "acme", dry_run=True)
    await replays.run_once(filled.database)
    assert [dry for _, _, dry in await sent_again(filled, replay)] == [True, True, True]
    assert (await state_of(filled, "acme", replay))["dry_run"] is True


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ({}, ["in_0", "in_1", "in_2", "in_unassigned"]),
        ({"tenant_id": "acme"}, ["in_0", "in_1", "in_2"]),
        ({"tenant_id": str(PLATFORM_TENANT_ID)}, ["in_unassigned"]),
        ({"tenant_id": "globex"}, []),
        ({"type": "invoice.paid", "tenant_id": "acme"}, ["in_0", "in_1", "in_2"]),
        ({"type": "charge.failed"}, []),
        ({"received_to": "2026-01-01T00:00:00Z"}, []),
        ({"received_from": "2026-01-01T00:00:00Z", "object_id": "in_2"}, ["in_2"]),
    ],
)
async def test_an_operator_chooses_among_all_tenants(
    filled: Gateway, body: dict[str, Any], sent: list[str]
) -> None:
    replay = await begin(filled, "operator", **body)
    await replays.run_once(filled.database)
    assert [object_id for _, object_id, _ in await sent_again(filled, replay)] == sent
    done = await state_of(filled, "operator", replay)
    assert (done["state"], done["matched"]) == ("done", len(sent))


async def test_by_id_only_what_is_ones_own(filled: Gateway) -> None:
    items = (await filled.get(EVENTS, "acme")).json()["items"]
    ids = [item["id"] for item in items[:2]]
    strangers = await begin(filled, "globex", ids=ids)
    own = await begin(filled, "acme", ids=ids)
    await replays.run_once(filled.database)
    done = await state_of(filled, "globex", strangers)
    assert (done["matched"], done["state"]) == (0, "done")
    assert [object_id for _, object_id, _ in await sent_again(filled, own)] == ["in_1", "in_2"]


async def test_one_at_a_time_and_canceling_ends_it(filled: Gateway) -> None:
    first = await begin(filled, "acme")
    second = await filled.post(f"{EVENTS}/replay", "acme", {"dry_run": True})
    assert (second.status_code, second.json()["code"]) == (409, "replay_running")
    assert (await begin(filled, "operator"))["state"] == "running"
    for _ in range(2):
        canceled = await filled.post(f"{PATH}/{first['id']}/cancel", "acme", {})
        assert (canceled.status_code, canceled.json()["state"]) == (200, "canceled")
    await replays.run_once(filled.database)
    assert await sent_again(filled, first) == []
    assert len(await told(filled, "webhook_events.replay_canceled")) == 1
    assert await filled.told("WebhookReplayCanceled") == [], "it was none that is only tried"
    tried = await begin(filled, "globex", dry_run=True)
    await filled.post(f"{PATH}/{tried['id']}/cancel", "globex", {})
    ((tenant_id, event),) = await filled.told("WebhookReplayCanceled")
    assert (tenant_id, event["data"]) == (GLOBEX, {"replay_id": tried["id"]})
    third = await begin(filled, "acme")
    await replays.run_once(filled.database)
    late = await filled.post(f"{PATH}/{third['id']}/cancel", "acme", {})
    assert (late.status_code, late.json()["code"]) == (409, "replay_done")


async def test_the_same_key_begins_one_replay(filled: Gateway) -> None:
    headers = {"authorization": f"Bearer {filled.keys['acme']}", "idempotency-key": "once"}
    answers = [
        await filled.client.post(f"{EVENTS}/replay", headers=headers, json={}) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json()["id"] == answers[1].json()["id"]


async def test_killed_after_any_batch_it_goes_on_and_sends_nothing_twice(
    filled: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "BATCH_EVENTS", 2)
    replay = await begin(filled, "operator")
    publish = keeping.publish
    killed = 0

    def publish_until_killed(*arguments: Any, **words: Any) -> None:
        nonlocal killed
        publish(*arguments, **words)
        if killed < 3:
            killed += 1
            raise KeyboardInterrupt

    monkeypatch.setattr(keeping, "publish", publish_until_killed)
    progress = []
    for _ in range(7):
        try:
            await replays.run_once(filled.database, batches_max=1)
        except KeyboardInterrupt:
            continue
        progress.append((await state_of(filled, "operator", replay))["replayed"])
    assert killed == 3
    assert progress == [0, 2, 4, 4], "the first turn counts"
    assert [object_id for _, object_id, _ in await sent_again(filled, replay)] == [
        "in_0",
        "in_1",
        "in_2",
        "in_unassigned",
    ]
    assert (await state_of(filled, "operator", replay))["state"] == "done"


async def test_a_large_archive_is_counted_page_by_page(
    filled: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "COUNTED_EVENTS", 2)
    replay = await begin(filled, "operator", object_id="in_2")
    told = []
    for _ in range(4):
        await replays.run_once(filled.database, batches_max=1)
        now = await state_of(filled, "operator", replay)
        told.append((now["matched"], now["counted"], now["state"]))
    assert told == [
        (0, False, "running"),
        (1, False, "running"),
        (1, True, "running"),
        (1, True, "done"),
    ]
    assert [object_id for _, object_id, _ in await sent_again(filled, replay)] == ["in_2"]


async def test_what_the_release_before_counted_is_not_counted_twice(filled: Gateway) -> None:
    """It may still run, and counts all when a replay begins."""
    replay = await begin(filled, "acme", object_id="in_1")
    async with filled.database.tenant(ACME, "test") as tx:
        await tx.execute("update webhook_replay set matched = 1")
    await replays.run_once(filled.database)
    assert (await state_of(filled, "acme", replay))["matched"] == 1


async def test_of_more_replays_than_run_at_once_each_has_its_turn(
    filled: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "REPLAYS_AT_ONCE_MAX", 1)
    monkeypatch.setattr(replays, "BATCH_EVENTS", 1)
    first, second = await begin(filled, "acme"), await begin(filled, "operator")
    for _ in range(4):
        await replays.run_once(filled.database, batches_max=1)
    sent = [(await state_of(filled, "operator", each))["replayed"] for each in (first, second)]
    assert sent == [1, 1], "neither waits for the end of the other"


async def test_many_gateways_share_one_replay(
    filled: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "BATCH_EVENTS", 1)
    replay = await begin(filled, "operator")
    for _ in range(6):
        await asyncio.gather(*(replays.run_once(filled.database) for _ in range(3)))
    assert len(await sent_again(filled, replay)) == 4


async def test_a_replay_waits_while_much_waits_for_kafka(
    filled: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "UNSENT_EVENTS_MAX", 3)
    replay = await begin(filled, "acme")
    await replays.run_once(filled.database)
    assert (await state_of(filled, "acme", replay))["replayed"] == 0
    async with filled.database.maintenance() as tx:
        await tx.execute("update outbox set sent_at = now()")
    await replays.run_once(filled.database)
    assert (await state_of(filled, "acme", replay))["state"] == "done"


async def test_each_sees_its_own_replays(filled: Gateway) -> None:
    mine = await begin(filled, "acme")
    await begin(filled, "globex")
    everything = await begin(filled, "operator")
    assert everything["tenant_id"] is None
    listed = (await filled.get(PATH, "acme")).json()["items"]
    assert [item["id"] for item in listed] == [mine["id"]]
    first = (await filled.get(PATH, "operator", limit=2)).json()
    rest = (await filled.get(PATH, "operator", limit=2, cursor=first["next_cursor"])).json()
    assert [item["tenant_id"] for item in first["items"] + rest["items"]] == [
        None,
        str(GLOBEX),
        str(ACME),
    ]
    assert (await filled.get(f"{PATH}/{mine['id']}", "globex")).status_code == 404
    assert (await filled.post(f"{PATH}/{mine['id']}/cancel", "globex", {})).status_code == 404
    assert (await filled.get(f"{PATH}/{everything['id']}", "acme")).status_code == 404
    assert (await filled.get(f"{PATH}/rpl_nonsense", "acme")).status_code == 404
    by_staff = await filled.post(f"{PATH}/{mine['id']}/cancel", "operator", {})
    assert by_staff.json()["state"] == "canceled"


async def test_a_replay_of_nonsense_is_refused(filled: Gateway) -> None:
    for body, status in (
        ({"ids": ["x"]}, 422),
        ({"all": True}, 422),
        ({"type": "a\x00"}, 422),
        ({"tenant_id": "globex"}, 403),
        ({"tenant_id": "nobody-at-all"}, 403),
    ):
        answer = await filled.post(f"{EVENTS}/replay", "acme", body)
        assert answer.status_code == status, body
    unknown = await filled.post(f"{EVENTS}/replay", "operator", {"tenant_id": "nobody-at-all"})
    assert unknown.status_code == 404
    assert (await filled.post(f"{EVENTS}/replay", "weak", {})).status_code == 403
    assert (await filled.get(PATH, "weak")).status_code == 403
