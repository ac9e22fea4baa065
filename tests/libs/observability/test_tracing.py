"""Traces: the context crosses the outbox and Kafka, and no secret goes along."""

import gzip
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from libs.observability.redaction import REDACTED
from libs.observability.tracing import (
    _Provider,
    configure_tracing,
    extract,
    inject,
    spans_beside,
    start_span,
)


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    memory = InMemorySpanExporter()
    configure_tracing("tests", None).add_span_processor(SimpleSpanProcessor(memory))
    return memory


@pytest.fixture(autouse=True)
def _forget(exporter: InMemorySpanExporter) -> None:
    exporter.clear()


def finished(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_trace_goes_on_behind_the_outbox(exporter: InMemorySpanExporter):
    with start_span("request"):
        headers = inject()
    assert set(headers) == {"traceparent"}
    on_kafka = [(name, value.encode()) for name, value in headers.items()]
    with start_span("consume", parent=extract(on_kafka)):
        pass
    spans = finished(exporter)
    request, consume = spans["request"], spans["consume"]
    assert consume.parent is not None
    assert request.context is not None
    assert consume.context is not None
    assert consume.context.trace_id == request.context.trace_id
    assert consume.parent.span_id == request.context.span_id


def test_spans_that_go_nowhere_are_ids_until_they_go_somewhere():
    provider = _Provider(Resource.create({}))
    tracer = provider.get_tracer("tests")
    with tracer.start_as_current_span("nowhere") as span:
        assert span.get_span_context().is_valid
        assert not span.is_recording()
        assert inject()["traceparent"].split("-")[1] == format(
            span.get_span_context().trace_id, "032x"
        )
    memory = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    with tracer.start_as_current_span("somewhere"):
        pass
    assert list(finished(memory)) == ["somewhere"]


def test_a_trace_that_nobody_records_goes_on_as_it_came(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: _Provider(Resource.create({})))
    came = f"00-{'a' * 32}-{'b' * 16}-01"
    nonsense = (None, f"00-{'0' * 32}-{'b' * 16}-01", "é")
    with spans_beside((came, *nonsense), lambda _: ("work", {})) as (carried, *begun):
        assert carried == {"traceparent": came}
        for headers in begun:
            assert trace.get_current_span(extract(headers)).get_span_context().is_valid


def test_many_things_at_once_have_a_span_each(exporter: InMemorySpanExporter):
    came = f"00-{'a' * 32}-{'b' * 16}-01"
    shown = [("first", {"topic": "t", "password": "x"}), ("second", {})]
    beside = spans_beside((came, None), lambda number: shown[number])
    with pytest.raises(ValueError, match="hunter"), beside as carried:
        assert not trace.get_current_span().get_span_context().is_valid
        raise ValueError("hunter2")
    spans = finished(exporter)
    assert format(spans["first"].context.trace_id, "032x") == "a" * 32
    assert dict(spans["first"].attributes or {}) == {"topic": "t", "password": REDACTED}
    assert spans["second"].context.trace_id != spans["first"].context.trace_id
    for span, headers in zip((spans["first"], spans["second"]), carried, strict=True):
        assert span.status.description == "ValueError"
        assert headers["traceparent"].split("-")[2] == format(span.context.span_id, "016x")


def test_without_a_span_nothing_is_injected():
    assert inject() == {}


@given(
    st.dictionaries(
        st.sampled_from(["traceparent", "Traceparent", "tracestate", "x"]),
        st.text(max_size=600) | st.binary(max_size=600),
    )
)
def test_hostile_headers_give_an_empty_context(headers: dict[str, str | bytes]):
    span = trace.get_current_span(extract(headers))
    assert not span.get_span_context().is_valid


def test_a_context_is_not_inherited_from_where_it_is_read():
    with start_span("outer"):
        assert not trace.get_current_span(extract({})).get_span_context().is_valid


def test_a_failure_shows_its_class_only(exporter: InMemorySpanExporter):
    with pytest.raises(ValueError, match="hunter"), start_span("work"):
        raise ValueError("hunter2")
    span = finished(exporter)["work"]
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "ValueError"
    assert not span.events
    assert "hunter2" not in span.to_json()


def test_secrets_are_taken_out_of_attributes(exporter: InMemorySpanExporter):
    with start_span("call", api_key="plain", note="sk_test_abc", count=3, what={"password": "p"}):
        pass
    attributes = dict(finished(exporter)["call"].attributes or {})
    assert attributes == {
        "api_key": "[redacted]",
        "note": "sk_test_[redacted]",
        "count": 3,
        "what": "{'password': '[redacted]'}",
    }


SENDER = """
import sys
from libs.observability.tracing import configure_tracing, start_span
configure_tracing("tests", sys.argv[1])
with start_span("sent"):
    pass
"""


def test_spans_reach_the_endpoint_that_is_set_before_the_process_ends(
    pytestconfig: pytest.Config,
):
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        # A process of its own: the exporter of this one would outlive the collector.
        subprocess.run(
            [sys.executable, "-c", SENDER, f"http://127.0.0.1:{collector.server_port}/"],
            cwd=pytestconfig.rootpath,
            timeout=60,
            check=True,
        )
        collector.shutdown()
    ((path, body),) = received
    assert path == "/v1/traces"
    assert b"sent" in (gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body)
