"""The archive's files: usage as it came in, in Parquet, by tenant, mode and received day.

    tenant=<uuid>/mode=test/received_day=2026-11-21/03-00000000000000000000-00000000000000020000.parquet

A file holds the records of one stretch of one partition and is named by it: from the first offset to
before the second. The same records make the same bytes. `value` is the record to the byte; the other
columns repeat what people look for. Any engine that knows Parquet reads the folder as one table.
"""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from uuid import UUID

import duckdb

from libs.db.tenant import Mode
from libs.ids import new_id
from libs.messaging.records import Record
from services.metering import archive_rows
from services.metering.archive_rows import EPOCH, Place, Row
from services.metering.usage_log import TOPIC

MEMORY = "192MB"

_READ_ROWS = """
    select record_offset, epoch_us(received_at), value from read_parquet($1) order by record_offset
"""
_FIND_ROWS = """
    select record_offset, epoch_us(received_at), value from read_parquet($1)
    semi join wanted using (source, id) order by record_offset
"""
_WRITE_ROWS = """
    copy (
        select record_offset, make_timestamp(received_at) as received_at,
            id, source, type, subject, userid as user_id, time, value
        from read_json($1, format = 'newline_delimited', columns = {
            record_offset: 'BIGINT', received_at: 'BIGINT', id: 'VARCHAR', source: 'VARCHAR',
            type: 'VARCHAR', subject: 'VARCHAR', userid: 'VARCHAR', time: 'VARCHAR',
            value: 'VARCHAR'}, maximum_object_size = 4194304)
    ) to $2 (format parquet, compression zstd)
"""


class DamagedFileError(RuntimeError):
    """A file of the archive is missing, or is not the one that was written."""


@dataclass(frozen=True)
class ArchivedFile:
    """One file, and what must be in it.

    Attributes:
        first_offset, next_offset: the stretch of the partition; other tenants' records lie in it too.
    """

    tenant_id: UUID
    mode: Mode
    received_day: date
    partition: int
    first_offset: int
    next_offset: int
    records: int
    size_bytes: int
    sha256: bytes

    def path_in(self, folder: Path) -> Path:
        """Where the file lies."""
        place = (self.tenant_id, self.mode, self.received_day)
        return _path(folder, place, self.partition, self.first_offset, self.next_offset)


def _path(folder: Path, place: Place, partition: int, first: int, end: int) -> Path:
    tenant_id, mode, day = place
    inside = f"tenant={tenant_id}/mode={mode}/received_day={day.isoformat()}"
    return folder / inside / f"{partition:02}-{first:020}-{end:020}.parquet"


def write(
    folder: Path, partition: int, first_offset: int, next_offset: int, records: Sequence[Record]
) -> list[ArchivedFile]:
    """Write a stretch, one file for each tenant, mode and day in it; all are on disk on return.

    Raises:
        OSError: the folder cannot be written.
    """
    by_place = archive_rows.rows_by_place(records)
    try:
        with _kept_engine().cursor() as engine:
            return [
                _write_one(
                    engine, folder, place, partition, first_offset, next_offset, by_place[place]
                )
                for place in sorted(by_place)
            ]
    except duckdb.Error:
        # Some failures leave the whole engine unusable: whoever writes next has a new one.
        _kept_engine.cache_clear()
        raise


def read(folder: Path, file: ArchivedFile) -> list[Record]:
    """The records of a file in order, as they came off the topic.

    Raises:
        DamagedFileError: it is missing or altered.
    """
    path = file.path_in(folder)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedFileError(f"{path.name} of {file.tenant_id}: {error.strerror}") from None
    if hashlib.sha256(content).digest() != file.sha256:
        raise DamagedFileError(f"{path.name} of {file.tenant_id} is not what was written")
    with _engine() as engine:
        rows = engine.execute(_READ_ROWS, [str(path)]).fetchall()
    return [_record(file, *row) for row in rows]


def find(
    folder: Path, files: Sequence[ArchivedFile], names: Sequence[tuple[str, str]]
) -> list[Record]:
    """Archived records with one of these sources and ids.

    Raises:
        DamagedFileError: a file is missing.
    """
    wanted = [[source for source, _ in names], [event_id for _, event_id in names]]
    found: list[Record] = []
    with _engine() as engine:
        engine.execute(
            "create table wanted as select unnest($1::varchar[]) as source, "
            "unnest($2::varchar[]) as id",
            wanted,
        )
        for file in files:
            path = file.path_in(folder)
            if not path.is_file():
                raise DamagedFileError(f"{path.name} of {file.tenant_id}: it is not there")
            rows = engine.execute(_FIND_ROWS, [str(path)]).fetchall()
            found += [_record(file, *row) for row in rows]
    return found


def _record(file: ArchivedFile, offset: int, received_at: int, value: str) -> Record:
    """A row of a file as it came off the topic."""
    at = EPOCH + timedelta(microseconds=received_at)
    return Record(TOPIC, file.partition, offset, at, str(file.tenant_id).encode(), value.encode())


def _write_one(
    engine: duckdb.DuckDBPyConnection,
    folder: Path,
    place: Place,
    partition: int,
    first_offset: int,
    next_offset: int,
    rows: list[Row],
) -> ArchivedFile:
    path = _path(folder, place, partition, first_offset, next_offset)
    content = _write_file(engine, path, rows)
    return ArchivedFile(
        *place,
        partition,
        first_offset,
        next_offset,
        len(rows),
        len(content),
        hashlib.sha256(content).digest(),
    )


def _write_file(engine: duckdb.DuckDBPyConnection, path: Path, rows: list[Row]) -> bytes:
    """Write a file whole or not at all; its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*"):
        # Of a writer that crashed; whoever else writes this file at this moment begins again.
        left.unlink(missing_ok=True)
    mine = path.with_name(f".{path.name}.{new_id()}")
    draft, made = mine.with_suffix(".rows"), mine.with_suffix(".made")
    try:
        draft.write_bytes(archive_rows.lines(rows))
        engine.execute(_WRITE_ROWS, [str(draft), str(made)])
        with made.open("rb") as written:
            os.fsync(written.fileno())
            content = written.read()
        made.replace(path)
        _sync_folders(path.parent)
    finally:
        draft.unlink(missing_ok=True)
        made.unlink(missing_ok=True)
    return content


def _sync_folders(day: Path) -> None:
    """Make the names of the file and of its three folders durable."""
    for folder in (day, *list(day.parents)[:3]):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@cache
def _kept_engine() -> duckdb.DuckDBPyConnection:
    """The engine of a process that writes; to start one takes as long as 5,000 records do."""
    return _engine()


def _engine() -> duckdb.DuckDBPyConnection:
    """An engine in memory: one thread, so that the same rows make the same bytes."""
    return duckdb.connect(
        ":memory:",
        config={
            "threads": "1",
            "memory_limit": MEMORY,
            "temp_directory": tempfile.gettempdir(),
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        },
    )
