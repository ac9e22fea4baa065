"""Whether the stack is ready, and what it still has to do."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.table import Table

from cli.kafka_figures import KafkaFigures
from cli.postgres_figures import waiting
from deploy.local.process import is_alive
from deploy.local.program import ProgramState, StackState
from deploy.local.readiness import not_ready
from deploy.local.stack import Stack


@dataclass(frozen=True, slots=True)
class Status:
    """The stack at one moment; a figure is None when the server that knows it does not answer.

    Attributes:
        ready: every program runs and says that it can do its work.
        lag_records: records that some consumer group has not committed yet.
        outbox_unsent: events written and not yet sent.
        breaks: differences between Stripe, ledger and invoices.
        not_ready: the programs that are not ready.
    """

    ready: bool
    lag_records: int | None
    outbox_unsent: int | None
    parked: int | None
    dead_letters: int | None
    breaks: int | None
    programs: tuple[ProgramState, ...]
    not_ready: tuple[str, ...]

    def as_json(self) -> dict[str, bool | int | None]:
        """What `sluice status --json` prints."""
        return {
            "ready": self.ready,
            "lag_records": self.lag_records,
            "outbox_unsent": self.outbox_unsent,
            "parked": self.parked,
            "dead_letters": self.dead_letters,
            "breaks": self.breaks,
        }


def running_services(stack: Stack) -> list[str]:
    """The services among the stack's programs."""
    state = stack.state()
    return [program.name for program in state.programs] if state else []


async def read_status(stack: Stack) -> Status:
    """Ask every program, Kafka and Postgres."""
    environment = stack.environment()
    state = stack.state()
    (not_ready, supervised), lag, rows = await asyncio.gather(
        _programs_not_ready(stack, state),
        _lag(environment, running_services(stack)),
        _rows(environment),
    )
    outbox, parked, dead_letters, breaks = rows
    return Status(
        ready=supervised and not not_ready and lag is not None and outbox is not None,
        lag_records=lag,
        outbox_unsent=outbox,
        parked=parked,
        dead_letters=dead_letters,
        breaks=breaks,
        programs=tuple(state.programs) if state else (),
        not_ready=tuple(not_ready),
    )


async def _programs_not_ready(stack: Stack, state: StackState | None) -> tuple[list[str], bool]:
    if state is None:
        return [], False
    lacking = await not_ready(stack.programs(), state)
    return lacking, is_alive(state.supervisor) and state.phase == "running"


async def _lag(environment: Mapping[str, str], services: list[str]) -> int | None:
    if not services or "SLUICE_KAFKA" not in environment:
        return None
    try:
        async with asyncio.timeout(15), KafkaFigures(environment["SLUICE_KAFKA"]) as kafka:
            return sum(lag.records for lag in await kafka.lags(services))
    except (KafkaError, OSError, TimeoutError):
        return None


async def _rows(
    environment: Mapping[str, str],
) -> tuple[int | None, int | None, int | None, int | None]:
    if "SLUICE_POSTGRES" not in environment:
        return None, None, None, None
    try:
        async with asyncio.timeout(15):
            rows = await waiting(environment["SLUICE_POSTGRES"])
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        return None, None, None, None
    return (
        sum(each.outbox_unsent for each in rows),
        sum(each.parked for each in rows),
        sum(each.dead_letters for each in rows),
        sum(each.breaks for each in rows),
    )


def print_status(console: Console, status: Status) -> None:
    """The programs and the figures, for people."""
    programs = Table("program", "state", "pid", "restarts", "last exit", box=None, pad_edge=False)
    for program in status.programs:
        ready = program.name not in status.not_ready
        state = program.phase if ready or program.phase != "ready" else "not ready"
        programs.add_row(
            program.name,
            f"[{'green' if ready else 'red'}]{state}[/]",
            str(program.pid or "-"),
            f"[yellow]{program.restarts}[/]" if program.restarts else "0",
            program.last_exit or "-",
        )
    if status.programs:
        console.print(programs)
        console.print()
    figures = Table("figure", "value", box=None, pad_edge=False)
    for name, value in status.as_json().items():
        shown = "unknown" if value is None else str(value).lower()
        figures.add_row(name, shown)
    console.print(figures)
