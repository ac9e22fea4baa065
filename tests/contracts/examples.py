"""The examples of every event type: full envelopes, and CloudEvents of `usage.events`."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from libs.contracts.topics import EVENT_TYPES, TOPIC_OF, Topic
from libs.contracts.usage import UsageEvent
from libs.messaging.records import TYPE_HEADER, Record

FOLDER = Path(__file__).parent / "examples"
USAGE = "usage.events"
USAGE_TENANT = "019b76da-0001-7000-8000-00000000acae"
"""The tenant of the usage examples: their key, for a CloudEvent names its tenant there."""


@dataclass(frozen=True)
class Example:
    """One example as it would lie on its topic."""

    path: Path
    topic: str
    kind: str
    key: str
    at: datetime

    @property
    def name(self) -> str:
        """`<Type>/<file>`."""
        return f"{self.kind}/{self.path.name}"

    @property
    def text(self) -> str:
        """The example as it stands in its file."""
        return self.path.read_text()

    @property
    def content(self) -> dict[str, Any]:
        """The example as JSON."""
        content: dict[str, Any] = json.loads(self.text)
        return content

    @property
    def headers(self) -> tuple[tuple[str, bytes | None], ...]:
        """The record's headers; a CloudEvent has none of ours."""
        return () if self.topic == USAGE else ((TYPE_HEADER, self.kind.encode()),)

    def record(self, offset: int = 0) -> Record:
        """The record that carries the example."""
        key, value = self.key.encode(), self.text.encode()
        return Record(self.topic, 0, offset, self.at, key, value, self.headers)


def examples() -> list[Example]:
    """All examples in the order in which they happened."""
    found = []
    for path in sorted(FOLDER.glob("*/*.json")):
        content = json.loads(path.read_text())
        kind = path.parent.name
        if kind == UsageEvent.__name__:
            at = datetime.fromisoformat(content.get("receivedat") or content["time"])
            found.append(Example(path, USAGE, kind, USAGE_TENANT, at))
        else:
            topic = TOPIC_OF[EVENT_TYPES[kind]].name
            at = datetime.fromisoformat(content["occurred_at"])
            found.append(Example(path, topic, kind, content["tenant_id"], at))
    return sorted(found, key=lambda example: (example.at, example.name))


def of_topics(topics: tuple[Topic, ...]) -> list[Example]:
    """The examples that stand on these topics."""
    names = {topic.name for topic in topics}
    return [example for example in examples() if example.topic in names]
