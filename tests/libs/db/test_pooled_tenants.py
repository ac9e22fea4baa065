"""Two tenants over two pooled connections: what one request set, no other ever sees.

Neither a service's own pool nor a pooler such as pgbouncer in transaction mode resets a connection that
comes back. The tenant is safe without it.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from libs.db.pool import Database, open_database
from libs.db.tenant import NOBODY, Mode, Scope
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from tests.conftest import story_seed

REQUESTS = 10_000
CONNECTIONS = 2
AT_ONCE = 16
ROWS_EACH = 3
MODES: tuple[Mode, ...] = ("test", "live")
KINDS = {"reads": 60, "reaches": 20, "fails": 8, "moves": 6, "names nobody": 4, "is cut off": 2}
"""What a request does, and how often of a hundred."""


@dataclass
class Traffic:
    """Two tenants' rows, and what the requests saw of them."""

    database: Database
    customers: dict[tuple[UUID, Mode], set[UUID]]
    served: Counter[str] = field(default_factory=Counter)
    connections: set[int] = field(default_factory=set)
    leaks: list[str] = field(default_factory=list)

    async def see(self, tx: object, asker: tuple[UUID, Mode] | None) -> None:
        """Read without naming any tenant; every row must be the asker's, and all of them."""
        rows = await tx.fetch("select tenant_id, mode, id from customer")  # type: ignore[attr-defined]
        seen = {(row["tenant_id"], row["mode"]) for row in rows}
        if seen - ({asker} if asker else set()):
            self.leaks.append(f"{asker} saw {seen}")
        if {row["id"] for row in rows} != (self.customers[asker] if asker else set()):
            self.leaks.append(f"{asker} saw {len(rows)} rows")

    async def serve(self, kind: str, asker: tuple[UUID, Mode], other: tuple[UUID, Mode]) -> None:
        """One request, which may end in any of the ways a request ends."""
        scope = NOBODY if kind == "names nobody" else Scope((asker[0],), asker[1])
        async with self.database.transaction(scope) as tx:
            self.connections.add(await tx.fetchval("select pg_backend_pid()"))
            if kind == "reaches":
                theirs = next(iter(self.customers[other]))
                if await tx.fetch("select id from customer where id = $1", theirs):
                    self.leaks.append(f"{asker} reached {theirs}")
                if await tx.execute("update customer set name = 'x' where id = $1", theirs):
                    self.leaks.append(f"{asker} changed {theirs}")
            if kind == "moves":
                await tx.enter(Scope((other[0],), other[1]))
                await self.see(tx, other)
                await tx.enter(scope)
            await self.see(tx, None if kind == "names nobody" else asker)
            if kind == "fails":
                raise ZeroDivisionError
            if kind == "is cut off":
                await tx.fetchval("select pg_sleep(10)")
        self.served[kind] += 1


@pytest.fixture
async def traffic(database: TestDatabase) -> AsyncGenerator[Traffic, None]:
    tenants = [new_id(), new_id()]
    rows = [(t, mode, new_id()) for t in tenants for mode in MODES for _ in range(ROWS_EACH)]
    async with database.admin() as admin:
        await admin.executemany(
            "insert into billing.customer (tenant_id, mode, id, billed_by, name, currency, "
            "created_at) values ($1, $2, $3, 'tenant', 'x', 'EUR', now())",
            rows,
        )
    customers: dict[tuple[UUID, Mode], set[UUID]] = {}
    for tenant_id, mode, customer_id in rows:
        customers.setdefault((tenant_id, mode), set()).add(customer_id)
    billing = await open_database(database.dsn("billing"), "billing", max_connections=CONNECTIONS)
    yield Traffic(billing, customers)
    await billing.close()


async def test_no_request_sees_another_tenants_rows(traffic: Traffic) -> None:
    rng = random.Random(story_seed())
    askers = list(traffic.customers)
    kinds = rng.choices(list(KINDS), list(KINDS.values()), k=REQUESTS)
    waiting = iter([(kind, *rng.sample(askers, 2)) for kind in kinds])

    async def worker() -> None:
        for kind, asker, other in waiting:
            try:
                async with asyncio.timeout(0.02 if kind == "is cut off" else 60):
                    await traffic.serve(kind, asker, other)
            except (ZeroDivisionError, TimeoutError):
                traffic.served[kind] += 1

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    assert traffic.leaks == []
    assert traffic.served == Counter(kinds)
    # A connection that was cut off in mid-query may be replaced; never are there more than two.
    assert len(traffic.connections) >= CONNECTIONS


async def test_a_connection_comes_back_without_tenant_role_or_mode(traffic: Traffic) -> None:
    (tenant_id, mode), *_ = traffic.customers
    for _ in range(CONNECTIONS * 2):
        async with traffic.database.tenant(tenant_id, mode, books=("platform",)) as tx:
            assert await tx.fetchval("select count(*) from customer") == ROWS_EACH
        async with traffic.database.maintenance() as tx:
            assert await tx.fetchval("select current_user::text") == "sluice_billing_maintenance"
        async with traffic.database.pool.acquire() as connection:
            row = await connection.fetchrow(
                "select nullif(current_setting('app.tenants', true), '') as tenants, "
                "nullif(current_setting('app.mode', true), '') as mode, "
                "nullif(current_setting('app.books', true), '') as books, "
                "current_user::text as role, (select count(*) from customer) as seen"
            )
        assert dict(row) == {
            "tenants": None,
            "mode": None,
            "books": None,
            "role": "sluice_billing",
            "seen": 0,
        }
