"""Ids that a user chose at Stripe, for products and their kin, are ids like any other."""

import pytest

from services.stripe_sync.fetching import path_of
from tests.services.stripe_sync.accounts import own_account
from tests.services.stripe_sync.conftest import World


@pytest.mark.parametrize("chosen", ["gold-plan", "basic.monthly", "eu:gold+plan@2"])
async def test_an_object_whose_id_was_chosen_is_mirrored(world: World, chosen: str) -> None:
    own = await own_account(world, "acme")
    await world.settle()
    created = world.sandbox.client.post(
        "/v1/products",
        data={"id": chosen, "name": "Gold"},
        headers={"authorization": f"Bearer {own.key}"},
    )
    assert created.status_code == 200, created.text
    for event in own.events():
        own.deliver(event)
    await world.settle()
    kept = {row["object_id"] for row in await world.rows("stripe_object")}
    assert chosen in kept


@pytest.mark.parametrize("odd", ["a/../b", "..", ".", "a?b", "a#b", "a%2fb", "a b", "é", ""])
async def test_what_would_lead_elsewhere_is_not_fetched(world: World, odd: str) -> None:
    own = await own_account(world, "acme")
    await world.settle()
    event = {
        "id": "evt_odd",
        "type": "product.updated",
        "api_version": None,
        "created": 1_790_000_000,
        "data": {"object": {"object": "product", "id": odd}},
    }
    own.deliver(event)
    await world.log.settle()
    assert await world.rows("dirty_object") == []


def test_whatever_can_be_printed_stays_one_segment() -> None:
    assert path_of("product", "a/b c?d") == "/v1/products/a%2Fb%20c%3Fd"
