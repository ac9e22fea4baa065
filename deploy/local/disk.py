"""Room on the disk: asked for before a start, named when a start ran out of it."""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from deploy.local.errors import StackError

MB = 1024 * 1024
FIRST_START_MB = 1024
LATER_START_MB = 256
VARIABLE = "SLUICE_MIN_FREE_DISK_MB"
# As the C library, Java and Postgres say it.
SYMPTOMS = (os.strerror(errno.ENOSPC).lower(), os.strerror(errno.EDQUOT).lower(), "disk full")


def require_room(root: Path, environment: Mapping[str, str], *, first_start: bool) -> None:
    """Refuse to start where the disk is nearly full.

    Raises:
        StackError: there is too little room; the message says how much is needed and where.
    """
    default = FIRST_START_MB if first_start else LATER_START_MB
    text = environment.get(VARIABLE) or str(default)
    if not text.isdigit():
        raise StackError(f"{VARIABLE} must be a whole number of megabytes, not {text!r}.")
    free_mb = shutil.disk_usage(root).free // MB
    if free_mb < int(text):
        raise StackError(
            f"The disk is nearly full: {root} has {free_mb} MB left, and the stack needs {text} MB."
            f" Free some space, or lower {VARIABLE}."
        )


def tells_of_full_disk(lines: list[str] | tuple[str, ...]) -> bool:
    """Whether a program's words say that it found no room."""
    return any(symptom in line.lower() for line in lines for symptom in SYMPTOMS)


@contextmanager
def full_disk_named(root: Path) -> Iterator[None]:
    """Turn running out of room inside the block into a sentence.

    Raises:
        StackError: in place of the error that came from a full disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise StackError(full_disk_message(root)) from error
    except StackError as error:
        if not tells_of_full_disk((str(error), *error.details)):
            raise
        raise StackError(full_disk_message(root), error.details) from error


def full_disk_message(root: Path) -> str:
    """What to say when the disk ran full."""
    return f"The disk is full: there is no room left in {root}. Free some space and try again."
