"""All 64 ways to lose some of six events of a subscription's life: what is lost is found, once.

Each way is a life of its own, as in `test_every_order`. What never came as a webhook is found in
Stripe's list of events, and goes in by the gateway's door.
"""

import random
from contextlib import AsyncExitStack
from typing import cast

from libs.contracts.stripe_sync import StripeEventFound
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.directory.local import Directory
from services.gateway.handlers import HANDLERS as GATEWAY_HANDLERS
from services.ledger.handlers import HANDLERS as LEDGER_HANDLERS
from services.stripe_sync.client import StripeApi
from services.stripe_sync.healing import AccountHealer
from services.stripe_sync.identities import Identity
from services.stripe_sync.refresh import AccountWorker
from tests.services.stripe_sync.conftest import World
from tests.services.stripe_sync.healers import enrol, make_due, patient
from tests.services.stripe_sync.recording import Playback, fill
from tests.services.stripe_sync.test_every_order import (
    EVENTS,
    arrive,
    be_born,
    check_one_end,
    come_to_rest,
    live_once,
)

WAYS = [{at for at in range(EVENTS) if way >> at & 1} for way in range(2**EVENTS)]
"""The events that are lost, from none to all of them."""


async def test_whatever_of_a_life_is_lost_gap_fill_leads_to_the_same_end(world: World) -> None:
    async with AsyncExitStack() as stack:
        for service, handlers in (("ledger", LEDGER_HANDLERS), ("gateway", GATEWAY_HANDLERS)):
            database = await stack.enter_async_context(world.test_database.open(service))
            world.log.add(database, handlers)
        recording, customer = await live_once(world)
        lives = await be_born(world, customer, len(WAYS))
        events = [[fill(event, life) for event in recording.events] for life in lives]
        playback = Playback(recording, lives)
        identity = Identity("platform", "test", PLATFORM_TENANT_ID, cast(StripeApi, playback))
        directory = Directory(world.database)
        worker = AccountWorker(world.database, directory, identity)

        # Given lives of which some events never come, and all the others in any order,
        playback.stages = {life.number: EVENTS - 1 for life in lives}
        coming = [
            event
            for own, lost in zip(events, WAYS, strict=True)
            for at, event in enumerate(own)
            if at not in lost
        ]
        random.Random(64).shuffle(coming)
        for event in coming:
            arrive(world, event, event["id"])
        await come_to_rest(world, worker)

        # when Stripe's list is read, and once more,
        playback.listed = [event for own in events for event in reversed(own)]
        healer = AccountHealer(world.database, directory, patient(world), identity)
        await enrol(world)
        for _ in range(2):
            await make_due(world, "events")
            assert await healer.run_once() > 1, "it has several pages"
            await come_to_rest(world, worker)

        # then exactly what was lost was found, once, and all lives have ended alike.
        found = sorted(each.data.stripe_event_id for each in world.log.events(StripeEventFound))
        missing = {event["id"] for own in events for event in own} - {e["id"] for e in coming}
        assert found == sorted(missing)
        assert len(found) == len(WAYS) * EVENTS // 2
        await check_one_end(world, lives, WAYS)
