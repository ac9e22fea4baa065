"""`sluice audit verify`: does the audit log hold, entry by entry, against what Kafka keeps of it."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import asyncpg
import typer
from aiokafka.errors import KafkaError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from cli.audit_proof import AuditProof, Finding, NoSuchTenantError
from cli.terminal import Json, err, fail, laptop_stack, next_step, out, write_json

EXIT_BROKEN = 3

app = typer.Typer(
    name="audit",
    help="The audit log: whether it was tampered with.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def audit() -> None:
    """The audit log: whether it was tampered with."""


@app.command()
def verify(
    tenant: Annotated[
        str | None, typer.Option(help="Id or slug of one tenant; every tenant by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every entry, its hash, its signed heads and its event; exit code 3 on a break."""
    environment = laptop_stack().environment()
    if "SLUICE_POSTGRES" not in environment or "SLUICE_KAFKA" not in environment:
        raise fail("The stack was never started on this machine.", advice="`sluice up` starts it.")

    async def prove() -> list[Finding]:
        async with AuditProof(environment["SLUICE_POSTGRES"], environment["SLUICE_KAFKA"]) as proof:
            return await _with_progress(proof, tenant)

    try:
        findings = asyncio.run(prove())
    except NoSuchTenantError:
        raise fail(f"No tenant has the id or slug {tenant!r}.") from None
    except (KafkaError, asyncpg.PostgresError, OSError) as error:
        raise fail(
            f"Postgres or Kafka does not answer ({type(error).__name__}).",
            advice="`sluice status` shows what runs, `sluice up` starts it.",
        ) from None
    if as_json:
        write_json([asdict(finding) for finding in findings])
    else:
        _show(findings)
    if any(finding.first_broken_seq is not None for finding in findings):
        raise typer.Exit(EXIT_BROKEN)


async def _with_progress(proof: AuditProof, tenant: str | None) -> list[Finding]:
    """Go through the tenants with a bar on the error stream: the standard output stays clean."""
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=err
    ) as progress:
        reading = progress.add_task("events of audit.events", total=None)
        tenants = await proof.tenants(tenant)
        await proof.read_topic(
            tenants, lambda done, total: progress.update(reading, completed=done, total=total)
        )
        checking = progress.add_task("entries", total=proof.entries)
        return [
            await proof.check(each, lambda more: progress.advance(checking, more))
            for each in tenants
        ]


def _show(findings: list[Finding]) -> None:
    table = Table(
        "", "tenant", "entries", "signed up to", "first broken", "why", box=None, pad_edge=False
    )
    for each in findings:
        well = each.first_broken_seq is None
        table.add_row(
            "[green]✓[/]" if well else "[red]✗[/]",
            each.slug,
            str(each.entries),
            str(each.signed_seq),
            "" if well else str(each.first_broken_seq),
            each.reason or "",
        )
    out.print(table)
    broken = [each for each in findings if each.first_broken_seq is not None]
    if broken:
        err.print(f"[bold red]The audit log of {len(broken)} tenants was changed.[/]")
        next_step("docs/runbooks/audit-chain-broken.md")
    else:
        next_step("`GET /api/v1/audit-log/export` gives the entries with their hashes.")
