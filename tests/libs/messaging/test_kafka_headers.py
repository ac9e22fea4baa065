"""Records whose headers have names that are no text are delivered like all others."""

import struct

import pytest
from aiokafka import TopicPartition
from aiokafka.codec import gzip_encode
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import READ_UNCOMMITTED, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c_py

from libs.messaging.kafka_headers import deliver_as
from libs.messaging.records import Record

PLACE = TopicPartition("usage.events", 0)
NAME, HOSTILE = b"name", b"\xff\xfe\x00\xfd"
HEAD_BYTES, CRC_AT, AFTER_CRC = 61, 17, 21
CODECS = {"none": 0, "gzip": 1}


def batch(begin: int, names: list[bytes], codec: str = "none") -> bytes:
    """A record batch as Kafka keeps it, a record for each of these names of a header."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for number, _ in enumerate(names):
        value = b"%d" % (begin + number)
        builder.append(number, 1_790_000_000_000, b"key", value, [("name", b"v")])
    plain = bytearray(builder.build())
    place = 0
    for name in names:
        place = plain.index(NAME, place)
        plain[place : place + len(NAME)] = name
        place += len(NAME)
    return sealed(plain, begin, CODECS[codec])


def sealed(plain: bytearray, begin: int, codec: int) -> bytes:
    """The batch from this offset on, with its records compressed, and the checksum that is due."""
    head = HEAD_BYTES
    content = bytes(plain[head:])
    if codec:
        content = gzip_encode(content)
    made = bytearray(plain[:head]) + content
    struct.pack_into(">qi", made, 0, begin, len(made) - 12)
    struct.pack_into(">h", made, AFTER_CRC, codec)
    struct.pack_into(">I", made, CRC_AT, calc_crc32c_py(bytes(made[AFTER_CRC:])))
    return bytes(made)


def delivered(content: bytes, since: int = 0) -> list[tuple[int, bytes | None, str]]:
    """Offset, value and the name of the header of each record that comes out of a fetch."""
    records = fetcher.MemoryRecords(content)
    fetched = PartitionRecords(PLACE, records, [], since, None, None, True, READ_UNCOMMITTED)
    found: list[Record] = list(fetched)
    assert fetched.next_fetch_offset == found[-1].offset + 1
    assert {record.headers[0][1] for record in found} == {b"v"}
    return [(record.offset, record.value, record.headers[0][0]) for record in found]


SHOWN = "\\xff\\xfe\x00\\xfd"


@pytest.mark.parametrize("codec", CODECS)
def test_a_name_that_is_no_text_is_shown_as_escapes(codec: str) -> None:
    content = batch(0, [NAME, HOSTILE, NAME, HOSTILE], codec)
    assert delivered(content) == [
        (0, b"0", "name"),
        (1, b"1", SHOWN),
        (2, b"2", "name"),
        (3, b"3", SHOWN),
    ]


def test_batches_before_and_behind_it_are_delivered_once() -> None:
    content = batch(0, [NAME, NAME]) + batch(2, [NAME, HOSTILE, NAME]) + batch(5, [NAME, HOSTILE])
    found = delivered(content)
    assert [offset for offset, _, _ in found] == list(range(7))
    assert [value for _, value, _ in found] == [b"%d" % offset for offset in range(7)]
    assert [name for _, _, name in found] == [*["name"] * 3, SHOWN, "name", "name", SHOWN]


def test_a_fetch_from_within_such_a_batch_begins_there() -> None:
    assert [offset for offset, _, _ in delivered(batch(0, [HOSTILE, NAME, HOSTILE]), 1)] == [1, 2]


def test_what_is_in_no_whole_batch_is_left_for_the_next_fetch() -> None:
    cut = batch(2, [NAME])[:-1]
    assert [offset for offset, _, _ in delivered(batch(0, [HOSTILE, NAME]) + cut)] == [0, 1]


def test_who_reads_no_further_goes_on_behind_it() -> None:
    content = batch(0, [NAME, HOSTILE, NAME]) + batch(3, [HOSTILE, NAME])
    records = fetcher.MemoryRecords(content)
    fetched = PartitionRecords(PLACE, records, [], 0, None, None, True, READ_UNCOMMITTED)
    found: list[int] = []
    for until in range(1, 6):
        for record in fetched:
            found.append(record.offset)
            assert fetched.next_fetch_offset == record.offset + 1
            if len(found) == until:
                break
    assert found == [0, 1, 2, 3, 4]
    assert list(fetched) == []


def test_it_is_mended_once() -> None:
    unpack = PartitionRecords._unpack_records
    deliver_as(lambda _, record: record)
    assert PartitionRecords._unpack_records is unpack
