"""Many lost payments of one payer are looked for in one list."""

from collections.abc import Sequence
from typing import Any

import pytest

from libs.db.pool import Row
from libs.ids import new_id
from libs.observability.metrics import STRIPE_REQUESTS_TOTAL
from services.stripe_sync import janitor, lookups, requests
from services.stripe_sync.client import StripeApi
from tests.services.stripe_sync.conftest import World
from tests.services.stripe_sync.paying import open_shop
from tests.services.stripe_sync.test_unanswered import let_worker_look

UNKEPT: dict[str, Any] = {
    "kind": "error",
    "path": "/v1/payment_intents",
    "status": 502,
    "stored": False,
    "count": 9,
}
"""An answer from in front of Stripe's servers, which the same key does not bring again."""


def lists_asked_for() -> float:
    counted = STRIPE_REQUESTS_TOTAL.labels(operation="payment_intent.list", outcome="ok")
    return float(counted._value.get())


@pytest.mark.parametrize("kind", ["RAW_KEYS", "CONNECT_STANDARD"])
async def test_one_list_tells_of_all_that_was_lost(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    # Given payments of one payer, some made and some not, whose answers nobody saw
    monkeypatch.setattr(requests, "PAUSES_SECONDS", ())
    shop = await open_shop(world, kind)
    lost = []
    for place, moment in enumerate(("before", "after", "before", "after", "after")):
        world.sandbox.fault(**UNKEPT, moment=moment)
        answer = await shop.pay(f"order-{place}")
        assert (answer.status_code, answer.json()["status"]) == (202, "UNKNOWN")
        lost.append(answer.json()["id"])
        world.sandbox.mend()
    assert len(shop.listed("charges")) == 3
    before = lists_asked_for()
    # when the worker looks
    await let_worker_look(shop)
    # then one list was enough, and each was made once.
    assert lists_asked_for() - before == 1
    assert len(shop.listed("charges")) == 5
    for payment in lost:
        assert (await shop.get(f"payments/{payment}"))["status"] == "COMPLETED"


async def test_what_was_declined_on_the_second_try_is_found_as_it_is_then(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two payments that never reached Stripe, of a payer whose card is declined
    monkeypatch.setattr(requests, "PAUSES_SECONDS", ())
    shop = await open_shop(world, "RAW_KEYS")
    world.sandbox.fault(**UNKEPT, moment="before")
    lost = [
        (await shop.pay(f"order-{place}", payment_method="pm_card_visa_chargeDeclined")).json()[
            "id"
        ]
        for place in range(2)
    ]
    world.sandbox.mend()
    # when the worker looks, finds nothing, and sends them again
    await let_worker_look(shop)
    # then each names the intent that its decline left, though the list was made before.
    for payment in lost:
        told = await shop.get(f"payments/{payment}")
        assert told["status"] == "FAILED"
        assert told["stripe_payment_intent_id"]


async def test_what_appears_after_the_list_is_not_made_again_under_another_key(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two payments whose keys are burnt, and that show at Stripe only after the list
    shop = await open_shop(world, "RAW_KEYS")
    world.sandbox.fault(kind="error", path="/v1/payment_intents", moment="before", count=9)
    lost = [(await shop.pay(f"order-{place}")).json()["id"] for place in range(2)]
    world.sandbox.mend()
    assert len(await world.rows("burnt_key")) == 2

    async def listed_too_early(api: StripeApi, rows: Sequence[Row]) -> lookups.Listed:
        listed = await lookups.list_together(api, rows)
        for row in rows:
            wish = row["request"]
            await api.post("late", wish["path"], wish["params"], idempotency_key=str(new_id()))
        return listed

    monkeypatch.setattr(janitor, "list_together", listed_too_early)
    # when the worker sends what its list did not have
    await let_worker_look(shop)
    # then it has looked at each once more, and there is one of each.
    assert len(shop.listed("payment_intents")) == 2
    for payment in lost:
        assert (await shop.get(f"payments/{payment}"))["status"] == "COMPLETED"
