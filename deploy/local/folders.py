"""Where a stack keeps its things: everything under one folder, `.local` for the laptop stack."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LAPTOP_ROOT = REPOSITORY / ".local"
# Downloads are shared by every stack of the checkout and survive a reset.
CACHE = LAPTOP_ROOT / "cache"


@dataclass(frozen=True, slots=True)
class Folders:
    """The places inside a stack's root folder."""

    root: Path

    @property
    def env(self) -> Path:
        """Every variable of the stack; mode 0600, for it holds the secrets."""
        return self.root / "env"

    @property
    def programs(self) -> Path:
        """What the supervisor is to run; mode 0600."""
        return self.root / "run" / "programs.json"

    @property
    def state(self) -> Path:
        """What the supervisor runs at this moment."""
        return self.root / "run" / "state.json"

    @property
    def supervisor_lock(self) -> Path:
        """Held by the supervisor as long as it lives."""
        return self.root / "run" / "supervisor.lock"

    @property
    def command_lock(self) -> Path:
        """Held by a command that starts or stops the stack."""
        return self.root / "run" / "command.lock"

    @property
    def logs(self) -> Path:
        """One file for each program, and the supervisor's own."""
        return self.root / "logs"

    @property
    def master_keys(self) -> Path:
        """The master keys; without them the stack's sealed values are lost."""
        return self.root / "data" / "master-keys"

    @property
    def postgres(self) -> Path:
        """Postgres' data folder."""
        return self.root / "data" / "postgres"

    @property
    def kafka(self) -> Path:
        """Kafka's configuration and data."""
        return self.root / "data" / "kafka"

    @property
    def caddy(self) -> Path:
        """Caddy's configuration and what it stores."""
        return self.root / "data" / "caddy"

    @property
    def usage_archive(self) -> Path:
        """Usage as it came in, in Parquet."""
        return self.root / "data" / "usage-archive"

    def log(self, program: str) -> Path:
        """The log of one program."""
        return self.logs / f"{program}.log"

    def create(self) -> None:
        """Make the folders that hold no program's own data; what is in them is nobody else's."""
        for folder in (self.programs.parent, self.logs, self.root / "data"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file's content so that readers see the old or the new, never a part.

    Raises:
        OSError: the file cannot be written; the old one is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "w") as handle:
            os.fchmod(handle.fileno(), mode)
            handle.write(text)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold a lock file; the kernel frees it when the process ends, however it ends."""
    lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def is_held(lock: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        with lock.open("r") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
