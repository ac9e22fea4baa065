"""The events of one request: a verdict each, in input order, and what is to be published."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from services.metering.ingest import Arrival, RejectedError, read_event
from services.metering.plain_events import Plain, read_plain
from services.metering.reserved_events import SOURCE
from services.metering.usage_log import place_of

TEXT_LENGTH_MAX = 256

Status = Literal["accepted", "duplicate", "rejected"]


class Verdict(msgspec.Struct, gc=False):
    """What becomes of one event.

    Attributes:
        code: why it was rejected; `no_meter` on an accepted one that no meter counts.
    """

    id: str | None
    source: str | None
    status: Status
    code: str | None = None


class Batch:
    """The events of one request.

    Attributes:
        values: what is to be published, by tenant (in text, found sooner than a UUID) and which of its
            partitions.
    """

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.values: dict[tuple[str, int], list[bytes]] = {}
        self._seen: dict[tuple[str, str | None, str | None], tuple[Any, ...]] = {}

    @property
    def counts(self) -> Mapping[Status, int]:
        """How many events have each status."""
        return Counter([verdict.status for verdict in self.verdicts])

    def judge(self, sent: object, arrival: Arrival) -> None:
        """Take an event in, or say why not."""
        if isinstance(sent, Plain):
            source: str | None = sent.source
            event_id: str | None = sent.id
        else:
            source, event_id = text_at(sent, "source"), text_at(sent, "id")
        if source == SOURCE:
            self.verdicts.append(Verdict(event_id, source, "rejected", "reserved_source"))
            return
        try:
            taken = (
                read_plain(sent, arrival) if isinstance(sent, Plain) else read_event(sent, arrival)
            )
        except RejectedError as rejected:
            self.verdicts.append(Verdict(event_id, source, "rejected", rejected.code))
            return
        twin = self._seen.setdefault((arrival.tenant_text, source, event_id), taken.said)
        if twin is taken.said:
            place = 0 if arrival.spread == 1 else place_of(taken.subject, arrival.spread)
            self.values.setdefault((arrival.tenant_text, place), []).append(taken.value)
            code = None if taken.metered else "no_meter"
            self.verdicts.append(Verdict(event_id, source, "accepted", code))
        elif twin == taken.said:
            self.verdicts.append(Verdict(event_id, source, "duplicate"))
        else:
            self.verdicts.append(Verdict(event_id, source, "rejected", "id_conflict"))

    def reject(self, sent: object, code: str) -> None:
        """Refuse an event; the rest of the request is not touched by it."""
        self.verdicts.append(
            Verdict(text_at(sent, "id"), text_at(sent, "source"), "rejected", code)
        )


def text_at(sent: object, name: Literal["id", "source"]) -> str | None:
    """What the event is called, for its verdict, where that is text worth repeating."""
    if isinstance(sent, Plain):
        return sent.id if name == "id" else sent.source
    value = sent.get(name) if isinstance(sent, dict) else None
    if not isinstance(value, str) or not 0 < len(value) <= TEXT_LENGTH_MAX:
        return None
    return value.encode("utf-8", "replace").decode()
