"""How a client behaves."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sluice_client.delivery import Rejection


@dataclass(frozen=True)
class Options:
    """Limits and choices; every one has a default that suits a web service.

    Attributes:
        source: the `source` of events that name none: which program they come from.
        batch_events: an incomplete batch is sent once it has this many (at most 1,000).
        flush_seconds: or once its oldest event is this old.
        buffer_events: how many events are kept in memory at most.
        request_seconds: how long one request may take.
        close_seconds: how long `close` and the end of the program wait for what is left.
        pause_seconds_max: the longest pause between two tries.
        spool: a folder for events that could not be delivered; None keeps them in memory only.
        spool_bytes: how much may lie there.
        raises: whether `track` raises instead of counting a drop.
        on_rejected: told of every event that Sluice refused for good (in the sender's thread or
            task; what it raises is logged).
    """

    source: str = "sluice-client"
    batch_events: int = 100
    flush_seconds: float = 1.0
    buffer_events: int = 10_000
    request_seconds: float = 10.0
    close_seconds: float = 5.0
    pause_seconds_max: float = 30.0
    spool: Path | None = None
    spool_bytes: int = 256 * 1024 * 1024
    raises: bool = False
    on_rejected: Callable[[Rejection], None] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: a limit is not positive, or a batch is over 1,000 events.
        """
        for name in ("batch_events", "flush_seconds", "buffer_events", "request_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above zero")
        if self.batch_events > 1_000:
            raise ValueError("batch_events must be at most 1,000, which one request takes")
