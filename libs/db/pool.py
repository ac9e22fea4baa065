"""The pool of a service and the transaction everything happens in.

A `Tx` is one Postgres transaction with a tenant scope. Stores take it and run SQL; nothing else
does. Work that must be the last of a transaction (the outbox) registers with `before_commit`.
"""

import json
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from libs.db.tenant import NOBODY, SET_SCOPE, Mode, Scope
from libs.observability.tracing import start_span

Row = Any
"""An asyncpg record: columns by name or position."""

TRANSIENT_ERRORS: tuple[type[BaseException], ...] = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.PostgresSystemError,
    asyncpg.exceptions.TransactionRollbackError,
    asyncpg.exceptions.LockNotAvailableError,
    asyncpg.exceptions.ObjectInUseError,
    asyncpg.exceptions.InvalidAuthorizationSpecificationError,
    OSError,
    TimeoutError,
)
"""Failures that the same work may survive when tried again: connection, lock, time-out,
serialization, the server going away."""


class WrongArgumentsError(TypeError):
    """A query was called with arguments that do not fit it: a mistake in the code, never retried."""


@contextmanager
def _arguments_told_apart() -> Generator[None, None, None]:
    """Tell a wrong number of arguments from a lost connection: asyncpg has one class for both."""
    try:
        yield
    except asyncpg.InterfaceError as error:
        if "argument" in str(error):
            raise WrongArgumentsError(str(error)) from error
        raise


class Cause(msgspec.Struct, frozen=True, gc=False):
    """Why something happens: the event or request that led to it.

    Attributes:
        trace: headers of the trace it belongs to; None where that is the current one.
    """

    causation_id: UUID | None = None
    correlation_id: UUID | None = None
    trace: Mapping[str, str] | None = None


