"""The archive: every record to the byte, the same files when written twice, and nothing unnoticed."""

import asyncio
import base64
import json
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import duckdb
import msgspec
import pytest
from aiokafka.errors import KafkaConnectionError

from libs.clock import utc_now
from libs.db.pool import TRANSIENT_ERRORS, Database
from libs.messaging.records import Record
from libs.messaging.topic_reader import Bounds
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from metering.reading import MemoryUsageReader
from metering.world import PEPPER, Api, World
from services.metering import archive, archiving, store_archive
from services.metering.archive import ArchivedFile, DamagedFileError
from services.metering.archiving import ArchiverFailedError, ArchiverHinderedError
from services.metering.usage_log import TOPIC

AT_ONCE = timedelta()


async def files_of(database: Database, tenant_id: UUID) -> list[ArchivedFile]:
    async with database.tenant(tenant_id, "test") as tx:
        return await store_archive.files_of(tx, tenant_id)


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


async def test_what_came_in_is_archived_to_the_byte(world: World, tmp_path: Path) -> None:
    value = b'{"mode":"test", "id":"\\u0000\\ud800", "data":{"n": 1.10}, "x": "\xc3\xbc"}'
    key = str(world.acme.id).encode()
    world.log.append(TOPIC, key, value)
    for party in (world.acme, world.globex, world.acme):
        world.put(party, world.event(subject="shop-7"))
    world.put(world.acme, world.event(), mode="live")
    yesterday = utc_now() - timedelta(days=1)
    world.log.append(TOPIC, key, b'{"mode":"test"}', at=yesterday)
    for bad_key, bad in ((b"nobody", value), (key, None), (key, b"{"), (key, b'{"mode":"x"}')):
        world.log.append(TOPIC, bad_key, bad)
    reader = MemoryUsageReader(world.log)
    await archiving.archive_usage(world.database, reader, tmp_path, AT_ONCE)  # type: ignore[arg-type]

    files = await files_of(world.database, world.acme.id)
    found = [record for file in files for record in archive.read(tmp_path, file)]
    whole = {record.offset: record for record in world.log.topics[TOPIC]}
    assert [record.offset for record in found] == [5, 0, 1, 3]
    assert found == [whole[record.offset] for record in found]
    assert len(await files_of(world.database, world.globex.id)) == 1
    async with world.database.tenant(world.acme.id, "live") as tx:
        assert len(await store_archive.files_of(tx, world.acme.id)) == 1
    table = duckdb.sql(
        f"select tenant, received_day, subject, value from '{tmp_path}/**/*.parquet' "
        "where subject is not null order by record_offset"
    ).fetchall()
    assert [str(row[0]) for row in table] == [
        str(party.id) for party in (world.acme, world.globex, world.acme)
    ]
    await archiving.archive_usage(world.database, reader, tmp_path, AT_ONCE)  # type: ignore[arg-type]
    assert reader.reads == [(0, 10)], "nothing new, nothing read"


