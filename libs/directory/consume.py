"""The two consumers of a service: its events, and beside them the directory (and the secrets)."""

import os
from collections.abc import Mapping

from libs.contracts.envelope import Fact
from libs.contracts.tenants import TenantSecrets, TenantSnapshot
from libs.contracts.topics import topics_consumed_by
from libs.db.pool import Database
from libs.directory.apply import apply_snapshot
from libs.directory.secrets import apply_secrets
from libs.messaging.apply import Applier, BatchHandler, Handler
from libs.messaging.consume import MAX_RECORDS, Consumer
from libs.messaging.records import Reader, Weigh

DIRECTORY_TOPICS = frozenset({"tenants.directory", "tenants.secrets"})


def code_version() -> str:
    """What tells one deployed version of the code from another."""
    return os.environ.get("SLUICE_CODE_VERSION", "unversioned")


def consumers_of(
    database: Database,
    bootstrap: str,
    handlers: Mapping[type[Fact], Handler],
    *,
    batch_handlers: Mapping[str, BatchHandler] | None = None,
    parks: bool,
    max_records: int = MAX_RECORDS,
    readers: Mapping[str, Reader] | None = None,
    weigh: Weigh | None = None,
    lanes: int = 1,
) -> list[Consumer]:
    """The consumers of a service, as the record of topics says.

    Args:
        handlers: a function per event type; the rest is passed over.
        batch_handlers: a function per topic that is handled as a whole.
        parks: order matters here, so a failing event parks its key instead of becoming a dead
            letter.
        max_records: the largest batch.
        readers: by topic, what reads a record ahead of its transaction.
        weigh: how much work a record is, where batches may be too much for one transaction.
        lanes: how many consumers of events there are in this process, each with partitions of its own. A
            tenant's partitions of all topics are in one of them.
    """
    service = database.service
    topics = topics_consumed_by(service)
    events = [topic for topic in topics if topic.name not in DIRECTORY_TOPICS]
    directory = [topic for topic in topics if topic.name in DIRECTORY_TOPICS]
    consumers = [
        Consumer(
            Applier(service, handlers, batch_handlers or {}, parks=parks),
            database=database,
            bootstrap=bootstrap,
            topics=events,
            code_version=code_version(),
            max_records=max_records,
            readers=readers,
            weigh=weigh,
            lane=lane,
        )
        for lane in range(lanes if events else 0)
    ]
    consumers.append(
        Consumer(
            Applier(
                f"{service}.directory",
                {TenantSnapshot: apply_snapshot, TenantSecrets: apply_secrets},
                parks=False,
            ),
            database=database,
            bootstrap=bootstrap,
            topics=directory,
            code_version=code_version(),
        )
    )
    return consumers
