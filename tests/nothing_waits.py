"""What holds of a stack that has come to rest."""

import asyncio
import time

from cli.api import eventually
from cli.status import Status, read_status
from deploy.local.stack import Stack

SENT_WITHIN_SECONDS = 30
"""Far more than a relay's round: an event older than that does not leave."""


async def nothing_waits(stack: Stack) -> Status:
    """Every event is sent, none is parked and none is a dead letter; what the status says.

    A clock may tell something at any moment, so that one event is on its way however long the stack
    was at rest: what is unsent has time to leave, what is put aside has none.
    """
    deadline = time.monotonic() + SENT_WITHIN_SECONDS
    while (status := await read_status(stack)).outbox_unsent != 0 and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    assert (status.outbox_unsent, status.parked, status.dead_letters) == (0, 0, 0)
    return status


async def everything_is_ready(stack: Stack) -> None:
    """Every program says that it can do its work, as soon as a busy machine lets it answer in time."""

    async def ready() -> bool:
        return (await read_status(stack)).ready

    await eventually("every program's readiness", ready)
