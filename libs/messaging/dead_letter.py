"""Dead letters: records that can never be applied, kept with every byte."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from libs.db.pool import Tx
from libs.ids import new_id
from libs.messaging.records import Record
from libs.observability.metrics import DEAD_LETTER_RECORDS_TOTAL


@dataclass(frozen=True)
class DeadLetter:
    """A record and why it was put aside."""

    record: Record
    reason: str
    detail: str


NAME_IN_BASE64 = "name in base64"


def printable(text: str) -> str:
    """Text that Postgres can hold: no NUL, no half characters."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def headers_json(record: Record) -> list[list[str | None]]:
    """Header names and values; the bytes as base64, since they may be anything."""
    stored: list[list[str | None]] = []
    for name, value in record.headers:
        text = None if value is None else base64.b64encode(value).decode()
        if "\x00" in name:
            stored.append([base64.b64encode(name.encode()).decode(), text, NAME_IN_BASE64])
        else:
            stored.append([name, text])
    return stored


def headers_from_json(
    stored: Sequence[Sequence[str | None]],
) -> tuple[tuple[str, bytes | None], ...]:
    """The headers as they were."""
    found: list[tuple[str, bytes | None]] = []
    for name, value, *form in stored:
        text = base64.b64decode(name or "").decode() if form else name or ""
        found.append((text, None if value is None else base64.b64decode(value)))
    return tuple(found)


async def bury(tx: Tx, consumer: str, letters: Sequence[DeadLetter]) -> None:
    """Store dead letters; the same record is stored once."""
    if not letters:
        return
    await tx.executemany(
        """
        insert into dead_letter (id, consumer, topic, partition, record_offset, key, value,
                                 headers, reason, detail)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing
        """,
        [
            (
                new_id(),
                consumer,
                letter.record.topic,
                letter.record.partition,
                letter.record.offset,
                letter.record.key,
                letter.record.value,
                headers_json(letter.record),
                letter.reason,
                printable(letter.detail)[:2000],
            )
            for letter in letters
        ],
    )
    for letter in letters:
        DEAD_LETTER_RECORDS_TOTAL.labels(topic=letter.record.topic).inc()
