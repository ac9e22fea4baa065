"""Synchronizing a whole account anew: every list of it is read, and what differs is fetched.

A run is a row and the walks of the account; it goes on where it stopped, whatever happens.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from libs.db.pool import Row, Tx
from libs.ids import new_id
from services.stripe_sync import store_resync
from services.stripe_sync.walks import WHOLE, whole_steps


@dataclass(frozen=True)
class Progress:
    """How far one kind of objects is.

    Attributes:
        listed: objects that Stripe listed so far.
        marked: of these, objects that were missing or differed.
    """

    kind: str
    listed: int
    marked: int
    done: bool
    last_error: str | None


async def start(tx: Tx, account: str, *, requested_by: str, now: datetime) -> Row:
    """Begin a run for an account of the tenant in scope, or join the one that is under way.

    Of a run that is joined the lists that were read already, or refused, are read once more: what
    is missed now may have come since.
    """
    steps = whole_steps(tx.mode)
    if not await store_resync.insert(tx, new_id(), account, requested_by, now):
        rows = await store_resync.walks_of(tx, account, tx.mode, steps)
        under_way = {row["step"] for row in rows if not row["done"]}
        steps = [step for step in steps if step not in under_way]
    await store_resync.begin_walks(tx, account, steps, now)
    run = await store_resync.running(tx, account)
    assert run is not None, "it was entered above, or was there"
    return run


async def end_where_done(tx: Tx, account: str, *, now: datetime) -> bool:
    """End the run of an account when every list was read; whether it ended now."""
    return await store_resync.end_where_done(tx, account, whole_steps(tx.mode), now)


async def find(tx: Tx, resync_id: UUID) -> Row | None:
    """A run in view."""
    return await store_resync.find(tx, resync_id)


async def progress(tx: Tx, run: Row) -> list[Progress]:
    """How far a run is, by kind of object, in the order in which they are read.

    Of one that is done: the kinds that Stripe refused to list.
    """
    steps = whole_steps(run["mode"])
    if run["state"] == "done":
        refused = run["refused"]
        return [
            Progress(step.removeprefix(WHOLE), 0, 0, done=True, last_error=refused[step])
            for step in steps
            if step in refused
        ]
    rows = await store_resync.walks_of(tx, run["account"], run["mode"], steps)
    by_step = {row["step"]: row for row in rows}
    return [
        Progress(
            step.removeprefix(WHOLE),
            by_step[step]["listed"],
            by_step[step]["counted"],
            by_step[step]["done"],
            by_step[step]["last_error"],
        )
        for step in steps
        if step in by_step
    ]
