"""Undelivered events on disk: one file per batch, so that no crash and no full disk can tear one.

Several processes may share a folder: a file is locked by whoever sends it, and what a dead process
left is sent by the next one. A batch that was delivered but not yet deleted is sent again and counts
once.
"""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sluice_client.event import Event, new_id

log = logging.getLogger("sluice_client")

_SUFFIX = ".jsonl"


@dataclass
class SpooledBatch:
    """A batch on disk, locked by this process until it is deleted or released."""

    path: Path
    events: tuple[Event, ...]
    _file: IO[bytes]

    def delete(self) -> None:
        """It was delivered; a file that cannot be deleted is sent again, which does no harm."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Whoever comes next may try. A child of a fork holds the file too, so the lock goes first."""
        with contextlib.suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()


class Spool:
    """The folder of one or several clients."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._bytes_max = bytes_max

    def write(self, events: Sequence[Event]) -> bool:
        """Put a batch on disk for good; False where there is no room or the disk refuses."""
        body = b"".join(event.body + b"\n" for event in events)
        unfinished = self._folder / f"{new_id()}.part"
        try:
            if self._size() + len(body) > self._bytes_max:
                return False
            with unfinished.open("xb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(unfinished.with_suffix(_SUFFIX))
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            return False
        return True

    def oldest(self) -> SpooledBatch | None:
        """The oldest batch that nobody else is sending."""
        for path in self._batches():
            try:
                file = path.open("rb")
            except OSError:
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists():
                    return SpooledBatch(path, tuple(map(_read, file)), file)
            except (ValueError, KeyError, TypeError):
                self._set_aside(path)
            except OSError:
                pass
            file.close()
        return None

    def is_empty(self) -> bool:
        """Whether nothing waits here."""
        return not self._batches()

    def _batches(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{_SUFFIX}"))

    def _set_aside(self, path: Path) -> None:
        """A file that is none of ours, or was damaged, must not be in the way for ever."""
        log.error("%s cannot be read and is set aside", path)
        with contextlib.suppress(OSError):
            path.rename(path.with_suffix(".unreadable"))

    def _size(self) -> int:
        return sum(path.stat().st_size for path in self._batches())


def _read(line: bytes) -> Event:
    body = line.rstrip(b"\n")
    document = json.loads(body)
    return Event(document["id"], document["source"], body)
