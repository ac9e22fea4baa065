"""SQL of the mirror: whose objects are, and their latest state."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.db.pool import Row, Tx

Json = dict[str, Any]


@dataclass(frozen=True)
class Owner:
    """Whose object it is.

    Attributes:
        customer_id: our customer it concerns, if any.
    """

    tenant_id: UUID
    customer_id: UUID | None


@dataclass(frozen=True)
class ObjectRow:
    """An object as it is to stand in the mirror.

    Attributes:
        fact: what was last said of it; `version` counts what was said.
    """

    tenant_id: UUID
    kind: str
    object_id: str
    raw: Json
    fact: Json | None
    version: int
    deleted: bool
    fetched_at: datetime


async def find_owner(tx: Tx, account: str, mode: str, object_id: str) -> Owner | None:
    """Whose object this is, whoever asks."""
    found = await tx.fetchval("select find_owner($1, $2, $3)", account, mode, object_id)
    return _owner(found) if found is not None else None


async def find_owners(
    tx: Tx, account: str, mode: str, object_ids: Sequence[str]
) -> dict[str, Owner]:
    """Whose objects these are, as far as that was decided, whoever asks."""
    found: Mapping[str, Json] = await tx.fetchval(
        "select find_owners($1, $2, $3)", account, mode, object_ids
    )
    return {object_id: _owner(entry) for object_id, entry in found.items()}


def _owner(found: Json) -> Owner:
    customer_id = found["customer_id"]
    return Owner(UUID(found["tenant_id"]), UUID(customer_id) if customer_id else None)


async def claim(tx: Tx, account: str, object_id: str, customer_id: UUID | None) -> bool:
    """Give an object to the tenant in scope for ever; False where it has an owner already."""
    owner = Owner(tx.tenant_id, customer_id)
    return object_id in await claim_all(tx, account, [(object_id, owner)])


async def claim_all(tx: Tx, account: str, owners: Iterable[tuple[str, Owner]]) -> set[str]:
    """Give each object to its owner, whose tenants are in scope; those that had none before."""
    # In one order everywhere, so that two accounts' workers and routes cannot wait for each other.
    pairs = sorted(owners, key=lambda pair: pair[0])
    rows = await tx.fetch(
        """
        insert into object_owner (account, mode, object_id, tenant_id, customer_id)
        select $1, $2, o, t, c
        from unnest($3::text[], $4::uuid[], $5::uuid[]) with ordinality as u(o, t, c, place)
        order by place
        on conflict do nothing returning object_id
        """,
        account,
        tx.mode,
        [object_id for object_id, _ in pairs],
        [owner.tenant_id for _, owner in pairs],
        [owner.customer_id for _, owner in pairs],
    )
    return {row["object_id"] for row in rows}


async def read_objects(
    tx: Tx, account: str, keys: Sequence[tuple[UUID, str, str]]
) -> dict[tuple[str, str], Row]:
    """Mirrored objects with what was last said of them, locked; by (type, id).

    Args:
        keys: (tenant, type, id); the tenants are in scope.
    """
    rows = await tx.fetch(
        """
        select o.object_type, o.object_id, o.raw, o.fact, o.version, o.deleted
        from unnest($3::uuid[], $4::text[], $5::text[]) as k(tenant_id, object_type, object_id)
        join stripe_object o on o.tenant_id = k.tenant_id and o.mode = $1 and o.account = $2
            and o.object_type = k.object_type and o.object_id = k.object_id
        order by o.object_type, o.object_id for update of o
        """,
        tx.mode,
        account,
        [tenant_id for tenant_id, _, _ in keys],
        [kind for _, kind, _ in keys],
        [object_id for _, _, object_id in keys],
    )
    return {(row["object_type"], row["object_id"]): row for row in rows}


async def read_kept(
    tx: Tx, account: str, mode: str, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Json]:
    """What the mirror has of objects, whoever's they are; by (type, id).

    Args:
        keys: (type, id).
    """
    rows = await tx.fetch(
        """
        select o.object_type, o.object_id, o.raw
        from unnest($3::text[], $4::text[]) as k(object_type, object_id)
        join stripe_object o on o.account = $1 and o.mode = $2
            and o.object_type = k.object_type and o.object_id = k.object_id
        where not o.deleted
        """,
        account,
        mode,
        [kind for kind, _ in keys],
        [object_id for _, object_id in keys],
    )
    return {(row["object_type"], row["object_id"]): row["raw"] for row in rows}


async def write_objects(tx: Tx, account: str, objects: Iterable[ObjectRow]) -> None:
    """Put the latest state of objects into the mirror; their tenants are in scope."""
    rows = list(objects)
    if not rows:
        return
    await tx.execute(
        """
        insert into stripe_object (tenant_id, mode, account, object_type, object_id, raw, fact,
            version, deleted, fetched_at)
        select tenant_id, $1, $2, object_type, object_id, raw::jsonb, fact::jsonb, version, deleted,
            fetched_at
        from unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::integer[],
            $9::boolean[], $10::timestamptz[])
            as u(tenant_id, object_type, object_id, raw, fact, version, deleted, fetched_at)
        on conflict (tenant_id, mode, account, object_type, object_id) do update set
            raw = excluded.raw, fact = excluded.fact, version = excluded.version,
            deleted = excluded.deleted, fetched_at = excluded.fetched_at
        """,
        tx.mode,
        account,
        [row.tenant_id for row in rows],
        [row.kind for row in rows],
        [row.object_id for row in rows],
        [json.dumps(row.raw) for row in rows],
        [None if row.fact is None else json.dumps(row.fact) for row in rows],
        [row.version for row in rows],
        [row.deleted for row in rows],
        [row.fetched_at for row in rows],
    )


async def unmentioned(
    tx: Tx, account: str, movers: Sequence[tuple[UUID, str, str, str]]
) -> set[tuple[UUID, str, str]]:
    """Objects that the mirror has not, or not as they are since they name another one.

    Args:
        movers: (tenant, type, id, id of the other); the tenants are in scope.

    Returns:
        (tenant, type, id).
    """
    rows = await tx.fetch(
        """
        select m.tenant_id, m.object_type, m.object_id
        from unnest($3::uuid[], $4::text[], $5::text[], $6::text[])
            as m(tenant_id, object_type, object_id, other_id)
        where not exists (select from stripe_object o where o.tenant_id = m.tenant_id
            and o.mode = $1 and o.account = $2 and o.object_type = m.object_type
            and o.object_id = m.object_id
            and position('"' || m.other_id || '"' in o.raw::text) > 0)
        """,
        tx.mode,
        account,
        [tenant_id for tenant_id, _, _, _ in movers],
        [kind for _, kind, _, _ in movers],
        [object_id for _, _, object_id, _ in movers],
        [other_id for _, _, _, other_id in movers],
    )
    return {(row["tenant_id"], row["object_type"], row["object_id"]) for row in rows}


async def has_live_subscription(tx: Tx, account: str, stripe_customer_id: str) -> bool:
    """Whether the mirror holds a subscription of this customer that is being billed."""
    return bool(
        await tx.fetchval(
            """
            select exists (select from stripe_object where tenant_id = $1 and mode = $2
                and account = $3 and object_type = 'subscription'
                and raw ->> 'customer' = $4
                and raw ->> 'status' in ('trialing', 'active', 'past_due', 'unpaid', 'paused'))
            """,
            tx.tenant_id,
            tx.mode,
            account,
            stripe_customer_id,
        )
    )
