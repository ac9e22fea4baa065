"""`sluice parked` and `sluice stopped`: what waits for an operator, and what can be done about it.

Every act is told to the audit log with the name of this machine's user and the reason given.
"""

import asyncio
import getpass
import os
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, TypeVar

import asyncpg
import typer
from rich.markup import escape
from rich.table import Table

from cli.terminal import Json, fail, laptop_stack, next_step, out, write_json
from libs.db.pool import Database, open_database
from libs.deploy import services_with_schema
from libs.messaging.interventions import (
    Act,
    AnotherFirstError,
    discard_first,
    lift_stop,
    release_key,
)
from libs.messaging.parked import next_parked
from libs.messaging.records import TYPE_HEADER, Record

T = TypeVar("T")
WHY_LENGTH_MAX = 500

Service = Annotated[str, typer.Argument(help="Whose queue it is, such as ledger.")]
Topic = Annotated[str, typer.Argument(help="Such as billing.events.")]
Key = Annotated[str, typer.Argument(help="The tenant's id.")]
Why = Annotated[str, typer.Option(help="The reason, for the audit log.")]

parked_app = typer.Typer(name="parked", help="Tenants' events that wait behind one that failed.")
stopped_app = typer.Typer(name="stopped", help="Consumers that stopped themselves.")


@parked_app.callback(invoke_without_command=True)
def parked(context: typer.Context, as_json: Json = False) -> None:
    """List the keys that are parked: whose events wait, behind what, and why."""
    if context.invoked_subcommand is not None:
        return
    rows = _of_all_services("select * from parked_key order by parked_at, consumer, topic, key")
    if as_json:
        write_json(_plain(rows))
        return
    _show(rows, ("service", "topic", "key", "records", "parked_at", "reason", "detail"))
    if rows:
        next_step("`sluice parked release` tries again, `sluice parked discard` gives one up.")


@parked_app.command()
def release(service: Service, topic: Topic, key: Key, why: Why) -> None:
    """Have a parked key tried again, when the cause is gone."""
    act = _act(why)
    if not _with(service, lambda database: release_key(database, service, topic, key, act)):
        raise fail(f"{service} has parked no key {key!r} of {topic}.", advice="`sluice parked`")
    out.print("Its consumer tries again within a second or two.")
    next_step("`sluice parked` shows whether it is still there.")


@parked_app.command()
def discard(
    service: Service,
    topic: Topic,
    key: Key,
    why: Why,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; show what would be discarded.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Give up the first record of a parked key, and have the others tried again.

    It becomes a dead letter with every byte, and its consumer goes on behind it. Whoever reads the topic
    from its beginning, such as a rebuild, meets it again.
    """
    act = _act(why)
    first = _with(service, lambda database: _first(database, service, topic, key))
    if first is None:
        raise fail(f"{service} has parked no key {key!r} of {topic}.", advice="`sluice parked`")
    what = _described(first)
    if dry_run:
        out.print(f"Would discard {what}.")
        return
    if not yes:
        typer.confirm(f"Discard {what}?", abort=True)
    try:
        record = _with(
            service, lambda database: discard_first(database, service, topic, key, first, act)
        )
    except AnotherFirstError as other:
        raise fail(
            f"Another one is first now ({other}): nothing was changed.", advice="`sluice parked`"
        ) from None
    if record is None:
        raise fail("It was applied meanwhile.", advice="`sluice parked`")
    out.print(f"Discarded {_described(record)}.")
    next_step(f"{service}.dead_letter holds its bytes; docs/runbooks/SluiceDeadLetters.md")


@stopped_app.callback(invoke_without_command=True)
def stopped(context: typer.Context, as_json: Json = False) -> None:
    """List the consumers that stopped themselves, and on what."""
    if context.invoked_subcommand is not None:
        return
    rows = _of_all_services("select * from consumer_stop order by stopped_at, consumer")
    if as_json:
        write_json(_plain(rows))
        return
    _show(rows, ("service", "consumer", "stopped_at", "code_version", "reason", "detail"))
    if rows:
        next_step("`sluice stopped lift` lets one go on; docs/runbooks/SluiceConsumerStopped.md")


@stopped_app.command()
def lift(
    service: Service,
    why: Why,
    consumer: Annotated[
        str | None,
        typer.Option(help="Such as ledger.directory; the service's main one by default."),
    ] = None,
) -> None:
    """Let a consumer that stopped itself go on: what fails again is put aside, and five stop it."""
    name, act = consumer or service, _act(why)
    if not _with(service, lambda database: lift_stop(database, name, act)):
        raise fail(f"{name} has not stopped itself.", advice="`sluice stopped`")
    out.print(f"{name} goes on within a second or two.")
    next_step("`sluice stopped` shows whether it stopped again.")


async def _first(database: Database, service: str, topic: str, key: str) -> Record | None:
    async with database.maintenance() as tx:
        queue = await next_parked(tx, service, topic, key, 1)
    return queue[0][1] if queue else None


def _described(record: Record) -> str:
    kind, length_bytes = record.header(TYPE_HEADER) or "no type", len(record.value or b"")
    place = f"{record.topic}[{record.partition}] {record.offset}"
    return f"{kind} of {record.at:%Y-%m-%d %H:%M:%SZ}, {place}, {length_bytes} bytes"


def _act(why: str) -> Act:
    if not why.strip() or len(why) > WHY_LENGTH_MAX or not why.isprintable():
        raise fail(f"--why is one line of 1 to {WHY_LENGTH_MAX} characters.")
    return Act(f"cli:{getpass.getuser()}", why)


def _of_all_services(sql: str) -> list[dict[str, Any]]:
    """The rows of every service, with its name."""

    async def rows(database: Database) -> list[dict[str, Any]]:
        async with database.transaction() as tx:
            return [{"service": database.service} | dict(row) for row in await tx.fetch(sql)]

    return [row for service in services_with_schema() for row in _with(service, rows)]


def _with(service: str, work: Callable[[Database], Awaitable[T]]) -> T:
    """Do one thing in a service's schema, as its own role."""
    known = services_with_schema()
    if service not in known:
        raise fail(f"No service {service!r} has tables.", advice=f"one of {', '.join(known)}")
    name = f"SLUICE_{service.upper()}_POSTGRES"
    # Who names a database in the shell means that one, also where a stack of this machine's own is.
    dsn = os.environ.get(name) or laptop_stack().environment().get(name)
    if not dsn:
        raise fail("The stack was never started on this machine.", advice="`sluice up` starts it.")

    async def do() -> T:
        database = await open_database(dsn, service)
        try:
            return await work(database)
        finally:
            await database.close()

    try:
        return asyncio.run(do())
    except (asyncpg.PostgresConnectionError, OSError) as error:
        raise fail(
            f"Postgres does not answer ({type(error).__name__}).",
            advice="`sluice status` shows what runs, `sluice up` starts it.",
        ) from None
    except asyncpg.PostgresError as error:
        raise fail(f"Postgres refuses it: {error}", advice=f"Is {name} the right one?") from None


def _show(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    if not rows:
        out.print("None.")
        return
    table = Table(*(name.replace("_", " ") for name in columns), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(_text(row[name])) for name in columns))
    out.print(table)


def _text(value: Any) -> str:
    return f"{value:%Y-%m-%d %H:%M:%SZ}" if isinstance(value, datetime) else str(value)


def _plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same for JSON."""
    return [
        {name: v.isoformat() if isinstance(v, datetime) else v for name, v in row.items()}
        for row in rows
    ]
