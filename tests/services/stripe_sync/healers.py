"""Healing in tests: walks made due, run to their end, and a gateway that takes found events in."""

import json
from datetime import timedelta
from typing import Any

from libs.clock import utc_now
from libs.contracts.stripe_sync import StripeEventFound
from libs.directory.local import Directory
from services.stripe_sync.healing import AccountHealer, Healing
from services.stripe_sync.settings import Settings
from tests.services.stripe_sync.conftest import World

PAGES_MAX = 500


def patient(world: World, **changes: Any) -> Settings:
    """The settings, with which every event may be found at once."""
    settings: Settings = world.app.state.settings
    return settings.model_copy(update={"found_after_seconds": 0.0} | changes)


async def enrol(world: World, **changes: Any) -> None:
    """Give every account its walks."""
    directory = Directory(world.database)
    await Healing(world.database, directory, world.identities, patient(world, **changes)).enrol()


async def make_due(world: World, *steps: str) -> None:
    """Only these walks are due, of every account."""
    async with world.database.transaction() as tx:
        now = utc_now()
        await tx.execute("update walk set next_at = $1", now + timedelta(days=1))
        await tx.execute(
            "update walk set next_at = $1 where step = any($2)", now - timedelta(seconds=1), steps
        )


async def run(world: World, account: str = "platform", **changes: Any) -> int:
    """Read what is due of an account; how many pages that were."""
    identity = await world.identities.of(account, "test")
    assert identity is not None
    healer = AccountHealer(
        world.database, Directory(world.database), patient(world, **changes), identity
    )
    return await healer.run_once()


async def heal(world: World, *steps: str, account: str = "platform", settles: bool = True) -> None:
    """Enrol, and run these walks of an account to their end."""
    await enrol(world)
    await make_due(world, *steps)
    await run(world, account)
    if settles:
        await world.settle()


async def take_found(world: World, since: int = 0) -> int:
    """Take found events in as the gateway does; how many were found so far."""
    await world.log.settle()
    found = world.log.events(StripeEventFound)
    world.deliver([json.loads(event.data.payload) for event in found[since:]])
    await world.settle()
    return len(found)
