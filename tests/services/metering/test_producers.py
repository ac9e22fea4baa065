"""Direct producers: who proves a right to a tenant and mode is counted, the rest is put aside."""

import json
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.clock import format_time, utc_now
from libs.contracts.audit import ConfigurationChanged, SecurityEventRaised
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database
from libs.directory.local import Directory
from libs.ids import new_id
from libs.messaging.records import Record
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from metering.reading import MemoryUsageReader
from metering.test_corrections import named
from metering.test_intake import letters
from metering.world import PEPPER, Api, Party, World, checksums
from services.metering import archiving, jobs, rebuilding, routes_producers
from services.metering.admission import Admission
from services.metering.handlers import HANDLERS, batch_handlers_of
from services.metering.producers import (
    PRODUCER_HEADER,
    SEAL_HEADER,
    Pass,
    ProducerKeys,
    code_of,
)
from services.metering.usage_log import TOPIC, UsageLog
from services.metering.voiding import VOIDED
from sluice_client.direct import headers_of

KEYS = ProducerKeys.under(PEPPER)
ADMISSION = Admission(KEYS, utc_now() - timedelta(days=1))


@pytest.fixture
async def metering(database: TestDatabase, log: MemoryLog) -> AsyncGenerator[Database, None]:
    """The service with producers that prove their right."""
    async with database.open("metering") as opened:
        log.add(opened, HANDLERS, batch_handlers=batch_handlers_of(ADMISSION), parks=False)
        yield opened


@pytest.fixture
def api(api: Api) -> Api:
    """The service's interface, with the keys it hands passes out under."""
    api.client._transport.app.state.producer_keys = KEYS  # type: ignore[attr-defined]
    return api


async def producer(api: Api, party: Party | None = None, **body: Any) -> dict[str, Any]:
    """A producer for one tenant, or for all of them."""
    headers = {} if party is None else {"X-Tenant-ID": str(party.id)}
    answer = await api.post(
        "/api/v1/usage/producers", api.world.platform, {"name": "edge"} | body, **headers
    )
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def put(world: World, party: Party, held: dict[str, Any] | None = None, **changes: Any) -> Record:
    """Put an event straight on the topic, with the proof that its producer holds."""
    value = json.dumps({"mode": "test"} | world.event() | changes.pop("event", {})).encode()
    key = str(party.id).encode()
    headers: tuple[tuple[str, bytes | None], ...] = ()
    if held is not None:
        headers = tuple(headers_of(held["pass"], held["secret"], key, value))
    headers = changes.pop("headers", headers)
    return world.log.append(TOPIC, key, changes.pop("value", value), headers, **changes)


async def test_a_producer_is_held_to_its_tenant_and_mode(
    api: Api, world: World, database: TestDatabase
) -> None:
    await api.meter(world.platform)
    own, every = await producer(api, world.acme), await producer(api)
    assert (own["tenant_id"], every["tenant_id"]) == (str(world.acme.id), None)
    put(world, world.acme, own)
    put(world, world.acme, every)
    put(world, world.globex, every)
    put(world, world.globex, own)
    put(world, world.acme, own, event={"mode": "live"})
    put(world, world.acme)
    put(world, world.acme, own, value=b'{"changed": "after it was signed"}')
    put(world, world.acme, own | {"secret": every["secret"]})
    put(world, world.acme, own | {"pass": own["pass"].replace(str(world.acme.id), "all")})
    put(world, world.acme, own, at=utc_now() + timedelta(days=91))
    put(world, world.acme, own, value=None)
    put(world, world.acme, headers=((PRODUCER_HEADER, None),))
    put(world, world.acme, headers=((PRODUCER_HEADER, b"\xff" * 50),))
    put(world, world.acme, own, event={"data": {"calls": "lots"}})
    await world.log.settle()
    assert sorted(await letters(database)) == sorted(
        [
            *("not_its_tenant", "not_its_mode", "no_proof", "bad_proof", "bad_proof", "bad_proof"),
            *("pass_expired", "bad_proof", "bad_proof", "bad_proof", "invalid_value"),
        ]
    )
    assert (await api.value(world.acme), await api.value(world.globex)) == (2, 1)
    raised = [
        each for each in world.log.events(SecurityEventRaised) if each.data.kind == "usage_refused"
    ]
    assert {each.tenant_id for each in raised} == {PLATFORM_TENANT_ID}
    told = [(each.data.actor, each.data.permission) for each in raised]
    actor = f"producer_{own['id'].removeprefix('prd_')}"
    assert sorted(told) == sorted(
        [
            *((actor, "not_its_tenant"), (actor, "not_its_mode"), (actor, "pass_expired")),
            *(("anonymous", "no_proof"), ("anonymous", "bad_proof")),
        ]
    ), "each once, however many there were"
    before = await checksums(database)
    for clear in (False, True):
        await world.log.replay(clear_inboxes=clear)
        assert await checksums(database) == before


