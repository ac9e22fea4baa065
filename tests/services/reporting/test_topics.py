"""What stands on Kafka, as the operator sees it; and when Kafka is away."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from deploy.local.scratch import RunningKafka
from libs.contracts.topics import PARTITIONS, TOPICS
from libs.messaging.create_topics import create_topics
from services.reporting import topics
from services.reporting.topics import TopicWatch
from tests.services.reporting.conftest import Api


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "ANSWER_SECONDS", 0.5)


@pytest.mark.usefixtures("_soon")
async def test_without_kafka_the_answer_is_503(api: Api) -> None:
    answer = await api.get("ops/topics", api.operator)
    assert answer.status_code == 503
    assert answer.json()["code"] == "unavailable"
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.usefixtures("_soon")
async def test_a_kafka_that_accepts_and_never_answers_is_away_too(api: Api) -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    api.app.state.topic_watch = TopicWatch(f"127.0.0.1:{port}")
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(api.get("ops/topics", api.operator) for _ in range(3)))
    assert [answer.status_code for answer in answers] == [503] * 3
    server.close()


@pytest.mark.kafka
async def test_lag_by_topic_group_and_partition(
    api: Api, kafka_server: RunningKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "CACHE_SECONDS", 600.0)
    monkeypatch.setattr(topics, "ANSWER_SECONDS", 60.0)
    await create_topics(kafka_server.bootstrap)
    topic = "ledger.entries"
    producer = AIOKafkaProducer(bootstrap_servers=kafka_server.bootstrap)
    await producer.start()
    for _ in range(7):
        await producer.send_and_wait(topic, b"{}", partition=3)
    await producer.stop()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka_server.bootstrap, group_id="reporting", enable_auto_commit=False
    )
    await consumer.start()
    place = TopicPartition(topic, 3)
    places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    consumer.assign(places)
    # Other tests may have left records here: the group stands behind all of those.
    ends = await consumer.end_offsets(places)
    begin = ends[place] - 7
    await consumer.commit({**ends, place: begin + 5})

    api.app.state.topic_watch = TopicWatch(kafka_server.bootstrap)
    answer = await api.get("ops/topics", api.operator)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    found = {each["topic"]: each for each in body["items"]}
    assert {record.name for record in TOPICS} <= set(found)
    assert not any(name.startswith("__") for name in found)
    entries = found[topic]
    assert (entries["partitions"], len(entries["end_offsets"])) == (PARTITIONS, PARTITIONS)
    assert entries["end_offsets"][3] == begin + 7
    (group,) = entries["groups"]
    assert group["group"] == "reporting"
    assert (group["lag_records"], group["partitions_behind"]) == (2, 1)
    assert group["partitions"][3] == {
        "partition": 3,
        "committed_offset": begin + 5,
        "end_offset": begin + 7,
    }
    assert group["partitions"][0]["committed_offset"] == ends[places[0]]
    names = {each["group"] for each in found["tenants.directory"]["groups"]}
    assert {"ledger.directory", "reporting.directory"} <= names

    await consumer.commit({place: begin + 7})
    await consumer.stop()
    again = (await api.get("ops/topics", api.operator)).json()
    assert again["as_of"] == body["as_of"]
    monkeypatch.setattr(topics, "CACHE_SECONDS", 0.0)
    later = (await api.get("ops/topics", api.operator)).json()
    lag = {each["topic"]: each["lag_records"] for each in later["items"]}
    assert lag[topic] == 0
