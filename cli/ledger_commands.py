"""`sluice ledger verify`: are the books what their rows say, recomputed from the first entry on."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Annotated

import asyncpg
import typer
from aiokafka.errors import KafkaError
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.ledger_heads import read_heads
from cli.ledger_proof import BookFinding, LedgerProof, NoSuchTenantError
from cli.terminal import Json, err, fail, laptop_stack, next_step, out, write_json

EXIT_BROKEN = 3
CONNECTIONS = 2
"""Over which books are recomputed; each keeps a processor of Postgres' at work."""
FAULTS_PRINTED_MAX = 20

app = typer.Typer(
    name="ledger",
    help="The ledger: whether its books hold.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def ledger() -> None:
    """The ledger: whether its books hold."""


@app.command()
def verify(
    tenant: Annotated[
        str | None, typer.Option(help="Id or slug of one tenant; every tenant by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Recompute hashes, sums, numbers and balances from the rows; exit code 3 where one is wrong."""
    environment = laptop_stack().environment()
    if "SLUICE_POSTGRES" not in environment or "SLUICE_KAFKA" not in environment:
        raise fail("The stack was never started on this machine.", advice="`sluice up` starts it.")
    try:
        findings = asyncio.run(
            _verify(environment["SLUICE_POSTGRES"], environment["SLUICE_KAFKA"], tenant)
        )
    except NoSuchTenantError:
        raise fail(f"No tenant {tenant!r} has a book.") from None
    except (KafkaError, asyncpg.PostgresError, OSError) as error:
        raise fail(
            f"Postgres or Kafka does not answer ({type(error).__name__}).",
            advice="`sluice status` shows what runs, `sluice up` starts it.",
        ) from None
    if as_json:
        write_json([asdict(finding) for finding in findings])
    else:
        _show(findings)
    if any(finding.faults for finding in findings):
        raise typer.Exit(EXIT_BROKEN)


async def _verify(postgres: str, kafka: str, tenant: str | None) -> list[BookFinding]:
    """Go through the books with a bar on the error stream: the standard output stays clean."""
    async with AsyncExitStack() as stack:
        connections = []
        for _ in range(CONNECTIONS):
            connections.append(await asyncpg.connect(postgres, timeout=10))
            stack.push_async_callback(connections[-1].close)
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=err,
        ) as progress:
            reading = progress.add_task("heads on ledger.events", total=None)
            heads = await read_heads(
                kafka, lambda done, total: progress.update(reading, completed=done, total=total)
            )
            proof = LedgerProof(*connections)
            books = await proof.books(tenant, heads)
            checking = progress.add_task(
                "postings, by entry and by account", total=2 * sum(each.postings for each in books)
            )
            return [
                await proof.check(each, heads, lambda more: progress.advance(checking, more))
                for each in books
            ]


def _show(findings: list[BookFinding]) -> None:
    table = Table("", "tenant", "mode", "book", "entries", "postings", "told up to", box=None)
    for each in findings:
        mark = "[red]✗[/]" if each.faults else "[green]✓[/]"
        figures = (str(each.entries), str(each.postings), str(each.anchored_seq))
        table.add_row(mark, each.slug, each.mode, each.book, *figures)
    out.print(table)
    broken = [each for each in findings if each.faults]
    for each in broken:
        for fault in each.faults[:FAULTS_PRINTED_MAX]:
            err.print(f"[red]{each.slug} {each.mode} {each.book}:[/] {escape(fault)}")
    if broken:
        err.print(f"[bold red]{len(broken)} books do not hold.[/]")
        next_step("docs/runbooks/ledger-does-not-hold.md")
    else:
        next_step("`GET /api/v1/ledger/trial-balance` shows what stands in a book.")
