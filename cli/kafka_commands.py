"""`sluice lag` and `sluice topics`."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, TypeVar

from aiokafka.errors import KafkaError
from rich.table import Table

from cli.kafka_figures import KafkaFigures, Lag, TopicFigures
from cli.status import running_services
from cli.terminal import Json, fail, laptop_stack, next_step, out, write_json

T = TypeVar("T")


def lag(as_json: Json = False) -> None:
    """How far each consumer group is behind on each topic."""
    services = running_services(laptop_stack())
    lags = _ask(lambda kafka: kafka.lags(services))
    if as_json:
        write_json([asdict(each) for each in lags])
        return
    table = Table("group", "topic", "records behind", "partitions behind", box=None, pad_edge=False)
    for each in lags:
        colour = "yellow" if each.records else "green"
        behind = f"[{colour}]{each.records}[/]"
        table.add_row(each.group, each.topic, behind, str(each.partitions_behind))
    out.print(table)
    _say_total(lags)


def _say_total(lags: list[Lag]) -> None:
    total = sum(each.records for each in lags)
    out.print(f"{total} records behind in all." if total else "Every group has read everything.")
    next_step("`sluice topics` shows what stands on the topics.")


def topics(as_json: Json = False) -> None:
    """Every topic: its owner, its readers, partitions and records."""
    found = _ask(lambda kafka: kafka.topics())
    if as_json:
        write_json([_as_json(each) for each in found])
        return
    table = Table("topic", "owner", "readers", "partitions", "records", box=None, pad_edge=False)
    for each in found:
        table.add_row(
            each.name,
            _owner(each),
            ", ".join(each.record.consumers) if each.record else "",
            str(each.partitions),
            str(each.records),
        )
    out.print(table)
    next_step("`sluice lag` shows who still has to read them.")


def _owner(topic: TopicFigures) -> str:
    if topic.record is None:
        return "[yellow]nobody: not in TOPICS[/]"
    producers = topic.record.producers
    return producers[0] if len(producers) == 1 else f"{len(producers)} producers"


def _as_json(topic: TopicFigures) -> dict[str, Any]:
    record = topic.record
    return {
        "name": topic.name,
        "producers": list(record.producers) if record else [],
        "consumers": list(record.consumers) if record else [],
        "partitions": topic.partitions,
        "records": topic.records,
        "retention_ms": record.retention_ms if record else None,
        "cleanup": record.cleanup if record else None,
    }


def _ask(question: Callable[[KafkaFigures], Awaitable[T]]) -> T:
    """Put one question to the stack's Kafka; a Kafka that does not answer ends the command."""
    bootstrap = laptop_stack().environment().get("SLUICE_KAFKA")
    if bootstrap is None:
        raise fail("The stack was never started on this machine.", advice="`sluice up` starts it.")

    async def ask() -> T:
        async with KafkaFigures(bootstrap) as kafka:
            return await question(kafka)

    try:
        return asyncio.run(ask())
    except (KafkaError, OSError) as error:
        raise fail(
            f"Kafka at {bootstrap} does not answer ({type(error).__name__}).",
            advice="`sluice status` shows what runs, `sluice up` starts it.",
        ) from None
