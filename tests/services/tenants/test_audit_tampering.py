"""A thousand random changes of the audit log by somebody who may do anything in the database."""

import json
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from libs.contracts.audit import AuditHeadAnchored, ConfigurationChanged, SecurityEventRaised
from libs.crypto.audit_chain import Break, ChainCheck, digest_of_event, entry_hash
from libs.testing.databases import TestDatabase
from services.tenants import jobs
from tenants.conftest import World

TAMPERINGS = 1_000
SEED = 20261121

Entry = Mapping[str, Any]
Tamper = Callable[[asyncpg.Connection, random.Random, list[Entry], list[Entry]], Awaitable[None]]

READ = "select * from tenants.audit_entry where tenant_id = $1 order by seq"


async def put(admin: asyncpg.Connection, entry: Entry, **changed: Any) -> None:
    """Write an entry in place of the one that has its number."""
    new = {**entry, **changed}
    await admin.execute(
        "delete from tenants.audit_entry where tenant_id = $1 and seq = $2",
        entry["tenant_id"],
        entry["seq"],
    )
    await admin.execute(
        f"insert into tenants.audit_entry ({', '.join(new)}) "
        f"values ({', '.join(f'${place}' for place in range(1, len(new) + 1))})",
        *new.values(),
    )


def flipped(value: bytes, chance: random.Random) -> bytes:
    changed = bytearray(value)
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def edited(content: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The content with one leaf changed, removed or added, at any depth."""
    copy: dict[str, Any] = json.loads(json.dumps(content))
    part = copy
    while True:
        name = chance.choice(sorted(part))
        if isinstance(part[name], dict) and part[name] and chance.random() < 0.8:
            part = part[name]
            continue
        match chance.randrange(3):
            case 0:
                part[name] = f"{part[name]}{chance.randrange(10)}"
            case 1:
                del part[name]
            case _:
                part[f"{name}_too"] = chance.randrange(10)
        return copy


async def edit_content(
    admin: asyncpg.Connection, chance: random.Random, own: list[Entry], other: list[Entry]
) -> None:
    del other
    entry = chance.choice(own)
    await put(admin, entry, content=json.dumps(edited(json.loads(entry["content"]), chance)))


async def edit_column(
    admin: asyncpg.Connection, chance: random.Random, own: list[Entry], other: list[Entry]
) -> None:
    del other
    entry = chance.choice(own)
    kinds = {"security", "configuration"} - {entry["kind"]}
    changes: dict[str, Any] = {
        "hash": flipped(entry["hash"], chance),
        "previous_hash": flipped(entry["previous_hash"], chance),
        "event_id": uuid4(),
        "kind": kinds.pop(),
        "action": f"{entry['action']}x",
        "actor": "usr_somebody",
        "object_id": "key_another",
        "occurred_at": entry["occurred_at"].replace(year=2020),
    }
    name = chance.choice(sorted(changes))
    await put(admin, entry, **{name: changes[name]})


async def edit_and_hash_again(
    admin: asyncpg.Connection, chance: random.Random, own: list[Entry], other: list[Entry]
) -> None:
    """Change one entry and make every hash from there on fit."""
    del other
    first = chance.randrange(len(own))
    previous = own[first]["previous_hash"]
    for place in range(first, len(own)):
        content = json.loads(own[place]["content"])
        columns: dict[str, Any] = {}
        if place == first:
            content["data"]["actor"] = columns["actor"] = "usr_somebody"
        hashed = entry_hash(previous, content)
        columns |= {"content": json.dumps(content), "previous_hash": previous, "hash": hashed}
        await put(admin, own[place], **columns)
        previous = hashed


async def delete_some(
    admin: asyncpg.Connection, chance: random.Random, own: list[Entry], other: list[Entry]
) -> None:
    del other
    first = chance.choice(own)["seq"]
    last = first if chance.random() < 0.5 else chance.randint(first, len(own))
    await admin.execute(
        "delete from tenants.audit_entry where tenant_id = $1 and seq between $2 and $3",
        own[0]["tenant_id"],
        first,
        last,
    )


async def cut_off(
    admin: asyncpg.Connection, chance: random.Random, own: list[Entry], other: list[Entry]
) -> None:
    """The end away, and the noted head with it; or everything."""
    del other
    if chance.random() < 0.1:
        await admin.execute("truncate tenants.audit_entry")
        return
    first = chance.choice(own)["seq"]
    await admin.execute(
        "delete from tenants.audit_entry where tenant_id = $1 and seq >= $2",
        own[0]["tenant_id"],
        first,
    )
    await admin.execute("delete from tenants.audit_head where tenant_id = $1", own[0]["tenant_id"])


async def insert_forged(
    admin: asyncpg.Connection, chance: random.Random, own: list[Entry], other: list[Entry]
) -> None:
    """An entry that never was, with a hash that fits, in the middle or at the end."""
    del other
    place = chance.randint(1, len(own))
    before = own[place - 1]
    content = {**json.loads(before["content"]), "seq": place + 1, "id": str(uuid4())}
    await admin.execute(
        "delete from tenants.audit_entry where tenant_id = $1 and seq > $2",
        before["tenant_id"],
        place,
    )
    forged = {
        **before,
        "seq": place + 1,
        "event_id": UUID(content["id"]),
        "content": json.dumps(content),
        "previous_hash": before["hash"],
        "hash": entry_hash(before["hash"], content),
    }
    await put(admin, forged)


async def swap(
    admin: asyncpg.Connection, chance: random.Random, own: list[Entry], other: list[Entry]
) -> None:
    del other
    one, two = chance.sample(own, 2)
    for entry in (one, two):
        await admin.execute(
            "delete from tenants.audit_entry where tenant_id = $1 and seq = $2",
            entry["tenant_id"],
            entry["seq"],
        )
    await put(admin, {**one, "seq": two["seq"]})
    await put(admin, {**two, "seq": one["seq"]})


async def take_from_another(
    admin: asyncpg.Connection, chance: random.Random, own: list[Entry], other: list[Entry]
) -> None:
    """Another tenant's entry of the same number."""
    place = chance.randrange(min(len(own), len(other)))
    await put(admin, {**other[place], "tenant_id": own[0]["tenant_id"]})


TAMPERS: tuple[Tamper, ...] = (
    edit_content,
    edit_column,
    edit_and_hash_again,
    delete_some,
    cut_off,
    insert_forged,
    swap,
    take_from_another,
)


async def test_a_thousand_changes_are_all_found(world: World, database: TestDatabase) -> None:
    tenants = [UUID((await world.sign_up(name))["id"]) for name in ("Acme", "Globex")]
    for _ in range(6):
        for slug in ("acme", "globex"):
            await world.make_key(slug, "usage:read")
    await jobs.anchor_audit(world.database, world.settings)
    await world.settle()
    await world.make_key("acme", "usage:read")
    told = {
        event.id: digest_of_event(event.model_dump(mode="json"))
        for kind in (SecurityEventRaised, ConfigurationChanged)
        for event in world.log.events(kind)
        if event.tenant_id == tenants[0]
    }
    heads = {
        event.data.seq: frozenset({bytes.fromhex(event.data.head_hash)})
        for event in world.log.events(AuditHeadAnchored)
        if event.tenant_id == tenants[0]
    }
    assert heads

    async def check(admin: asyncpg.Connection) -> Break | None:
        found = ChainCheck(tenants[0], heads, told)
        rows = await admin.fetch(READ, tenants[0])
        found.follow({**row, "content": json.loads(row["content"])} for row in rows)
        return found.finish()

    chance = random.Random(SEED)
    async with database.admin() as admin:
        own, other = [list[Entry](map(dict, await admin.fetch(READ, t))) for t in tenants]
        assert len(own) > max(heads)
        assert await check(admin) is None
        unseen = []
        for number in range(TAMPERINGS):
            tamper = TAMPERS[number % len(TAMPERS)]
            change = admin.transaction()
            await change.start()
            await tamper(admin, chance, own, other)
            if await check(admin) is None:
                unseen.append((number, tamper.__name__))
            await change.rollback()
        assert unseen == []
        assert await check(admin) is None
