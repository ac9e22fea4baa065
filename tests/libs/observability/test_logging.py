"""Logs: one JSON object a line, with context, without secrets."""

import io
import json
import logging
import sys
import warnings
from collections.abc import Generator
from typing import Any

import pytest
import structlog

from libs.observability import logging as logs
from libs.observability.logging import NOISY_RECORDS_MAX, configure_logging, get_logger
from libs.observability.tracing import configure_tracing, start_span

Lines = io.StringIO


@pytest.fixture
def output() -> Generator[Lines, None, None]:
    """Logging as a service has it, into memory; everything is put back afterwards."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.raiseExceptions, sys.excepthook)
    # The command quiets the Kafka client, and other tests run the command in this process.
    client = logging.getLogger("aiokafka")
    level = client.level
    client.setLevel(logging.NOTSET)
    configured = structlog.get_config()
    stream = io.StringIO()
    configure_logging("metering", "debug", stream=stream)
    yield stream
    client.setLevel(level)
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level, logging.raiseExceptions, sys.excepthook = before
    structlog.configure(**configured)


def events(output: Lines) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


def last(output: Lines) -> dict[str, Any]:
    return events(output)[-1]


def test_an_event_is_one_json_line_with_its_fields(output: Lines):
    get_logger("libs.x").info("usage_flushed", records=3, topic="usage.events")
    (event,) = events(output)
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "usage_flushed",
        "level": "info",
        "logger": "libs.x",
        "service": "metering",
        "records": 3,
        "topic": "usage.events",
    }


def test_a_line_break_in_a_field_does_not_forge_a_line(output: Lines):
    get_logger("x").info("a", note='one\n{"event": "forged"}')
    assert len(events(output)) == 1


def test_bound_context_is_on_every_event(output: Lines):
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        get_logger("x").info("inside")
        logging.getLogger("some.library").warning("inside too")
    get_logger("x").info("outside")
    assert [event.get("request_id") for event in events(output)] == ["r1", "r1", None]


def test_events_inside_a_span_carry_its_ids(output: Lines):
    configure_tracing("metering", None)
    with start_span("work") as span:
        get_logger("x").info("inside")
    context = span.get_span_context()
    assert last(output)["trace_id"] == format(context.trace_id, "032x")
    assert last(output)["span_id"] == format(context.span_id, "016x")
    get_logger("x").info("outside")
    assert "trace_id" not in last(output)


def test_libraries_come_out_in_the_same_form(output: Lines):
    logging.getLogger("uvicorn.error").info("Started on %d", 8101)
    assert last(output)["event"] == "Started on 8101"
    assert last(output)["logger"] == "uvicorn.error"


def test_warnings_are_logged_as_well(output: Lines):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("an old way", DeprecationWarning, stacklevel=1)
    assert "an old way" in last(output)["event"]


def test_a_traceback_shows_no_local_and_no_secret(output: Lines):
    def fail(password: str) -> None:
        raise ValueError(f"cannot use sk_test_{'x' * 20} {len(password)}")

    try:
        fail("hunter-two-local")
    except ValueError:
        get_logger("x").exception("work_failed")
        logging.getLogger("some.library").exception("failed")
    text = output.getvalue()
    assert "hunter-two-local" not in text
    assert "sk_test_xxxx" not in text
    assert last(output)["exception"][0]["exc_type"] == "ValueError"
    assert "locals" not in last(output)["exception"][0]["frames"][0]


def test_a_level_below_the_set_one_is_not_written(output: Lines):
    configure_logging("metering", "warning", stream=output)
    get_logger("x").info("quiet")
    get_logger("x").warning("loud")
    assert [event["event"] for event in events(output)] == ["loud"]


def test_secrets_are_taken_out_of_events_and_fields(output: Lines):
    get_logger("x").info(
        "connection_saved whsec_abcdefgh",
        stripe_secret_key="plain",
        note="Bearer abcdef.ghi",
        row=object(),
        nested={"list": [{"password": "p"}, b"\x00\x01"]},
    )
    event = last(output)
    assert event["event"] == "connection_saved whsec_[redacted]"
    assert event["stripe_secret_key"] == "[redacted]"
    assert event["note"] == "Bearer [redacted]"
    assert event["nested"] == {"list": [{"password": "[redacted]"}, "[2 bytes]"]}


def test_a_noisy_library_is_held_back_and_counted(output: Lines, monkeypatch: pytest.MonkeyPatch):
    now = 1000.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    noisy = logging.getLogger("aiokafka.conn")
    for _ in range(50):
        noisy.error("Unable to connect")
    assert len(events(output)) == NOISY_RECORDS_MAX
    now += 10.1
    noisy.error("Unable to connect")
    assert last(output)["suppressed"] == 50 - NOISY_RECORDS_MAX
    for _ in range(50):
        get_logger("libs.ours").error("ours_is_never_held_back")
    assert len(events(output)) == NOISY_RECORDS_MAX + 51


def test_a_crash_of_the_process_is_an_event_without_secrets(output: Lines):
    error = RuntimeError("dsn postgresql://u:pw123@host/db")
    sys.excepthook(RuntimeError, error, None)
    assert last(output)["event"] == "process_crashed"
    assert "pw123" not in output.getvalue()


def test_something_that_cannot_be_printed_does_not_break_the_log(output: Lines):
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    get_logger("x").info("odd", value=Broken(), half="\ud800", huge=10**5000)
    assert last(output)["value"] == "[Broken]"
