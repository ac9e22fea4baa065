"""Rotation of keys that seal: of the master key, and of a tenant's data key.

Master key: every data key is wrapped anew under the newest master key, and the secrets of tenants
are told again; the old master key may go when every holder has told that it has them.
Data key: a new one is made, every value of the tenant is sealed anew under it, the secrets are told
again, and the old ones are deleted when nothing names them.

Each step is bounded, stands in the database when it is done, and may be killed anywhere: what was
done is seen in the rows themselves and is not done again. Reading and sealing go on meanwhile.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import structlog

from libs.contracts.audit import ConfigurationChanged, SecretsHeld
from libs.contracts.envelope import Mode
from libs.contracts.tenants import TenantSecrets
from libs.contracts.topics import TOPIC_OF
from libs.crypto.errors import MasterKeyUnavailableError, SealedValueError
from libs.crypto.sealed import DataKey
from libs.db.pool import Database, Row, Tx
from libs.ids import new_id, public_id
from libs.messaging.outbox import emit
from services.tenants import secrets, store_data_keys, store_sealed
from services.tenants import store_rotation as store
from services.tenants.sealing import Place, Sealer

log = structlog.get_logger()

Kind = Literal["master", "data"]

PAGE = 50
PAGES_MAX = 20
OPEN_MAX = 20
MODES: tuple[Mode, ...] = ("test", "live")
RETRY = timedelta(seconds=30)
GRACE = timedelta(minutes=1)
"""A data key that was just replaced is kept so long for those who are sealing under it."""
HOLDERS = TOPIC_OF[TenantSecrets].consumers


class RotationUnderWayError(Exception):
    """A rotation of this kind is under way."""


@dataclass(frozen=True)
class Progress:
    """How far a rotation has come.

    Attributes:
        total: data keys there are (master), or None where it is not known beforehand.
        done: data keys wrapped anew, or values sealed anew.
        waiting_for_holders: tenants of which some service does not hold the new record yet.
    """

    row: Row
    total: int | None
    done: int
    waiting_for_holders: int


async def begin(tx: Tx, kind: Kind, actor: str, at: datetime) -> Row:
    """Begin a rotation for the tenant in scope (the platform for the master key).

    Raises:
        RotationUnderWayError: wait for it to end.
    """
    row = await store.insert_rotation(tx, new_id(), kind, actor, at)
    if row is None:
        raise RotationUnderWayError
    emit(
        tx,
        ConfigurationChanged(
            action=f"{kind}_key.rotation_started",
            actor=actor,
            object_id=public_id("key_rotation", row["rotation_id"]),
            after={"kind": kind},
        ),
        effective_at=at,
    )
    return row


async def read_progress(tx: Tx, rotation_id: UUID) -> Progress | None:
    """How far a rotation has come; as the maintenance role."""
    row = await store.find_rotation(tx, rotation_id)
    return None if row is None else await _progress(tx, row)


async def list_progress(tx: Tx, before: tuple[datetime, UUID] | None, limit: int) -> list[Progress]:
    """How far rotations have come, the newest first; as the maintenance role."""
    return [await _progress(tx, row) for row in await store.list_rotations(tx, before, limit)]


async def _progress(tx: Tx, row: Row) -> Progress:
    rotation_id = row["rotation_id"]
    waiting = await store.count_waiting(tx, rotation_id, HOLDERS)
    if row["kind"] == "data":
        return Progress(row, None, row["done_count"], waiting)
    if row["finished_at"] is not None:
        return Progress(row, row["done_count"], row["done_count"], waiting)
    total, left = await store_data_keys.count_to_wrap(tx, row["started_at"], row["newest_id"])
    return Progress(row, total, total - left, waiting)


async def note_holder(tx: Tx, told: SecretsHeld) -> None:
    """A service holds this version of the tenant's secrets."""
    await store.note_holder(tx, told.service, told.version)


async def run_once(
    database: Database, sealer: Sealer, now: datetime, *, grace: timedelta = GRACE
) -> None:
    """One bounded step of the open rotations whose last turn is longest ago.

    Raises:
        MasterKeyUnavailableError: noted with the rotation; it goes on by itself later.
    """
    async with database.maintenance() as tx:
        rows = await store.take_turns(tx, now, OPEN_MAX)
    for row in rows:
        try:
            if row["kind"] == "master":
                await _wrap_anew(database, sealer, row, now)
            else:
                await _seal_anew(database, sealer, row, now, grace)
        except (MasterKeyUnavailableError, SealedValueError) as error:
            async with database.tenant(row["tenant_id"], None) as tx:
                await store.note_failure(tx, row["rotation_id"], str(error), now + RETRY)
            if isinstance(error, MasterKeyUnavailableError):
                raise


async def _wrap_anew(database: Database, sealer: Sealer, row: Row, now: datetime) -> None:
    """A page of data keys under the newest master key; then wait for the holders; then done."""
    rotation_id = row["rotation_id"]
    newest_id = await sealer.data_keys.master_keys.newest_id()
    if row["newest_id"] != newest_id:
        async with database.tenant(row["tenant_id"], None) as tx:
            await store.set_newest_id(tx, rotation_id, newest_id)
    after: tuple[UUID, UUID] | None = None
    stuck = 0
    for _ in range(PAGES_MAX):
        async with database.maintenance() as tx:
            page = await store_data_keys.data_keys_to_wrap(
                tx, row["started_at"], newest_id, after, PAGE
            )
        for old in page:
            stuck += not await _wrap_one(database, sealer, rotation_id, old, now)
            after = (old.tenant_id, old.id)
        if len(page) < PAGE:
            break
    else:
        return
    if stuck:
        raise SealedValueError(f"{stuck} data keys do not open under any master key here")
    async with database.maintenance() as tx:
        waiting = await store.count_waiting(tx, rotation_id, HOLDERS)
    async with database.maintenance() as tx:
        total, _ = await store_data_keys.count_to_wrap(tx, row["started_at"], newest_id)
    async with database.tenant(row["tenant_id"], None) as tx:
        if await _enter(tx, row, "waiting" if waiting else "done", now) and not waiting:
            await store.add_done(tx, rotation_id, total)


