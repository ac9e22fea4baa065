"""`usage.events`: CloudEvents in structured mode, the form product services publish in.

Key of the record: the tenant's id. The attribute names are CloudEvents' own
(github.com/cloudevents/spec, version 1.0.2) plus the extensions `userid`, `mode`, `tenantid`,
and what the ingest stamps: `receivedat`, `clockoffset`, `backfill` and `reportedbytheplatform`.

One type is Sluice's own: `sluice.usage.voided`, whose `data` names an event by `source` and `id`.
That event counts no more, whether it came before or comes after. A void that the platform reported is of
the platform's event of that name, unless `data.reporter` is `tenant`; any other is of the tenant's.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictBool

from libs.contracts.envelope import Mode


class UsageEvent(BaseModel):
    """One use of the product.

    Attributes:
        id, source: together unique within the tenant and mode.
        type: the event type that meters listen to.
        subject: the tenant's customer; None means the tenant itself.
        time: business time of the use.
        userid: who used it.
        tenantid: only platform keys may set it; otherwise it must match the record's key.
        receivedat: when the ingest took it (UTC); None straight on the topic (broker's time holds).
        clockoffset: seconds that the tenant's business clock was ahead at ingest.
        backfill: the backfill that it is told by: it may be older than the window, and its id is kept for
            ever.
        reportedbytheplatform: the platform told it, not the tenant that it bills: it has its id among the
            platform's events, apart from the tenant's. The name is longer than an extension's may be, so
            nothing that came in before it was known carries it.
        data: what meters read their values and groups from.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    specversion: str = Field(default="1.0", max_length=8)
    id: str = Field(min_length=1, max_length=256)
    source: str = Field(min_length=1, max_length=256)
    type: str = Field(min_length=1, max_length=128)
    subject: str | None = Field(default=None, max_length=128)
    time: AwareDatetime
    userid: str | None = Field(default=None, max_length=128)
    mode: Mode
    tenantid: UUID | None = None
    receivedat: AwareDatetime | None = None
    clockoffset: int = 0
    backfill: UUID | None = None
    reportedbytheplatform: StrictBool = False
    data: dict[str, Any] = Field(default_factory=dict)

    def received_at(self, broker_time: datetime) -> datetime:
        """When the event came in: the ingest's stamp, or the broker's for direct producers."""
        return self.receivedat or broker_time
