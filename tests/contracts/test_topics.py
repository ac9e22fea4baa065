"""The record of topics: owners, readers, and handlers for what is read."""

import importlib
from collections import Counter
from pathlib import Path

import pytest

from libs.contracts.envelope import Fact
from libs.contracts.topics import EVENT_TYPES, EVERYBODY, PARTITIONS, TOPIC_OF, TOPICS

ROOT = Path(__file__).resolve().parents[2]
BUILT = {path.parent.name for path in (ROOT / "services").glob("*/handlers.py")}
MANY_PRODUCERS = {"audit.events"}


def test_every_topic_has_one_owner() -> None:
    for topic in TOPICS:
        assert topic.producers, f"{topic.name} has no owner"
        assert len(topic.producers) == 1 or topic.name in MANY_PRODUCERS
        assert set(topic.producers) <= set(EVERYBODY)


def test_every_topic_has_readers_that_exist() -> None:
    for topic in TOPICS:
        assert topic.consumers, f"nobody reads {topic.name}"
        assert set(topic.consumers) <= set(EVERYBODY)
        assert topic.purpose.endswith(".")


def test_an_event_type_stands_on_one_topic() -> None:
    assert not [name for name, times in Counter(t.name for t in TOPICS).items() if times > 1]
    listed = [event for topic in TOPICS for event in topic.events]
    assert len(listed) == len(set(listed)) == len(TOPIC_OF) == len(EVENT_TYPES)


def test_every_fact_is_on_a_topic() -> None:
    for path in (ROOT / "libs" / "contracts").glob("*.py"):
        module = importlib.import_module(f"libs.contracts.{path.stem}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Fact) and value is not Fact:
                assert value in TOPIC_OF, f"{value.__name__} stands on no topic"


@pytest.mark.parametrize("service", sorted(BUILT))
def test_a_service_handles_only_what_it_reads(service: str) -> None:
    handlers = importlib.import_module(f"services.{service}.handlers")
    for event in handlers.HANDLERS:
        topic = TOPIC_OF[event]
        assert service in topic.consumers, f"{service} cannot receive {event.__name__}"
    for name in getattr(handlers, "BATCH_HANDLERS", {}):
        assert service in next(topic for topic in TOPICS if topic.name == name).consumers


UNREAD = {
    "TenantStatusChanged": "told for readers to come; the status travels in the snapshot",
    "BreakFound": "told for readers to come; breaks stand in the ledger and raise an alert",
    "BreakResolved": "told for readers to come; breaks stand in the ledger",
    "ReconciliationCompleted": "told for readers to come; runs stand in the ledger",
    "AccountOverrun": "told for readers to come; an overrun raises an alert",
    "PeriodClosed": "told for readers to come; what is booked late says so itself",
    "PeriodReopened": "told for readers to come; what is booked late says so itself",
    "LedgerHeadAnchored": "read by `sluice ledger verify`, which holds the books against it",
    "LimitThresholdCrossed": "told for readers to come; billing contacts are to be told by it",
    "LimitExceeded": "told for readers to come; billing contacts are to be told by it",
    "PayoutChanged": "told for readers to come; the money it moves is a balance transaction",
    "RefundChanged": "told for readers to come; the money it moves is a balance transaction",
    "TenantSnapshot": "taken by the directory's consumer of every service (libs/directory)",
    "TenantSecrets": "taken by the directory's consumer of its two holders (libs/directory)",
}
"""Events without a handler in any service, each with its reason."""


def test_an_event_type_is_handled_by_somebody_or_the_reason_is_written() -> None:
    handled: set[type[Fact]] = set()
    for service in BUILT:
        handled |= set(importlib.import_module(f"services.{service}.handlers").HANDLERS)
    assert {event.__name__ for event in TOPIC_OF if event not in handled} == set(UNREAD)


def test_tenants_topics_keep_one_partition_count() -> None:
    assert PARTITIONS == 12
