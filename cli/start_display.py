"""The progress of a start: a table that fills itself on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from deploy.local.program import ProgramState, StackState

MARKS = {
    "waiting": Text("·", style="dim"),
    "ready": Text("✓", style="green"),
    "done": Text("✓", style="green"),
    "crashed": Text("!", style="yellow"),
    "failed": Text("✗", style="red"),
    "stopped": Text("·", style="dim"),
}


class StartDisplay:
    """Shows what it is told while a stack starts; used as a context manager and called."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._step = "starting"
        self._state: StackState | None = None
        self._told: dict[str, str] = {}
        self._live = Live(
            get_renderable=self._render, console=console, refresh_per_second=8, transient=True
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, news: str | StackState) -> None:
        """Take a step's name or a new state."""
        if isinstance(news, str):
            # Off a terminal a step is told once, not at every count: "fetching jars, 7 of 46".
            if not self._console.is_terminal and _kind(news) != _kind(self._step):
                self._line(f"{_kind(news)} …")
            self._step = news
            return
        self._state = news
        if not self._console.is_terminal:
            for program in news.programs:
                told = _phase_in_words(program)
                if program.phase != "waiting" and self._told.get(program.name) != told:
                    self._told[program.name] = told
                    self._line(f"{program.name}: {told}")

    def _line(self, text: str) -> None:
        self._console.print(f"{time.monotonic() - self._began:6.1f} s  {text}", markup=False)

    def _render(self) -> Table:
        seconds = time.monotonic() - self._began
        table = Table.grid(padding=(0, 1))
        if self._state is None or not self._state.programs:
            table.add_row(Spinner("dots"), f"{self._step} … {seconds:.0f} s")
            return table
        for program in self._state.programs:
            mark = MARKS.get(program.phase) or Spinner("dots")
            table.add_row(mark, program.name, Text(_phase_in_words(program), style="dim"))
        table.add_row("", Text(f"{seconds:.0f} s", style="dim"))
        return table


def _kind(step: str) -> str:
    return step.partition(",")[0]


def _phase_in_words(program: ProgramState) -> str:
    if program.phase == "crashed" or (program.restarts and program.phase == "starting"):
        return f"{program.phase}, restarted {program.restarts} times ({program.last_exit})"
    return program.phase