async def test_a_stretch_written_twice_is_the_same_file(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        world.put(world.acme, world.event())
    reader = MemoryUsageReader(world.log, stretch=3)

    async def crash(*_: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as patched:
        patched.setattr(store_archive, "finish", crash)
        with pytest.raises(ConnectionError):
            await archiving.archive_usage(world.database, reader, tmp_path, AT_ONCE)  # type: ignore[arg-type]
    written = content_of(tmp_path)
    assert len(written) == 1
    assert await files_of(world.database, world.acme.id) == []
    world.put(world.acme, world.event())
    reader.stretch = 1_000
    await archiving.archive_usage(world.database, reader, tmp_path, AT_ONCE)  # type: ignore[arg-type]
    content = content_of(tmp_path)
    assert content.items() >= written.items(), "the stretch that was settled, to the byte"
    first, second = await files_of(world.database, world.acme.id)
    assert (first.first_offset, first.next_offset, second.next_offset) == (0, 3, 6)
    assert len(content_of(tmp_path)) == 2


@dataclass
class TwoPartitions:
    """The log in memory as two partitions of the same records."""

    log: MemoryLog

    async def bounds(self) -> dict[int, Bounds]:
        return dict.fromkeys((0, 1), Bounds(0, len(self.log.topics[TOPIC])))

    async def read(
        self, partition: int, first: int, end: int, *, whole: bool = False
    ) -> list[Record]:
        del whole
        return [
            msgspec.structs.replace(each, partition=partition)
            for each in self.log.topics[TOPIC][first:end]
        ]


async def test_a_partition_that_fails_holds_up_no_other(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(world.acme, world.event())
    await store_archive.list_places(world.database, {0: 0, 1: 0}, utc_now() - timedelta(hours=3))
    straight = archive.write

    def write(folder: Path, partition: int, *rest: Any) -> list[ArchivedFile]:
        if partition == 0:
            raise duckdb.InvalidInputException("each time")
        return straight(folder, partition, *rest)

    monkeypatch.setattr(archive, "write", write)
    archiving.USAGE_ARCHIVE_AGE_SECONDS.set(0)
    with pytest.raises(duckdb.InvalidInputException):
        await archiving.archive_usage(
            world.database,
            TwoPartitions(world.log),  # type: ignore[arg-type]
            tmp_path,
            AT_ONCE,
        )
    assert [file.partition for file in await files_of(world.database, world.acme.id)] == [1]
    assert archiving.USAGE_ARCHIVE_AGE_SECONDS._value.get() >= 3 * 3600


async def test_a_record_larger_than_any_event_is_left_out(world: World, tmp_path: Path) -> None:
    world.put(world.acme, world.event(data={"calls": "x" * 5_000_000}))
    world.put(world.acme, world.event(data={"calls": '"' * 200_000}))
    reader = MemoryUsageReader(world.log)
    await archiving.archive_usage(world.database, reader, tmp_path, AT_ONCE)  # type: ignore[arg-type]
    (file,) = await files_of(world.database, world.acme.id)
    assert (file.records, file.next_offset) == (1, 2)


async def test_usage_waits_a_while_so_that_files_are_few(world: World, tmp_path: Path) -> None:
    world.put(world.acme, world.event())
    reader = MemoryUsageReader(world.log)
    hour = timedelta(hours=1)
    await archiving.archive_usage(world.database, reader, tmp_path, hour)  # type: ignore[arg-type]
    assert content_of(tmp_path) == {}
    async with world.database.maintenance() as tx:
        await tx.execute("update archive_place set archived_at = archived_at - interval '1 hour'")
    await archiving.archive_usage(world.database, reader, tmp_path, hour)  # type: ignore[arg-type]
    assert len(content_of(tmp_path)) == 1


async def test_what_the_topic_deleted_first_is_told(world: World, tmp_path: Path) -> None:
    for _ in range(4):
        world.put(world.acme, world.event())
    reader = MemoryUsageReader(world.log)
    await store_archive.list_places(world.database, {0: 0}, utc_now())
    reader.begin = 3
    for _ in range(2):
        await archiving.archive_usage(world.database, reader, tmp_path, AT_ONCE)  # type: ignore[arg-type]
    (place,) = await store_archive.list_places(world.database, {0: 3}, utc_now())
    assert (place.next_offset, place.lost_records) == (4, 3)
    assert archiving.USAGE_ARCHIVE_LOST_RECORDS._value.get() == 3


async def test_a_process_that_archives_says_whether_its_failure_passes(
    world: World,
    database: TestDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unused_tcp_port: int,
) -> None:
    world.put(world.acme, world.event())
    reader = MemoryUsageReader(world.log)
    for name, value in {
        "SLUICE_METERING_PORT": "8103",
        "SLUICE_METERING_POSTGRES": database.dsn("metering"),
        "SLUICE_METERING_ARCHIVE": str(tmp_path),
        "SLUICE_KAFKA": f"127.0.0.1:{unused_tcp_port}",
        "SLUICE_KEY_PEPPER": base64.b64encode(PEPPER).decode(),
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ArchiverHinderedError, match="for now"):
        await archiving.archive_apart(world.database, reader, AT_ONCE)  # type: ignore[arg-type]
    assert issubclass(ArchiverHinderedError, TRANSIENT_ERRORS)
    with pytest.raises(ArchiverFailedError, match="status 1"):
        await archiving.archive_apart(
            world.database,
            reader,  # type: ignore[arg-type]
            AT_ONCE,
            "nothing.of.this.name",
        )


async def test_who_found_nothing_to_archive_leaves_another_s_plan(world: World) -> None:
    (seen,) = await store_archive.list_places(world.database, {0: 0}, utc_now())
    assert await store_archive.plan(world.database, seen, 2)
    await store_archive.finish(world.database, seen, 0, [], utc_now())
    (planned,) = await store_archive.list_places(world.database, {0: 0}, utc_now())
    assert (planned.next_offset, planned.planned_offset) == (0, 2)
    await store_archive.finish(world.database, planned, 2, [], None)
    (after,) = await store_archive.list_places(world.database, {0: 0}, utc_now())
    assert (after.next_offset, after.planned_offset) == (2, None)


async def test_a_failure_that_passes_hides_no_other(world: World, tmp_path: Path) -> None:
    class Torn(MemoryUsageReader):
        """Of three partitions the first and the last cannot be reached, the one between is torn."""

        async def bounds(self) -> dict[int, Bounds]:
            return dict.fromkeys(range(3), Bounds(0, 1))

        async def read(self, partition: int, *_: int, **__: bool) -> list[Record]:
            if partition == 1:
                raise archiving.CutShortError
            raise KafkaConnectionError

    with pytest.raises(archiving.CutShortError):
        await archiving.archive_usage(
            world.database,
            Torn(world.log),  # type: ignore[arg-type]
            tmp_path,
            AT_ONCE,
        )


async def test_a_process_that_never_ends_is_given_up(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(world.acme, world.event())
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(archiving, "ENDS_WITHIN", timedelta(milliseconds=50))
    reader = MemoryUsageReader(world.log)
    with pytest.raises(ArchiverHinderedError, match="did not end within"):
        async with asyncio.timeout(60):
            await archiving.archive_apart(world.database, reader, AT_ONCE, "endless")  # type: ignore[arg-type]


async def test_a_process_that_archives_ends_with_the_service(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(world.acme, world.event())
    program = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\n"
    (tmp_path / "endless.py").write_text(program + "time.sleep(600)\n")
    monkeypatch.chdir(tmp_path)
    reader = MemoryUsageReader(world.log)
    archives = asyncio.create_task(
        archiving.archive_apart(world.database, reader, AT_ONCE, "endless")  # type: ignore[arg-type]
    )
    async with asyncio.timeout(60):
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            await asyncio.sleep(0.01)
    archives.cancel()
    with pytest.raises(asyncio.CancelledError):
        await archives
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_a_damaged_file_is_noticed(world: World, tmp_path: Path) -> None:
    world.put(world.acme, world.event())
    reader = MemoryUsageReader(world.log)
    await archiving.archive_usage(world.database, reader, tmp_path, AT_ONCE)  # type: ignore[arg-type]
    (file,) = await files_of(world.database, world.acme.id)
    path = file.path_in(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedFileError, match="not what was written"):
        archive.read(tmp_path, file)
    path.unlink()
    with pytest.raises(DamagedFileError, match="No such file"):
        archive.read(tmp_path, file)


def test_the_same_records_make_the_same_bytes(tmp_path: Path) -> None:
    now = utc_now()
    key = b"01920000-0000-7000-8000-000000000001"
    records = [
        Record(TOPIC, 3, number, now, key, json.dumps({"mode": "test", "id": str(number)}).encode())
        for number in range(500)
    ]
    (one,) = archive.write(tmp_path / "a", 3, 0, 500, records)
    (two,) = archive.write(tmp_path / "b", 3, 0, 500, records)
    assert one == two
    assert archive.read(tmp_path / "a", one) == records
    assert content_of(tmp_path / "a") == content_of(tmp_path / "b")


def test_an_engine_that_failed_is_not_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = b"01920000-0000-7000-8000-000000000001"
    records = [Record(TOPIC, 3, 0, utc_now(), key, b'{"mode":"test"}')]
    with monkeypatch.context() as patched:
        patched.setattr(archive, "_WRITE_ROWS", "copy nothing to $1 or $2")
        archive._kept_engine.cache_clear()
        with pytest.raises(duckdb.Error):
            archive.write(tmp_path, 3, 0, 1, records)
    assert archive._kept_engine.cache_info().currsize == 0
    (file,) = archive.write(tmp_path, 3, 0, 1, records)
    assert archive.read(tmp_path, file)[0].value == records[0].value
    assert [path for path in content_of(tmp_path) if not path.endswith(".parquet")] == []


async def test_the_list_of_files_is_a_tenants_own(world: World, tmp_path: Path) -> None:
    world.put(world.acme, world.event())
    reader = MemoryUsageReader(world.log)
    await archiving.archive_usage(world.database, reader, tmp_path, AT_ONCE)  # type: ignore[arg-type]
    async with world.database.tenant(world.globex.id, "test") as tx:
        assert await store_archive.files_of(tx, world.acme.id) == []
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with world.database.tenant(world.globex.id, "test") as tx:
            await tx.execute(
                "insert into archived_file select $1, 'test', now(), 0, 0, 1, 1, 1, ''",
                world.acme.id,
            )


async def test_archiving_does_not_change_what_is_counted(
    api: Api, world: World, tmp_path: Path
) -> None:
    await api.meter(world.platform)
    await api.send(world.acme, world.event(), world.event())
    reader = MemoryUsageReader(world.log)
    await archiving.archive_usage(world.database, reader, tmp_path, AT_ONCE)  # type: ignore[arg-type]
    assert await api.value(world.acme) == 2