async def _wrap_one(
    database: Database, sealer: Sealer, rotation_id: UUID, old: DataKey, now: datetime
) -> bool:
    """Wrap a data key anew and tell its holders; False when it does not open."""
    try:
        new = await sealer.data_keys.rewrap(old)
    except SealedValueError as error:
        log.error(  # noqa: TRY400 - the trace says no more
            "data_key_does_not_open",
            tenant_id=str(old.tenant_id),
            data_key_id=str(old.id),
            reason=type(error).__name__,
        )
        return False
    async with database.tenant(old.tenant_id, None) as tx:
        if await store_data_keys.replace_wrapped(tx, old, new, now) and await store.has_secrets(tx):
            await store.note_told(tx, rotation_id, await secrets.publish_secrets(tx, now))
    return True


async def _seal_anew(
    database: Database, sealer: Sealer, row: Row, now: datetime, grace: timedelta
) -> None:
    """A page of values under a new data key; then wait; then delete the old ones; then done."""
    tenant_id, rotation_id, started_at = row["tenant_id"], row["rotation_id"], row["started_at"]
    await sealer.add_data_key(
        tenant_id, now, only_if=lambda newest: newest is None or newest.created_at < started_at
    )
    async with database.tenant(tenant_id, None) as tx:
        old_keys = await store_data_keys.older_data_keys(tx, started_at)
    if await _seal_page(database, sealer, row, old_keys, now):
        return
    if row["state"] == "sealing":
        async with database.tenant(tenant_id, None) as tx:
            if await store.has_secrets(tx):
                await store.note_told(tx, rotation_id, await secrets.publish_secrets(tx, now))
            await _enter(tx, row, "waiting", now)
        return
    async with database.maintenance() as tx:
        waiting = await store.count_waiting(tx, rotation_id, HOLDERS)
    if waiting or now < started_at + grace:
        return
    async with database.tenant(tenant_id, None) as tx:
        await store_data_keys.lock_data_keys(tx)
        newest = await store_data_keys.newest_data_key(tx)
        if newest is None or now < newest.created_at + grace:
            # Somebody may hold an old key that was prepared just before the new one was there.
            return
        named = [key for key in old_keys if not await store_data_keys.delete_data_key(tx, key)]
        if named:
            log.info("data_key_still_named", tenant_id=str(tenant_id), data_keys=len(named))
            return  # by a straggler, which is sealed anew at the next turn
        await _enter(tx, row, "done", now)


async def _seal_page(
    database: Database, sealer: Sealer, row: Row, old_keys: list[UUID], now: datetime
) -> bool:
    """Seal a page of values anew; whether there were any."""
    tenant_id, rotation_id = row["tenant_id"], row["rotation_id"]
    if not old_keys:
        return False
    for column in store_sealed.COLUMNS:
        async with database.tenant(tenant_id, None) as tx:
            page = await store_sealed.values_under(tx, column, old_keys, PAGE)
        if page:
            await _seal_values(database, sealer, rotation_id, tenant_id, page, None, now)
            if row["state"] == "waiting":  # a straggler: what was told does not hold it
                async with database.tenant(tenant_id, None) as tx:
                    await store.set_state(tx, rotation_id, "sealing", now)
            return True
    for mode in MODES:
        async with database.tenant(tenant_id, mode) as tx:
            page = await store_sealed.answers_under(tx, old_keys, PAGE)
        if page:
            await _seal_values(database, sealer, rotation_id, tenant_id, page, mode, now)
            return True
    return False


async def _seal_values(
    database: Database,
    sealer: Sealer,
    rotation_id: UUID,
    tenant_id: UUID,
    page: list[store_sealed.Found],
    mode: Mode | None,
    now: datetime,
) -> None:
    key = await sealer.prepare(tenant_id, now, values=len(page))
    for found in page:
        place = Place(found.table, found.field, found.bound_row, found.former_row)
        sealed = key.seal(await sealer.open(tenant_id, found.value, place), place)
        async with database.tenant(tenant_id, mode) as tx:
            if found.column is not None:
                replaced = await store_sealed.replace_value(
                    tx, found, sealed.value, sealed.data_key_id, found.column
                )
            else:
                replaced = await store_sealed.replace_answer(tx, found, sealed.value)
            if replaced:
                await store.add_done(tx, rotation_id, 1)


async def _enter(tx: Tx, row: Row, state: str, now: datetime) -> bool:
    """Take the next step; False where it was taken."""
    if not await store.set_state(tx, row["rotation_id"], state, now):
        return False
    if state == "done":
        emit(
            tx,
            ConfigurationChanged(
                action=f"{row['kind']}_key.rotated",
                actor=row["requested_by"],
                object_id=public_id("key_rotation", row["rotation_id"]),
                after={"kind": row["kind"]},
            ),
            effective_at=now,
        )
    log.info("key_rotation", rotation_id=str(row["rotation_id"]), kind=row["kind"], state=state)
    return True
