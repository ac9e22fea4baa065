"""What the supervisor is told to run, and what it tells about it; both as JSON files."""

import signal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from deploy.local.process import ProcessIdentity


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HttpReady(_Record):
    """Ready when `ready_url` answers 200; started, for the order of things, when `alive_url` does."""

    kind: Literal["http"] = "http"
    port: int
    alive_path: str = "/healthz"
    ready_path: str = "/readyz"


class TcpReady(_Record):
    """Ready when the port takes connections."""

    kind: Literal["tcp"] = "tcp"
    port: int


class PostgresReady(_Record):
    """Ready when the server of this data folder says so."""

    kind: Literal["postgres"] = "postgres"
    data: Path


class KafkaReady(_Record):
    """Ready when the broker counts itself among the living."""

    kind: Literal["kafka"] = "kafka"
    port: int


class DoneReady(_Record):
    """Ready when the program has ended with exit code 0; it runs once for each start of the stack."""

    kind: Literal["done"] = "done"


Ready = Annotated[
    HttpReady | TcpReady | PostgresReady | KafkaReady | DoneReady, Field(discriminator="kind")
]


class Program(_Record):
    """One program of a stack.

    Attributes:
        stage: programs of a stage start together, when all of the stage before are ready.
        user: an operating-system user other than the supervisor's own.
        private_folder: a folder in which only this program's processes work.
        stop_seconds: how long it may take to stop before it is killed.
        start_seconds: how long it may take to become ready while the stack starts.
    """

    name: str
    command: list[str]
    folder: Path
    environment: dict[str, str]
    ready: Ready
    stage: int = 0
    user: str | None = None
    private_folder: Path | None = None
    stop_signal: int = signal.SIGTERM
    stop_seconds: float = 15
    start_seconds: float = 60


class Programs(_Record):
    """Everything one supervisor runs.

    Attributes:
        starting_at_once: how many programs of a stage load at the same time; loading is bound by
            the processor, and too many at once make each of them late.
        code_version: what tells the code they were started from apart from later code.
    """

    programs: list[Program]
    starting_at_once: int = 3
    code_version: str = ""


Phase = Literal["waiting", "starting", "ready", "done", "crashed", "failed", "stopping", "stopped"]


class ProgramState(BaseModel):
    """What one program is doing.

    Attributes:
        restarts: how often it was started again after it ended by itself.
        last_exit: how it ended the last time, in words.
    """

    name: str
    phase: Phase = "waiting"
    identity: ProcessIdentity | None = None
    private_folder: Path | None = None
    restarts: int = 0
    last_exit: str | None = None

    @property
    def pid(self) -> int | None:
        """The pid of its first process, while it runs."""
        return self.identity.pid if self.identity else None


class StackState(BaseModel):
    """What a supervisor and its programs are doing.

    Attributes:
        phase: `running` once every program was ready; it does not say that all are ready now.
        message: why the start failed, in a sentence.
        details: the lines of a log that show it.
    """

    supervisor: ProcessIdentity
    phase: Literal["starting", "running", "stopping", "failed"] = "starting"
    message: str = ""
    details: list[str] = []
    programs: list[ProgramState] = []
