"""Where a secret could have gone: every log, trace, record, row and metric of a running stack."""

import base64
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from pathlib import Path

import asyncpg
import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition

from cli import proof
from deploy.local.stack import Stack
from libs.contracts.topics import PARTITIONS, TOPICS

Piece = tuple[str, bytes]
"""Some bytes, and where they were found."""


def forms(secret: str) -> Iterator[bytes]:
    """A secret as it may be written: plainly, in hexadecimal, and in base64 wherever it begins."""
    plain = secret.encode()
    yield plain
    yield plain.hex().encode()
    for alphabet in (base64.standard_b64encode, base64.urlsafe_b64encode):
        for shift in range(3):
            # What stands before and after blurs the first and the last few characters.
            text = alphabet(b"\0" * shift + plain)
            yield text[-(-shift * 8 // 6) : (len(plain) + shift) * 8 // 6].rstrip(b"=")


def find(secrets: Mapping[str, str], pieces: Iterable[Piece]) -> list[str]:
    """Which secret stands where."""
    wanted = [(name, form) for name, secret in secrets.items() for form in set(forms(secret))]
    return sorted(
        {f"{name} in {place}" for place, data in pieces for name, form in wanted if form in data}
    )


def logs(stack: Stack) -> Iterator[Piece]:
    """Every file of every program's log."""
    for path in sorted(stack.folders.logs.rglob("*")):
        if path.is_file():
            yield f"the log {path.name}", path.read_bytes()


def traces(path: Path) -> Iterator[Piece]:
    """Everything that was exported."""
    yield "the traces", path.read_bytes()


async def metrics(environment: Mapping[str, str]) -> AsyncGenerator[Piece, None]:
    """What each service shows to Prometheus."""
    async with httpx.AsyncClient(timeout=60) as http:
        for name, url in environment.items():
            if name.startswith("SLUICE_") and name.endswith("_URL"):
                answer = await http.get(f"{url}/metrics")
                yield f"the metrics of {name}", answer.content


async def records(environment: Mapping[str, str]) -> AsyncGenerator[Piece, None]:
    """Key, value and headers of every record of every topic, a topic at a time."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=environment["SLUICE_KAFKA"], enable_auto_commit=False
    )
    await consumer.start()
    try:
        for topic in TOPICS:
            places = [TopicPartition(topic.name, number) for number in range(PARTITIONS)]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            ends = await consumer.end_offsets(places)
            read = bytearray()
            while any([await consumer.position(place) < ends[place] for place in places]):
                for batch in (await consumer.getmany(timeout_ms=500, max_records=5_000)).values():
                    for record in batch:
                        headers = b"".join(name.encode() + value for name, value in record.headers)
                        read += (record.key or b"") + b"\n" + (record.value or b"") + headers
            yield f"the topic {topic.name}", bytes(read)
    finally:
        await consumer.stop()


async def dump(environment: Mapping[str, str]) -> AsyncGenerator[Piece, None]:
    """Every table of every schema, as a superuser's COPY writes it."""
    admin = await proof.connect(environment)
    try:
        for row in await admin.fetch(
            "select c.oid::regclass::text as name from pg_class c join pg_namespace n "
            "on n.oid = c.relnamespace where c.relkind = 'r' and n.nspname <> all "
            "(array['pg_catalog', 'information_schema', 'pg_toast']) order by 1"
        ):
            yield f"the table {row['name']}", await copy(admin, row["name"])
    finally:
        await admin.close()


async def copy(admin: asyncpg.Connection, table: str) -> bytes:
    """A table's rows as text."""
    read = bytearray()

    async def keep(data: bytes) -> None:
        read.extend(data)

    await admin.copy_from_query(f"select * from {table}", output=keep)
    return bytes(read)
