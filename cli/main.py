"""`sluice`: start, watch and stop Sluice on this machine.

Tables for people, `--json` for programs. Exit codes: 0 done and well, 1 failed or not ready, 2 wrong
usage.
"""

import asyncio
import logging
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cli import audit_commands, interventions, kafka_commands, ledger_commands, rebuild
from cli.doctor import examine
from cli.program_logs import find_logs, follow, last_lines
from cli.release import release
from cli.replay import replay
from cli.resync import resync
from cli.rotate_keys import rotate_keys
from cli.start_display import StartDisplay
from cli.status import print_status, read_status
from cli.terminal import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    Json,
    err,
    fail,
    failures_told,
    laptop_stack,
    next_step,
    out,
    write_json,
)
from deploy.local.stack import Stack

app = typer.Typer(
    name="sluice",
    help="Sluice on this machine: real Kafka, real Postgres, every service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def quiet_libraries() -> None:
    """Sluice on this machine: real Kafka, real Postgres, every service."""
    # What a command has to say of a Kafka that is away, it says itself.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


app.command()(kafka_commands.lag)
app.command()(kafka_commands.topics)
app.command()(replay)
app.command()(release)
app.command()(resync)
app.command()(rotate_keys)
app.add_typer(audit_commands.app)
app.add_typer(ledger_commands.app)
app.add_typer(rebuild.app)
app.add_typer(interventions.parked_app)
app.add_typer(interventions.stopped_app)


def _start() -> Stack:
    stack = laptop_stack()
    with failures_told("`sluice doctor` looks for the cause; `sluice logs` shows what was said."):
        try:
            if stack.runs_other_code():
                err.print(
                    "[yellow]The code has changed since this stack was started;[/yellow]"
                    " `sluice down` and `sluice up` run the new code."
                )
            with StartDisplay(out) as display:
                stack.up(display)
        except KeyboardInterrupt:
            err.print("Interrupted; stopping what was started.")
            stack.down()
            raise typer.Exit(EXIT_INTERRUPTED) from None
    return stack


@app.command()
def up() -> None:
    """Start everything and wait until it is ready."""
    stack = _start()
    environment = stack.environment()
    out.print(f"[green]Ready:[/green] {environment['SLUICE_ORIGIN']}")
    out.print(
        f"Sign in at {environment['SLUICE_ORIGIN']}/login as {environment['SLUICE_OPERATOR_EMAIL']}"
    )
    out.print(f"Password and every address: {stack.folders.env}")
    next_step("`sluice demo` plays one tenant's story; `sluice status`; `sluice down`.")


@app.command()
def demo() -> None:
    """Start everything and play the story of a tenant, from sign-up to the balanced ledger."""
    stack = _start()
    from cli.demo import run_demo  # noqa: PLC0415 (its clients are loaded only when it is played)

    try:
        asyncio.run(run_demo(stack.environment(), out))
    except KeyboardInterrupt:
        err.print("Interrupted; the stack goes on running.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except Exception as error:
        logging.getLogger(__name__).debug("the story failed", exc_info=True)
        raise fail(
            f"The story stopped: {error}", advice="`sluice status` and `sluice logs` show more."
        ) from error
    next_step("`sluice status`; `sluice down` stops it; another `sluice demo` plays it again.")


@app.command()
def down() -> None:
    """Stop everything; data and logs stay."""
    stack = laptop_stack()
    with failures_told():
        stopped = stack.down(lambda news: out.print(f"{news} …") if isinstance(news, str) else None)
    out.print("Stopped." if stopped else "Nothing was running.")
    next_step("`sluice up` goes on with the same data; `sluice reset` deletes it.")


@app.command()
def status(as_json: Json = False) -> None:
    """Whether everything is ready, and what still waits; exit code 0 only when ready."""
    stack = laptop_stack()
    with failures_told():
        now = asyncio.run(read_status(stack))
    if as_json:
        write_json(now.as_json())
    else:
        print_status(out, now)
        if now.ready:
            next_step("`sluice lag` and `sluice topics` show Kafka; `sluice logs NAME` a program.")
        elif not now.programs:
            next_step("`sluice up` starts the stack.")
        else:
            next_step(f"`sluice logs {next(iter(now.not_ready), 'supervisor')}`, `sluice doctor`.")
    if not now.ready:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def logs(
    program: Annotated[str | None, typer.Argument(help="One program; all by default.")] = None,
    follow_on: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="From each log.")] = 20,
) -> None:
    """Show what the programs said."""
    with failures_told("`sluice up`"):
        found = find_logs(laptop_stack().folders, program)
        try:
            for name, line in last_lines(found, lines):
                out.print(f"[cyan]{name:>12}[/cyan] {escape(line)}")
            if follow_on:
                for name, line in follow(found):
                    out.print(f"[cyan]{name:>12}[/cyan] {escape(line)}")
        except KeyboardInterrupt:
            return


@app.command()
def reset(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Stop everything and delete data, logs and secrets of this machine's stack."""
    stack = laptop_stack()
    if not yes:
        typer.confirm(f"Delete everything in {stack.folders.root} but downloads?", abort=True)
    with failures_told():
        stack.reset()
    out.print("Deleted; downloads are kept.")
    next_step("`sluice up` begins anew.")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look for whatever keeps the stack from working; exit code 1 when something is wrong."""
    findings = examine(laptop_stack())
    if as_json:
        write_json([asdict(finding) for finding in findings])
    else:
        table = Table("", "what", "found", "what to do", box=None, pad_edge=False)
        for each in findings:
            mark = "[green]✓[/]" if each.well else "[red]✗[/]"
            table.add_row(mark, each.subject, escape(each.detail), escape(each.advice))
        out.print(table)
    if not all(finding.well for finding in findings):
        raise typer.Exit(EXIT_FAILED)
    if not as_json:
        next_step("`sluice status` shows what still waits.")


if __name__ == "__main__":
    app()
