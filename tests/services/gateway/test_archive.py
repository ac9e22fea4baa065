"""The archive over HTTP: each sees its own, the platform's staff sees all and replays."""

import json

import pytest

from libs.contracts.tenants import PLATFORM_TENANT_ID
from tests.services.gateway.conftest import ACME, ACME_CUSTOMER, Gateway, about

PATH = "/api/v1/webhook-events"


@pytest.fixture
async def filled(gateway: Gateway) -> Gateway:
    for number in range(3):
        await gateway.send(about(id=f"in_{number}", customer=ACME_CUSTOMER))
    await gateway.send(about(id="in_unassigned", customer="cus_nobody"))
    return gateway


async def test_a_tenant_sees_its_own_events_in_pages(filled: Gateway) -> None:
    first = (await filled.get(PATH, "acme", limit=2)).json()
    rest = (await filled.get(PATH, "acme", limit=2, cursor=first["next_cursor"])).json()
    assert [item["object_id"] for item in first["items"] + rest["items"]] == [
        "in_2",
        "in_1",
        "in_0",
    ]
    assert rest["next_cursor"] is None
    assert (await filled.get(PATH, "globex")).json()["items"] == []
    item = first["items"][0]
    assert item["tenant_id"] == str(ACME)
    detail = (await filled.get(f"{PATH}/{item['id']}", "acme")).json()
    assert detail["payload"]["data"]["object"]["id"] == "in_2"


async def test_half_a_surrogate_pair_is_shown_and_breaks_nothing(gateway: Gateway) -> None:
    await gateway.send(about(id="in_odd", customer=ACME_CUSTOMER, description="a\ud800b"))
    (item,) = (await gateway.get(PATH, "acme")).json()["items"]
    detail = await gateway.get(f"{PATH}/{item['id']}", "acme")
    assert detail.json()["payload"]["data"]["object"]["description"] == "a?b"


async def test_a_number_that_no_answer_can_carry_is_shown_as_its_text(gateway: Gateway) -> None:
    event = json.dumps(about(customer=ACME_CUSTOMER, odd="MARK")).replace('"MARK"', "1e400")
    await gateway.send(event.encode())
    (item,) = (await gateway.get(PATH, "acme")).json()["items"]
    detail = await gateway.get(f"{PATH}/{item['id']}", "acme")
    assert detail.json()["payload"]["data"]["object"]["odd"] == "1e400"


@pytest.mark.parametrize("depth", [97, 98, 240, 300, 850])
@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"}[": ', "}")])
async def test_what_is_nested_too_deep_is_shown_as_its_text(
    gateway: Gateway, depth: int, opens: str, closes: str
) -> None:
    # Given an event with something that deep, under three levels of its own,
    deep = opens * depth + '"]\\"["' + closes * depth
    event = json.dumps(about(customer=ACME_CUSTOMER, deep="MARK", after=[1])).replace(
        '"MARK"', deep
    )
    assert (await gateway.send(event.encode())).json() == {"status": "stored"}
    # when somebody inspects it,
    (item,) = (await gateway.get(PATH, "acme")).json()["items"]
    detail = await gateway.get(f"{PATH}/{item['id']}", "acme")
    # then it is all there, the deepest of it as text, and what follows stands where it stood.
    assert detail.status_code == 200, detail.text
    shown = detail.json()["payload"]["data"]["object"]
    levels, inner = 0, shown["deep"]
    while not isinstance(inner, str):
        inner, levels = (inner[0] if isinstance(inner, list) else inner["}["]), levels + 1
    assert levels == min(depth, 97)
    below = depth - levels
    assert inner == (opens * below + '"]\\"["' + closes * below if below else ']"[')
    assert shown["after"] == [1]
    (kept,) = await gateway.archived()
    assert kept["payload"] == event.encode()


async def test_another_tenants_event_is_absent(filled: Gateway) -> None:
    item = (await filled.get(PATH, "acme")).json()["items"][0]
    assert (await filled.get(f"{PATH}/{item['id']}", "globex")).status_code == 404
    assert (await filled.get(f"{PATH}/whe_nonsense", "acme")).status_code == 404


async def test_an_operator_sees_everything_and_what_is_unassigned(filled: Gateway) -> None:
    assert len((await filled.get(PATH, "operator")).json()["items"]) == 4
    (item,) = (await filled.get(PATH, "operator", assignment="unassigned")).json()["items"]
    assert item["tenant_id"] == str(PLATFORM_TENANT_ID)
    assert item["object_id"] == "in_unassigned"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{PATH}?limit=0", 422),
        (f"{PATH}?limit=100000", 422),
        (f"{PATH}?cursor=junk", 400),
        (f"{PATH}?received_from=yesterday", 422),
    ],
)
async def test_bad_questions(filled: Gateway, path: str, status: int) -> None:
    assert (await filled.get(path, "acme")).status_code == status


async def test_who_may_not(filled: Gateway) -> None:
    assert (await filled.client.get(PATH)).status_code == 401
    assert (await filled.get(PATH, "weak")).status_code == 403
    assert (await filled.post(f"{PATH}/replay", "weak", {})).status_code == 403
