"""Traces: one trace follows an event through HTTP, outbox, Kafka, consumer, Postgres and Stripe.

The context crosses the outbox and Kafka as W3C Trace Context headers (https://www.w3.org/TR/trace-context/):
`inject()` where a row is written, `extract(headers)` where a record is read. Spans are sent only
where an OTLP endpoint is set; without one they still give logs a trace id.
"""

import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    DEFAULT_ON,
    Sampler,
    SamplingResult,
)
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from libs.observability.redaction import REDACTED, is_secret_name, redact

HEADER_NAMES = ("traceparent", "tracestate")
HEADER_LENGTH_MAX = 512
EXPORT_TIMEOUT_SECONDS = 5


class _Provider(TracerProvider):
    """Records spans as soon as they go anywhere; until then they are ids, which cost little."""

    def __init__(self, resource: Resource) -> None:
        self._wanted = _Wanted()
        super().__init__(resource=resource, sampler=self._wanted)

    @property
    def is_recorded(self) -> bool:
        """Whether spans go anywhere yet."""
        return self._wanted.sampler is not ALWAYS_OFF

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Let spans go there too."""
        super().add_span_processor(span_processor)
        self._wanted.sampler = DEFAULT_ON


class _Wanted(Sampler):
    """The sampler of a provider; its tracers keep it, so that it can change only within."""

    sampler: Sampler = ALWAYS_OFF

    def should_sample(self, *arguments: Any, **options: Any) -> SamplingResult:
        return self.sampler.should_sample(*arguments, **options)

    def get_description(self) -> str:
        return self.sampler.get_description()


_propagator = TraceContextTextMapPropagator()
_IDS = RandomIdGenerator()
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_tracer = trace.get_tracer("sluice")

Headers = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]


def configure_tracing(
    service: str, otlp_endpoint: str | None, *, exporter: SpanExporter | None = None
) -> TracerProvider:
    """Set the process's tracer up; a second call only adds its exporter to the first's.

    Args:
        service: name under which the spans appear.
        otlp_endpoint: base address of an OTLP/HTTP collector (`http://127.0.0.1:4318`), or None.
        exporter: where spans go instead, e.g. in-memory.
    """
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        resource = Resource.create({SERVICE_NAME: f"sluice-{service}"})
        provider = _Provider(resource)
        trace.set_tracer_provider(provider)
    if exporter is None and otlp_endpoint:
        exporter = OTLPSpanExporter(
            endpoint=f"{otlp_endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_SECONDS
        )
    if exporter is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


@contextmanager
def start_span(
    name: str,
    *,
    parent: Context | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    **attributes: Any,
) -> Generator[Span, None, None]:
    """A span around the block, current inside it.

    Secrets are taken out of `attributes`. An exception marks the span as failed with the name of its
    class alone, for its message may quote data. Where no span goes anywhere, this one is its ids.
    """
    if not _is_recorded():
        token = attach(trace.set_span_in_context(_ids_below(parent), parent))
        try:
            yield trace.get_current_span()
        finally:
            detach(token)
        return
    with _tracer.start_as_current_span(
        name,
        context=parent,
        kind=kind,
        attributes={key: _attribute(key, value) for key, value in attributes.items()},
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


@contextmanager
def spans_beside(
    behind: Sequence[str | None], shown: Callable[[int], tuple[str, Mapping[str, Any]]]
) -> Generator[Sequence[Mapping[str, str]], None, None]:
    """A span around the block for each of many things that are done at once, none current inside it.

    Args:
        behind: the `traceparent` of the trace that each goes on with; None where there is none.
        shown: name and attributes of the span of a number; asked where spans go anywhere.

    Yields:
        For each the headers that carry it on, as `inject` gives those of the current one.
    """
    if not _is_recorded():
        yield [_unrecorded(each) for each in behind]
        return
    spans, carried = [], []
    for number, each in enumerate(behind):
        parent = extract({"traceparent": each or ""})
        name, attributes = shown(number)
        told = {key: _attribute(key, value) for key, value in attributes.items()}
        span = _tracer.start_span(name, context=parent, attributes=told)
        spans.append(span)
        carried.append(_carried(trace.set_span_in_context(span, parent)))
    try:
        yield carried
    except BaseException as error:
        for span in spans:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        for span in reversed(spans):
            span.end()


def _is_recorded() -> bool:
    """Whether spans go anywhere; where they do not, a trace is its id alone, which goes on as it came."""
    provider = trace.get_tracer_provider()
    return not isinstance(provider, _Provider) or provider.is_recorded


def _unrecorded(behind: str | None) -> dict[str, str]:
    """The headers of a trace that is not recorded: those it came with, or of one that begins here."""
    if behind is not None and _TRACEPARENT.fullmatch(behind):
        return {"traceparent": behind}
    trace_id, span_id = _IDS.generate_trace_id(), _IDS.generate_span_id()
    return {"traceparent": f"00-{trace_id:032x}-{span_id:016x}-00"}


def _ids_below(parent: Context | None) -> Span:
    """The ids of a span that goes nowhere, in the trace of its parent."""
    above = trace.get_current_span(parent).get_span_context()
    trace_id = above.trace_id if above.is_valid else _IDS.generate_trace_id()
    span_id = _IDS.generate_span_id()
    return NonRecordingSpan(
        SpanContext(trace_id, span_id, is_remote=False, trace_state=above.trace_state)
    )


def inject() -> dict[str, str]:
    """The headers that carry the current trace; empty where there is none."""
    return _carried(None)


def _carried(context: Context | None) -> dict[str, str]:
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, context)
    return {name: value for name, value in carrier.items() if len(value) <= HEADER_LENGTH_MAX}


def extract(headers: Headers) -> Context:
    """The context that `headers` carry; an empty one where they carry none or nonsense."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    carrier: dict[str, str] = {}
    for name, value in pairs:
        if name.lower() in HEADER_NAMES and len(value) <= HEADER_LENGTH_MAX:
            carrier[name.lower()] = value.decode("latin-1") if isinstance(value, bytes) else value
    return _propagator.extract(carrier, context=Context())


def _attribute(name: str, value: Any) -> str | bool | int | float:
    if is_secret_name(name):
        return REDACTED
    shown = redact(value)
    return shown if isinstance(shown, str | bool | int | float) else str(shown)