@dataclass
class Tx:
    """One open transaction, its scope, and what must still happen before it commits."""

    connection: Any
    service: str
    scope: Scope = NOBODY
    cause: Cause = field(default_factory=Cause)
    emitted: list[Any] = field(default_factory=list)
    before_commit: list[Callable[["Tx"], Awaitable[None]]] = field(default_factory=list)
    after_commit: list[Callable[[], None]] = field(default_factory=list)

    @property
    def tenant_id(self) -> UUID:
        """The one tenant in scope."""
        return self.scope.tenant_id

    @property
    def mode(self) -> Mode:
        """The mode in scope.

        Raises:
            AssertionError: the work has no mode (identity only).
        """
        assert self.scope.mode is not None, "this work needs a mode in scope"
        return self.scope.mode

    async def enter(self, scope: Scope) -> None:
        """Narrow the rest of the transaction to another scope."""
        if scope != self.scope:
            await self.connection.execute(SET_SCOPE, *scope.settings())
            self.scope = scope

    async def execute(self, sql: str, *args: Any) -> int:
        """Run a statement; the number of rows it touched."""
        with _arguments_told_apart():
            status: str = await self.connection.execute(sql, *args)
        last = status.rpartition(" ")[2]
        return int(last) if last.isdigit() else 0

    async def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement once per row, in one round trip."""
        with _arguments_told_apart():
            await self.connection.executemany(sql, rows)

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        """All rows of a query."""
        with _arguments_told_apart():
            rows: list[Row] = await self.connection.fetch(sql, *args)
        return rows

    async def fetchrow(self, sql: str, *args: Any) -> Row | None:
        """The first row of a query, or None."""
        with _arguments_told_apart():
            return await self.connection.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """The first column of the first row, or None."""
        with _arguments_told_apart():
            return await self.connection.fetchval(sql, *args)


class UnsafeRoleError(RuntimeError):
    """The login role could see through row-level security."""


class Database:
    """A service's schema in Postgres, reached as its own login role."""

    def __init__(self, pool: Any, service: str) -> None:
        self._pool = pool
        self.service = service

    @property
    def pool(self) -> Any:
        """The asyncpg pool, for the relay's own long-lived connection."""
        return self._pool

    @asynccontextmanager
    async def transaction(
        self, scope: Scope = NOBODY, *, cause: Cause | None = None
    ) -> AsyncGenerator[Tx, None]:
        """One transaction in `scope`; rolled back when the block raises."""
        async with self._pool.acquire(timeout=5) as connection:
            with start_span("postgres transaction", schema=self.service):
                async with connection.transaction():
                    tx = Tx(connection, self.service, cause=cause or Cause())
                    await tx.enter(scope)
                    yield tx
                    for step in tx.before_commit:
                        await step(tx)
            for notify in tx.after_commit:
                notify()

    @asynccontextmanager
    async def tenant(
        self,
        tenant_id: UUID,
        mode: Mode | None,
        *,
        books: tuple[str, ...] = (),
        cause: Cause | None = None,
    ) -> AsyncGenerator[Tx, None]:
        """One transaction for one tenant and mode."""
        async with self.transaction(Scope((tenant_id,), mode, books), cause=cause) as tx:
            yield tx

    @asynccontextmanager
    async def maintenance(self) -> AsyncGenerator[Tx, None]:
        """One transaction as the service's maintenance role.

        The role has a named policy on exactly the tables that cross-tenant work needs: the outbox
        for the relay, due work for jobs, dead letters for operators.
        """
        async with self.transaction() as tx:
            await tx.execute(f"set local role sluice_{self.service}_maintenance")
            yield tx

    async def fetchrow(self, sql: str, *args: Any) -> Row | None:
        """The first row of a statement that is a transaction of its own, in one round trip.

        Nothing is in scope: it is for functions that set their scope first.
        """
        async with self._pool.acquire(timeout=5) as connection:
            with start_span("postgres statement", schema=self.service), _arguments_told_apart():
                return await connection.fetchrow(sql, *args)

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        """All rows of a statement, as `fetchrow` has the first of one."""
        async with self._pool.acquire(timeout=5) as connection:
            with start_span("postgres statement", schema=self.service), _arguments_told_apart():
                rows: list[Row] = await connection.fetch(sql, *args)
        return rows

    async def ping(self) -> bool:
        """Whether Postgres answers."""
        try:
            async with self._pool.acquire(timeout=2) as connection:
                return bool(await connection.fetchval("select true", timeout=2))
        except TRANSIENT_ERRORS:
            return False

    async def close(self) -> None:
        """Give all connections back."""
        await self._pool.close()


async def _set_codecs(connection: Any) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
        )


async def _leave_as_it_is(_: Any) -> None:
    """Spare what asyncpg does when a connection comes back: one more round trip, which the caller waits for.

    There is nothing to undo: whatever a transaction sets ends with it. Who sets more than that, or takes
    locks beyond it, ends the connection.
    """


async def open_database(dsn: str, service: str, *, max_connections: int = 8) -> Database:
    """Connect lazily as the service's role with its schema on the search path.

    No connection is made here, so a service starts while Postgres is down and is not ready.
    """
    pool = await asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=max_connections,
        init=_set_codecs,
        reset=_leave_as_it_is,
        timeout=5,
        command_timeout=30,
        max_inactive_connection_lifetime=300,
        server_settings={
            "search_path": service,
            "application_name": f"sluice-{service}",
            "statement_timeout": "20000",
            "idle_in_transaction_session_timeout": "60000",
            "timezone": "UTC",
        },
    )
    return Database(pool, service)


async def refuse_unsafe_role(database: Database) -> None:
    """Check that the login role owns nothing and does not bypass row-level security.

    Raises:
        UnsafeRoleError: it is a superuser, has BYPASSRLS, or owns a table of the schema.
    """
    async with database.transaction() as tx:
        unsafe = await tx.fetchval(
            """
            select rolsuper or rolbypassrls or exists (
                select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                where n.nspname = $1 and c.relowner = r.oid)
            from pg_roles r where rolname = current_user
            """,
            database.service,
        )
    if unsafe:
        raise UnsafeRoleError(
            f"the role of {database.service} must be a plain login role: "
            "no superuser, no BYPASSRLS, owner of nothing"
        )
