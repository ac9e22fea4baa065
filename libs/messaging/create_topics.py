"""Creating the topics of the record; the deploy step is the only place that does it."""

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from libs.contracts.topics import PARTITIONS, TOPICS


async def create_topics(bootstrap: str, *, replication: int = 1) -> list[str]:
    """Create the topics that are missing; their names. Existing ones are left alone."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=20_000)
    await admin.start()
    try:
        existing = set(await admin.list_topics())
        missing = [topic for topic in TOPICS if topic.name not in existing]
        await admin.create_topics(
            [
                NewTopic(
                    name=topic.name,
                    num_partitions=PARTITIONS,
                    replication_factor=replication,
                    topic_configs=topic.config,
                )
                for topic in missing
            ]
        )
    finally:
        await admin.close()
    return [topic.name for topic in missing]
