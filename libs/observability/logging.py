"""Structured logs: one JSON object a line on stdout, an event name and fields.

    logger = get_logger(__name__)
    logger.info("invoice_finalized", invoice_id=str(invoice_id), total_minor=total_minor)

The event is a constant in snake case; what varies stands in fields. Context that holds for a whole
request or batch is bound once (`structlog.contextvars.bound_contextvars(tenant_id=…)`). Libraries
that use the standard library's logging come out in the same form. Secrets are taken out last, after
everything else has added its fields (`redaction.py`).
"""

import logging
import sys
import threading
import time
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, TextIO

import structlog
from opentelemetry import trace

from libs.observability.redaction import redact_fields

# Loggers that can flood: a broker that is away makes aiokafka complain many times a second.
NOISY_LOGGERS = ("aiokafka", "kafka", "opentelemetry", "asyncio", "py.warnings")
NOISY_RECORDS_MAX = 5
NOISY_WINDOW_SECONDS = 10.0
TRACEBACK_FRAMES_MAX = 30

_QUIET_LOGGERS = ("httpx", "httpcore", "urllib3", "stripe", "uvicorn.access")


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def add_trace_ids(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Add `trace_id` and `span_id` of the span that is current, in W3C hexadecimal form."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = format(context.trace_id, "032x")
        event["span_id"] = format(context.span_id, "016x")
    return event


def redact_event(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Take secrets out; the last step before the event becomes text."""
    return redact_fields(event)


class FloodFilter(logging.Filter):
    """Lets a few records of a noisy logger through per window and counts the rest.

    The first record after the window says how many were held back (`suppressed`).
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._windows: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        if not record.name.startswith(NOISY_LOGGERS):
            return True
        key = (record.name, record.levelno)
        now = time.monotonic()
        with self._lock:
            started, count = self._windows.get(key, (now, 0))
            if now - started >= NOISY_WINDOW_SECONDS:
                record.suppressed = max(0, count - NOISY_RECORDS_MAX)
                started, count = now, 0
            self._windows[key] = (started, count + 1)
        return count < NOISY_RECORDS_MAX


def _add_suppressed(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    record = event.get("_record")
    suppressed = getattr(record, "suppressed", 0)
    if suppressed:
        event["suppressed"] = suppressed
    return event


def configure_logging(service: str, level: str = "info", *, stream: TextIO | None = None) -> None:
    """Send every log of the process to `stream` (stdout) as JSON lines.

    Calling it again replaces what an earlier call set up.
    """
    exceptions = structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(
            show_locals=False, max_frames=TRACEBACK_FRAMES_MAX
        )
    )
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_trace_ids,
    ]

    def add_service(
        _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            _add_suppressed,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            add_service,
            exceptions,
            redact_event,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
    )
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(formatter)
    handler.addFilter(FloodFilter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # A log that cannot be written must not write about itself.
    logging.raiseExceptions = False
    logging.captureWarnings(capture=True)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    sys.excepthook = _log_crash


def _log_crash(
    kind: type[BaseException], error: BaseException, stack: TracebackType | None
) -> None:
    # Python's own hook would print the message, and so perhaps a secret, to stderr.
    if issubclass(kind, KeyboardInterrupt):
        return
    get_logger(__name__).critical("process_crashed", exc_info=(kind, error, stack))
