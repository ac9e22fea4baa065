"""A request that is tried beside itself: whatever the order of looks, calls and burnt keys, it is paid once."""

import asyncio
from typing import Any

import pytest

from services.stripe_sync.client import StripeApi
from tests.services.stripe_sync.conftest import World
from tests.services.stripe_sync.test_unanswered import a_shop, burnt, let_worker_look

INTENTS = "/v1/payment_intents"


@pytest.mark.parametrize("second", ["the caller again", "the worker"])
async def test_a_look_that_found_nothing_is_repeated_once_the_key_is_burnt(
    world: World, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    """The look is over before the call of the first try has its effect, and told of only after its end."""
    # Given a call that has its effect, is answered with an error and burns the key,
    shop = await a_shop(world, "RAW_KEYS")
    shop.world.sandbox.fault(kind="error", method="POST", path=INTENTS, moment="after", count=1)
    called, looked, first_ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    post, list_all = StripeApi.post, StripeApi.list_all

    async def post_after_the_look(
        self: StripeApi, operation: str, path: str, *a: Any, **kw: Any
    ) -> Any:
        if path == INTENTS and not called.is_set():
            called.set()
            async with asyncio.timeout(30):
                await looked.wait()
        return await post(self, operation, path, *a, **kw)

    async def list_and_hold(self: StripeApi, operation: str, *a: Any, **kw: Any) -> Any:
        found = await list_all(self, operation, *a, **kw)
        if operation == "payment_intent.list" and not looked.is_set():
            looked.set()
            async with asyncio.timeout(30):
                await first_ended.wait()
        return found

    monkeypatch.setattr(StripeApi, "post", post_after_the_look)
    monkeypatch.setattr(StripeApi, "list_all", list_and_hold)

    # when a second try looks while that call is under way, and goes on after it,
    async def first_try() -> None:
        await shop.pay("order-1")
        first_ended.set()

    async with asyncio.TaskGroup() as tries:
        tries.create_task(first_try())
        await called.wait()
        if second == "the worker":
            await let_worker_look(shop)
        else:
            await shop.pay("order-1")

    # then the key is burnt and there is one charge of it, beside the one of the shop's first sale.
    assert await burnt(shop) == 1
    assert len(shop.listed("charges")) == 2
