"""Stretches of `usage.events` on real Kafka: bounds, order, limits, and what is gone."""

import asyncio
import base64
from datetime import timedelta
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition

from deploy.local.scratch import RunningKafka
from libs.db.pool import Database
from libs.ids import new_id
from libs.messaging import topic_reader
from libs.messaging.create_topics import create_topics
from libs.messaging.topic_reader import RecordsGoneError
from libs.testing.databases import TestDatabase
from metering.world import PEPPER
from services.metering import archive, archiving, store_archive
from services.metering.archiving import ArchiverFailedError
from services.metering.usage_log import TOPIC, UsageLog, usage_partition
from services.metering.usage_reader import UsageReader

pytestmark = pytest.mark.kafka


async def test_usage_is_read_and_archived_by_offsets(
    kafka_server: RunningKafka,
    metering: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await create_topics(kafka_server.bootstrap)
    usage_log, reader = UsageLog(kafka_server.bootstrap), UsageReader(kafka_server.bootstrap)
    tenant = new_id()
    place = usage_partition(tenant)
    values = [b'{"mode":"test","id":"%d"}' % number for number in range(3_000)]
    begin = (await reader.bounds())[place].end
    try:
        await usage_log.publish(tenant, values)
    finally:
        await usage_log.close()
    end = (await reader.bounds())[place].end
    assert end - begin == 3_000
    found = await reader.read(place, begin, end)
    assert [record.value for record in found] == values
    assert [record.offset for record in found] == list(range(begin, end))
    monkeypatch.setattr(topic_reader, "RECORDS_MAX", 100)
    some = await reader.read(place, begin, end)
    assert len(some) < 3_000
    assert len(await reader.read(place, begin, begin + 150, whole=True)) == 150

    async with metering.maintenance() as tx:
        await tx.execute(
            "insert into archive_place (partition, next_offset, archived_at) "
            "select p, 0, now() from generate_series(0, 11) p"
        )
        await tx.execute(
            "update archive_place set next_offset = $1 where partition = $2", begin, place
        )
    async with asyncio.timeout(60):
        files: list[archive.ArchivedFile] = []
        while sum(file.records for file in files) < 3_000:
            await archiving.archive_usage(metering, reader, tmp_path, timedelta())
            async with metering.tenant(tenant, "test") as tx:
                files = await store_archive.files_of(tx, tenant)
    records = [record for file in files for record in archive.read(tmp_path, file)]
    assert [record.value for record in records] == values

    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_server.bootstrap)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(TOPIC, place): RecordsToDelete(begin + 10)})
    finally:
        await admin.close()
    assert (await reader.bounds())[place].begin == begin + 10
    with pytest.raises(RecordsGoneError):
        await reader.read(place, begin, end)


async def test_a_process_of_its_own_archives_what_is_due(
    kafka_server: RunningKafka,
    metering: Database,
    database: TestDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await create_topics(kafka_server.bootstrap)
    usage_log, reader = UsageLog(kafka_server.bootstrap), UsageReader(kafka_server.bootstrap)
    tenant = new_id()
    hour = timedelta(hours=1)
    monkeypatch.setenv("SLUICE_METERING_PORT", "8103")
    monkeypatch.setenv("SLUICE_METERING_POSTGRES", database.dsn("metering"))
    monkeypatch.setenv("SLUICE_METERING_ARCHIVE", str(tmp_path))
    monkeypatch.setenv("SLUICE_KAFKA", kafka_server.bootstrap)
    monkeypatch.setenv("SLUICE_KEY_PEPPER", base64.b64encode(PEPPER).decode())
    begins = {place: each.end for place, each in (await reader.bounds()).items()}
    async with metering.maintenance() as tx:
        await tx.execute(
            "insert into archive_place (partition, first_offset, next_offset, archived_at) "
            "select p, n, n, now() from unnest($1::int[], $2::bigint[]) as u(p, n)",
            list(begins),
            list(begins.values()),
        )
    try:
        await usage_log.publish(tenant, [b'{"mode":"test","id":"1"}'])
    finally:
        await usage_log.close()

    # What waits is young, so no process is started at all.
    await archiving.archive_apart(metering, reader, hour, "nothing.of.this.name")
    async with metering.maintenance() as tx:
        await tx.execute("update archive_place set archived_at = now() - interval '2 hours'")
    with pytest.raises(ArchiverFailedError):
        await archiving.archive_apart(metering, reader, hour, "nothing.of.this.name")
    await archiving.archive_apart(metering, reader, hour)
    async with metering.tenant(tenant, "test") as tx:
        (file,) = await store_archive.files_of(tx, tenant)
    (record,) = archive.read(tmp_path, file)
    assert record.value == b'{"mode":"test","id":"1"}'