async def test_a_pass_is_no_right_to_what_only_the_ingest_says(
    api: Api, world: World, database: TestDatabase
) -> None:
    """Voids, what reservations and corrections publish, and clocks that make old events young."""
    await api.meter(world.platform)
    held = await producer(api, world.acme)
    text = Pass(new_id(), world.acme.id, "live", utc_now() + timedelta(days=1)).text
    live = {"pass": text, "secret": KEYS.secret_of(text)}
    event = world.event()
    put(world, world.acme, held, event=event)
    await world.log.settle()
    tables = ("usage_event_id", "usage_minute", "usage_value", "usage_series")
    before = await rows_of(database, tables)
    put(world, world.acme, held, event={"type": VOIDED, "data": named(event)})
    for source in ("sluice:reservation", "sluice:correction"):
        put(world, world.acme, held, event={"source": source, "id": f"{new_id()}/0"})
    put(world, world.acme, held, event={"reportedbytheplatform": True})
    old = {"time": format_time(utc_now() - timedelta(days=400)), "clockoffset": -(400 * 86_400)}
    put(world, world.acme, held, event=old)
    put(world, world.acme, held, event={"clockoffset": -1})
    put(world, world.acme, live, event=old | {"mode": "live"})
    put(world, world.acme, live, event={"mode": "live", "clockoffset": 1})
    await world.log.settle()
    assert await letters(database) == [*["reserved"] * 4, *["clock_offset"] * 4]
    assert await rows_of(database, tables) == before
    put(world, world.acme, held, event={"clockoffset": 3_600})
    await world.log.settle()
    assert await api.value(world.acme) == 2, "a clock that is ahead in test mode is"
    everywhere = await producer(api)
    put(world, world.acme, everywhere, event={"reportedbytheplatform": True})
    await world.log.settle()
    assert await api.value(world.acme) == 3, "who reports for all tenants is the platform's"


async def rows_of(database: TestDatabase, tables: Sequence[str]) -> list[list[str]]:
    """The rows of tables of metering."""
    async with database.admin() as admin:
        return [
            [
                row["row"]
                for row in await admin.fetch(
                    f"select t::text as row from metering.{table} t order by 1"
                )
            ]
            for table in tables
        ]


async def test_our_own_ingest_is_known_by_its_seal(
    api: Api, world: World, database: TestDatabase
) -> None:
    await api.meter(world.platform)
    now = utc_now()
    seal = KEYS.seal(world.acme.id, now)
    put(world, world.acme, headers=((SEAL_HEADER, seal),))
    put(world, world.acme, headers=((SEAL_HEADER, seal),), at=now + timedelta(minutes=50))
    put(world, world.globex, headers=((SEAL_HEADER, seal),))
    put(world, world.acme, headers=((SEAL_HEADER, seal[:-1]),))
    put(world, world.acme, headers=((SEAL_HEADER, seal[:-1] + b"\x00"),))
    put(world, world.acme, headers=((SEAL_HEADER, None),))
    put(world, world.acme, headers=((SEAL_HEADER, seal),), at=now + timedelta(hours=2))
    other = ProducerKeys.under(b"q" * 32).seal(world.acme.id, now)
    put(world, world.acme, headers=((SEAL_HEADER, other),))
    before = ADMISSION.since - timedelta(seconds=1)
    early = {"time": format_time(before)}
    put(world, world.acme, at=before, event=early)
    await world.log.settle()
    assert await letters(database) == [*["bad_proof"] * 4, "pass_expired", "bad_proof"]
    assert await api.value(world.acme) == 2
    async with world.database.tenant(world.acme.id, "test") as tx:
        found = await tx.fetchval("select count(*) from usage_event_id")
    assert found == 3, "what came in before anybody could prove anything is taken"


