"""`sluice audit verify` on a real Kafka: what is in Postgres against what was told."""

import asyncio
import json
import secrets
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from click.testing import Result
from typer.testing import CliRunner

from cli import audit_commands, audit_proof
from cli.main import app
from deploy.local.scratch import RunningKafka
from libs.messaging.records import Record
from libs.testing.databases import TestDatabase
from services.tenants import jobs
from tenants.conftest import World


async def put_on_kafka(bootstrap: str, topic: str, records: list[Record]) -> None:
    """The same records at the same offsets."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        for record in records:
            await producer.send_and_wait(
                topic, key=record.key, value=record.value, headers=list(record.headers)
            )
    finally:
        await producer.stop()


@pytest.fixture
async def logged(
    world: World,
    database: TestDatabase,
    kafka_server: RunningKafka,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    """Two tenants whose audit log is signed, and on a topic of this test's own."""
    for name in ("Acme", "Globex"):
        await world.sign_up(name)
        await world.make_key(name.lower(), "usage:read")
    await jobs.anchor_audit(world.database, world.settings)
    await world.settle()
    topic = f"audit.events.{secrets.token_hex(4)}"
    await put_on_kafka(kafka_server.bootstrap, topic, world.log.topics["audit.events"])
    async with database.admin() as admin:
        await admin.execute(
            "update tenants.fence set topic = $1 where topic = 'audit.events'", topic
        )
    monkeypatch.setattr(audit_proof, "TOPIC", topic)
    variables = {"SLUICE_POSTGRES": database.admin_dsn, "SLUICE_KAFKA": kafka_server.bootstrap}
    stack = SimpleNamespace(environment=lambda: variables)
    monkeypatch.setattr(audit_commands, "laptop_stack", lambda: stack)
    return world


async def run(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, ["audit", "verify", *arguments])


async def findings(*arguments: str) -> dict[str, Any]:
    result = await run("--json", *arguments)
    return {each["slug"]: each for each in json.loads(result.stdout)}


async def test_a_log_that_nobody_touched_holds(logged: World) -> None:
    del logged
    result = await run()
    assert result.exit_code == 0, result.output
    found = await findings()
    assert set(found) == {"platform", "default", "acme", "globex"}
    assert found["acme"]["entries"] == found["acme"]["signed_seq"] > 2
    assert found["acme"]["forged_heads"] == 0
    assert set(await findings("--tenant", "ACME")) == {"acme"}
    assert set(await findings("--tenant", found["globex"]["tenant_id"])) == {"globex"}
    assert (await run("--tenant", "nobody")).exit_code == 1


@pytest.mark.parametrize(
    ("sql", "first"),
    [
        ("update tenants.audit_entry set actor = 'x' where seq = 2 and tenant_id = $1", 2),
        ("delete from tenants.audit_entry where seq >= 2 and tenant_id = $1", 2),
        ("delete from tenants.audit_entry where tenant_id = $1", 1),
        ("update tenants.audit_entry set hash = sha256(hash) where seq = 3 and tenant_id = $1", 3),
    ],
)
async def test_the_first_broken_entry_is_named(
    logged: World, database: TestDatabase, sql: str, first: int
) -> None:
    acme = UUID((await findings("--tenant", "acme"))["acme"]["tenant_id"])
    async with database.admin() as admin:
        await admin.execute(sql, acme)
    result = await run("--json")
    assert result.exit_code == audit_commands.EXIT_BROKEN == 3
    found = {each["slug"]: each for each in json.loads(result.stdout)}
    assert found["acme"]["first_broken_seq"] == first
    assert found["acme"]["reason"]
    assert found["globex"]["first_broken_seq"] is None
    assert (await run()).exit_code == 3
    assert (await run("--tenant", "globex")).exit_code == 0
    del logged
