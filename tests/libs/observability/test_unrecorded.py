"""Spans that go nowhere are their ids: logs and what is sent on still belong to one trace."""

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource

from libs.observability.tracing import _Provider, extract, inject, start_span

CAME = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "vendor=1"}


@pytest.fixture(autouse=True)
def _nobody_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: _Provider(Resource.create({})))


def test_a_span_begins_a_trace_and_what_is_within_goes_on_with_it():
    with start_span("outer") as outer, start_span("inner") as inner:
        assert trace.get_current_span() is inner
        assert not inner.is_recording()
        above, below = outer.get_span_context(), inner.get_span_context()
        assert above.is_valid
        assert below.trace_id == above.trace_id
        assert below.span_id not in (0, above.span_id)
    assert not trace.get_current_span().get_span_context().is_valid
    assert inject() == {}


def test_a_trace_that_came_goes_on_and_is_not_said_to_be_sampled():
    with start_span("request", parent=extract(CAME)):
        told = inject()
    assert told["traceparent"].startswith(f"00-{'a' * 32}-")
    assert told["traceparent"].endswith("-00")
    assert told["tracestate"] == CAME["tracestate"]


def test_two_spans_without_a_parent_are_two_traces():
    with start_span("one") as one:
        pass
    with start_span("two") as two:
        pass
    assert one.get_span_context().trace_id != two.get_span_context().trace_id


def test_a_failure_passes_through_and_leaves_no_span_behind():
    with pytest.raises(ValueError, match="hunter"), start_span("work"):
        raise ValueError("hunter")
    assert not trace.get_current_span().get_span_context().is_valid