async def test_the_ingest_seals_what_it_publishes(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    tenant = new_id()

    class Batch:
        def append(self, **record: Any) -> object:
            sent.append(record["headers"])
            return record

        def close(self) -> None:
            """Nothing is kept."""

    class Producer:
        async def send(self, _: str, *, headers: Any, **__: Any) -> Any:
            sent.append(headers)
            return done()

        def create_batch(self) -> Batch:
            return Batch()

        async def send_batch(self, *_: Any, **__: Any) -> Any:
            return done()

    async def done() -> None:
        """Kafka has it."""

    for keys in (KEYS, None):
        usage_log = UsageLog("nowhere:1", keys)

        async def connected(_: UsageLog) -> Any:
            return Producer()

        monkeypatch.setattr(UsageLog, "_connected", connected)
        await usage_log.publish(tenant, [b"{}"])
        await usage_log.publish(tenant, [b"{}"] * 9)
    assert sent[10:] == [[]] * 10, "nothing where nobody asks for proof"
    at = utc_now()
    for (header,) in sent[:10]:
        record = Record(TOPIC, 0, 0, at, str(tenant).encode(), b"{}", (header,))
        assert KEYS.check(record) == (None, None)


async def test_a_revoked_pass_is_refused_from_then_on(
    api: Api, world: World, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.meter(world.platform)
    held = await producer(api, world.acme)
    put(world, world.acme, held)
    monkeypatch.setattr(routes_producers, "REVOKED_AFTER", timedelta(seconds=0))
    path, whose = (
        f"/api/v1/usage/producers/{held['id']}/revoke",
        {"X-Tenant-ID": str(world.acme.id)},
    )
    for _ in range(2):
        answer = await api.post(path, world.platform, {}, **whose)
        assert answer.status_code == 200, answer.text
    put(world, world.acme, held)
    await world.log.settle()
    assert await letters(database) == ["pass_revoked"]
    assert await api.value(world.acme) == 1
    actions = [each.data.action for each in world.log.events(ConfigurationChanged)]
    assert actions.count("usage_producer.created") == 1
    assert actions.count("usage_producer.revoked") == 1


async def test_the_secret_is_told_and_not_kept(
    api: Api, world: World, database: TestDatabase
) -> None:
    headers = {"X-Tenant-ID": str(world.acme.id), "Idempotency-Key": "once"}
    answers = [
        await api.post("/api/v1/usage/producers", world.platform, {"name": "edge"}, **headers)
        for _ in range(2)
    ]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    secret = answers[0].json()["secret"]
    async with database.admin() as admin:
        for table in ("idempotency_key", "usage_producer", "outbox"):
            rows = await admin.fetch(f"select t::text as row from metering.{table} t")
            assert not any(secret in row["row"] for row in rows), table
    listed = await api.client.get(
        "/api/v1/usage/producers",
        headers={"X-API-Key": world.platform.keys[0], "X-Tenant-ID": str(world.acme.id)},
    )
    (item,) = listed.json()["items"]
    assert item == {name: value for name, value in answers[0].json().items() if name != "secret"}
    everybodys = await api.get("/api/v1/usage/producers", world.platform)
    assert everybodys.json()["items"] == []


async def test_only_staff_hands_passes_out(api: Api, world: World) -> None:
    for body in (
        {"name": ""},
        {"name": "a\x00"},
        {"name": "x", "expires_in_days": 0},
        {"name": "x", "expires_in_days": 400},
        {"name": "x", "tenant_id": str(world.globex.id)},
    ):
        answer = await api.post("/api/v1/usage/producers", world.platform, body)
        assert answer.status_code == 422, body
    answer = await api.post("/api/v1/usage/producers", world.acme, {"name": "x"})
    assert answer.status_code == 403
    for name in ("prd_1", f"prd_{new_id()}"):
        path = f"/api/v1/usage/producers/{name}/revoke"
        assert (await api.post(path, world.platform, {})).status_code == 404


async def test_archive_and_rebuild_hold_what_was_let_in(
    api: Api, world: World, database: TestDatabase, tmp_path: Path
) -> None:
    await api.meter(world.platform)
    held = await producer(api, world.acme)
    reader = MemoryUsageReader(world.log)
    for _ in range(2):
        put(world, world.acme, held)
        put(world, world.acme)
        await world.log.settle()
        await archiving.archive_usage(
            world.database,
            reader,  # type: ignore[arg-type]
            tmp_path,
            timedelta(),
            ADMISSION,
        )
        put(world, world.acme, held)
        put(world, world.acme)
    await world.log.settle()
    for source in ("archive", "topic"):
        headers = {"X-Tenant-ID": str(world.acme.id)}
        started = await api.post(
            "/api/v1/usage/rebuilds", world.platform, {"source": source}, **headers
        )
        await rebuilding.rebuild_next(
            world.database,
            reader,  # type: ignore[arg-type]
            tmp_path,
            database.dsn("metering"),
            Directory(world.database),
            ADMISSION,
        )
        run = await api.client.get(
            f"/api/v1/usage/rebuilds/{started.json()['id']}",
            headers={"X-API-Key": world.platform.keys[0], **headers},
        )
        assert run.json()["state"] == "equal", run.text
    assert await api.value(world.acme) == 4


async def test_refusals_are_forgotten_with_their_records(
    world: World, database: TestDatabase
) -> None:
    put(world, world.acme, at=utc_now() + timedelta(days=1))
    await world.log.settle()
    await jobs.prune_refusals(world.database)
    async with database.admin() as admin:
        assert await admin.fetchval("select count(*) from metering.usage_refusal") == 1
        await admin.execute("update metering.usage_refusal set received_day = current_date - 40")
    await jobs.prune_refusals(world.database)
    async with database.admin() as admin:
        assert await admin.fetchval("select count(*) from metering.usage_refusal") == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from([PRODUCER_HEADER, SEAL_HEADER, "other"]),
            st.none() | st.binary(max_size=200),
        ),
        max_size=4,
    ),
    st.none() | st.binary(max_size=60),
    st.none() | st.binary(max_size=60),
)
def test_no_bytes_prove_anything(
    headers: list[tuple[str, bytes | None]], key: bytes | None, value: bytes | None
) -> None:
    refusal, held = KEYS.check(Record(TOPIC, 0, 0, utc_now(), key, value, tuple(headers)))
    assert (refusal in ("no_proof", "bad_proof"), held) == (True, None)


@given(st.uuids(), st.none() | st.uuids(), st.sampled_from(["test", "live"]), st.binary())
def test_whoever_knows_the_secret_proves_its_pass(
    producer_id: Any, tenant_id: Any, mode: Any, value: bytes
) -> None:
    held = Pass(producer_id, tenant_id, mode, utc_now().replace(microsecond=0) + timedelta(days=1))
    key = str(tenant_id or new_id()).encode()
    code = code_of(KEYS.secret_of(held.text), key, value)
    header = f"{held.text}.{code}".encode()
    record = Record(TOPIC, 0, 0, utc_now(), key, value, ((PRODUCER_HEADER, header),))
    assert KEYS.check(record) == (None, held)
