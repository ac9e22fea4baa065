"""`sluice-client`: nothing lost while there is room, nothing counted twice, nobody held up."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

import pytest

from sluice_client import (
    AsyncClient,
    BufferFullError,
    Client,
    ClosedError,
    InvalidEventError,
    Options,
    Rejection,
)
from tests.clients.receiver import Answer, Events, Receiver, accepted, problem, receiving

SOURCES = Path(__file__).resolve().parents[2] / "clients" / "python" / "src"
QUICK = Options(flush_seconds=0.02, pause_seconds_max=0.05, close_seconds=20.0)
WHOLE = replace(QUICK, flush_seconds=600.0)
"""Sends whole batches, and the rest at the end: how slowly they are tracked makes none smaller."""
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def program(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A program of its own that uses the client."""
    environment = {"PYTHONPATH": str(SOURCES), "PATH": os.environ["PATH"]}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment)


def test_what_is_tracked_arrives_once_in_batches(receiver: Receiver) -> None:
    with Client(receiver.origin, "slk_test_x", replace(WHOLE, batch_events=100)) as client:
        ids = [
            client.track("api_call", {"n": n}, customer="cus_1", user="ada") for n in range(1_050)
        ]
        assert client.flush(20)
    assert receiver.taken == ids
    assert len({*ids}) == 1_050
    assert all(UUID(made).version == 7 for made in ids if made)
    assert [len(events) for _, events in receiver.requests] == [100] * 10 + [50]
    headers, events = receiver.requests[0]
    assert headers["authorization"] == "Bearer slk_test_x"
    assert headers["content-type"] == "application/cloudevents-batch+json"
    assert events[0].items() >= {"type": "api_call", "subject": "cus_1", "userid": "ada"}.items()
    assert client.counters.tracked == client.counters.delivered == 1_050


async def test_the_asynchronous_client_does_the_same(receiver: Receiver) -> None:
    receiver.script = [problem(503), problem(500)]
    async with AsyncClient(receiver.origin, "k", replace(QUICK, batch_events=100)) as client:
        ids = [client.track("api_call", {"n": n}) for n in range(550)]
        assert await client.flush(20)
        assert client.track("one_more") is not None
    assert receiver.taken[:550] == ids
    assert len(receiver.taken) == 551
    assert client.counters.retries == 2


def test_what_fails_is_tried_again_as_the_same_event(receiver: Receiver) -> None:
    receiver.script = [problem(503), problem(500), problem(502), problem(401), problem(403)]
    with Client(receiver.origin, "k", QUICK) as client:
        made = client.track("api_call", {"bytes": Decimal("0.10")})
    assert receiver.taken == [made]
    bodies = [json.dumps(events) for _, events in receiver.requests]
    assert len(bodies) == 6
    assert len({*bodies}) == 1
    assert receiver.requests[0][1][0]["data"] == {"bytes": "0.10"}


def test_a_server_that_asks_for_a_pause_gets_it(receiver: Receiver) -> None:
    receiver.script = [problem(429, Retry_After="1")]
    began = time.monotonic()
    with Client(receiver.origin, "k", QUICK) as client:
        client.track("api_call")
        assert client.flush(20)
    assert time.monotonic() - began >= 1.0


@pytest.mark.parametrize(
    "answer",
    [
        (202, {}, b"<html>a proxy's page</html>"),
        (202, {}, b'{"results": []}'),
        (202, {}, b'{"results": [3]}'),
        (200, {}, b"{}"),
        (302, {"Location": "/"}, b""),
    ],
)
def test_an_answer_that_is_not_sluice_s_is_no_delivery(receiver: Receiver, answer: Answer) -> None:
    receiver.script = [lambda _: answer]
    with Client(receiver.origin, "k", QUICK) as client:
        made = client.track("api_call")
    assert receiver.taken == [made]
    assert len(receiver.requests) == 2


def test_a_refused_event_is_told_and_holds_up_no_other(receiver: Receiver) -> None:
    def refuse_the_second(events: Events) -> Answer:
        status, headers, body = accepted(events)
        said = json.loads(body)
        said["results"][1] |= {"status": "rejected", "code": "event_too_old"}
        return status, headers, json.dumps(said).encode()

    told: list[Rejection] = []

    def note(rejection: Rejection) -> None:
        told.append(rejection)
        raise RuntimeError("a callback that fails stops nothing")

    receiver.script = [refuse_the_second, problem(422, "invalid_json")]
    with Client(receiver.origin, "k", replace(WHOLE, on_rejected=note)) as client:
        ids = [client.track("api_call") for _ in range(3)]
        assert client.flush(20)
        last = client.track("api_call")
        assert client.flush(20)
    assert receiver.taken == [ids[0], ids[2]]
    assert [(each.event_id, each.code) for each in told] == [
        (ids[1], "event_too_old"),
        (last, "invalid_json"),
    ]
    assert client.counters.rejected == 2


def test_a_batch_that_is_too_large_is_halved(receiver: Receiver) -> None:
    receiver.script = [problem(413), problem(413)]
    with Client(receiver.origin, "k", replace(WHOLE, batch_events=80)) as client:
        ids = [client.track("api_call") for _ in range(80)]
    assert receiver.taken == ids
    assert [len(events) for _, events in receiver.requests][2:] == [20, 20, 20, 20]


def test_a_batch_that_names_too_many_tenants_is_halved_too(receiver: Receiver) -> None:
    receiver.script = [problem(400, "too_many_tenants")]
    with Client(receiver.origin, "k", replace(WHOLE, batch_events=8)) as client:
        ids = [client.track("api_call", tenant=f"t-{n}") for n in range(8)]
    assert receiver.taken == ids
    assert client.counters.rejected == 0


def test_a_file_that_cannot_be_read_is_in_nobody_s_way(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "00000000.jsonl").write_bytes(b"{half a line")
    with Client(receiver.origin, "k", replace(QUICK, spool=tmp_path)) as client:
        made = client.track("api_call")
        assert client.flush(20)
    assert receiver.taken == [made]
    assert [path.name for path in tmp_path.iterdir()] == ["00000000.unreadable"]


def test_a_batch_on_its_way_at_the_end_is_not_forgotten(receiver: Receiver, tmp_path: Path) -> None:
    """The server answers after the client has given up: the events lie on disk, and count once."""
    waiting = threading.Event()

    def late(events: Events) -> Answer:
        waiting.wait(20)
        return accepted(events)

    receiver.script = [late]
    options = replace(QUICK, spool=tmp_path, request_seconds=0.5)
    client = Client(receiver.origin, "k", replace(options, request_seconds=30.0))
    made = client.track("api_call")
    client._options = replace(options, request_seconds=0.01)
    assert not client.close(0.2)
    assert client.counters.spooled == 1
    waiting.set()
    with Client(receiver.origin, "k", options) as later:
        assert later.flush(20)
    assert set(receiver.taken) == {made}


def test_a_full_buffer_drops_and_counts_and_raises_only_where_asked() -> None:
    small = replace(QUICK, buffer_events=10, batch_events=10, close_seconds=0.1)
    client = Client(NOBODY, "k", small)
    # Two batches: the one that is being tried, and the one that waits.
    ids = [client.track("api_call") for _ in range(50)]
    assert 10 <= len([made for made in ids if made]) <= 20
    dropped = client.counters.dropped
    assert dropped == ids.count(None)
    assert not client.close(0.1)
    assert client.counters.dropped == 50
    strict = Client(NOBODY, "k", replace(small, raises=True))
    with pytest.raises(BufferFullError):
        for _ in range(50):
            strict.track("api_call")
    strict.close(0.1)


def test_what_cannot_be_an_event_is_dropped_or_raised(receiver: Receiver) -> None:
    loop: dict[str, object] = {}
    loop["itself"] = loop
    odd: list[dict[str, object]] = [
        {"x": object()},
        {"x": float("nan")},
        {"x": Decimal("Infinity")},
        {"x": "y" * 70_000},
        loop,
    ]
    with Client(receiver.origin, "k", QUICK) as client:
        assert [client.track("api_call", data) for data in odd] == [None] * 5
        assert client.track("api_call", at=datetime(2026, 1, 1)) is None  # noqa: DTZ001
        good = client.track("api_call", at=datetime(2026, 1, 1, tzinfo=UTC), event_id="mine")
    assert receiver.taken == [good] == ["mine"]
    assert client.counters.dropped == 6
    assert client.track("api_call") is None
    with Client(receiver.origin, "k", replace(QUICK, raises=True)) as strict:
        with pytest.raises(InvalidEventError):
            strict.track("api_call", {"x": object()})
        strict.close()
        with pytest.raises(ClosedError):
            strict.track("api_call")


class Hostile:
    """Something like a mapping, that raises when it is looked into."""

    def keys(self) -> NoReturn:
        raise LookupError("not now")


@pytest.mark.parametrize(
    "odd",
    [
        {"data": [1, 2]},
        {"data": Hostile()},
        {"data": {1: {2}}},
        {"at": "2026-01-01T00:00:00Z"},
        {"at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))},
        {"attributes": ["role"]},
        {"attributes": {"role": object()}},
        {"event_id": object()},
    ],
)
def test_whatever_is_tracked_raises_only_where_asked(odd: dict[str, Any]) -> None:
    client = Client(NOBODY, "k", QUICK)
    assert client.track("api_call", **odd) is None
    assert (client.counters.dropped, client.counters.tracked) == (1, 0)
    assert client.close()
    with pytest.raises(InvalidEventError):
        Client(NOBODY, "k", replace(QUICK, raises=True)).track("api_call", **odd)


def test_attributes_stand_beside_the_event_and_never_for_its_own(receiver: Receiver) -> None:
    with Client(receiver.origin, "k", QUICK) as client:
        attributes = {"role": "admin", "tenanttype": "user", "id": "other", "subject": "other"}
        made = client.track("api_call", customer="shop-7", attributes=attributes)
    ((_, (event,)),) = receiver.requests
    assert (event["id"], event["subject"]) == (made, "shop-7")
    assert (event["role"], event["tenanttype"]) == ("admin", "user")


def test_where_no_thread_can_be_started_events_wait(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    client, lost = Client(receiver.origin, "k", QUICK), Client(receiver.origin, "k", QUICK)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert client.track("api_call", event_id="waits") == "waits"
        assert lost.track("api_call")
        assert not client.flush(0.1)
        assert not lost.close()
    assert lost.counters.dropped == 1
    assert client.close()
    assert (receiver.taken, client.counters.dropped) == (["waits"], 0)


def test_what_is_tracked_without_a_loop_waits_for_one(receiver: Receiver) -> None:
    async def sent(client: AsyncClient) -> bool:
        return await client.aclose()

    client = AsyncClient(receiver.origin, "k", QUICK)
    assert client.track("api_call", event_id="early") == "early"
    assert asyncio.run(sent(client))
    assert (receiver.taken, client.counters.dropped) == (["early"], 0)


def test_a_batch_over_a_thousand_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="at most 1,000"):
        Options(batch_events=1_001)
    with pytest.raises(ValueError, match="above zero"):
        Options(flush_seconds=0)


def test_a_program_that_just_ends_has_sent_everything(receiver: Receiver) -> None:
    code = (
        "import sys; from sluice_client import Client\n"
        "client = Client(sys.argv[1], 'k')\n"
        "[client.track('api_call', {'n': n}) for n in range(250)]\n"
    )
    assert program(code, receiver.origin).wait(60) == 0
    assert len({*receiver.taken}) == 250


def test_the_child_of_a_fork_sends_its_own_and_nothing_twice(receiver: Receiver) -> None:
    code = (
        "import os, sys; from sluice_client import Client\n"
        "client = Client(sys.argv[1], 'k')\n"
        "client.track('parent', event_id='before')\n"
        "child = os.fork()\n"
        "client.track('child' if child == 0 else 'parent', event_id=f'after-{child == 0}')\n"
        "client.close()\n"
        "if child: os.waitpid(child, 0)\n"
        "os._exit(0)\n"
    )
    assert program(code, receiver.origin).wait(60) == 0
    assert sorted(receiver.taken) == ["after-False", "after-True", "before"]


def test_what_was_spooled_outlives_kill_9(receiver: Receiver, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from sluice_client import Client, Options\n"
        "options = Options(spool=Path(sys.argv[2]), flush_seconds=0.01, batch_events=10)\n"
        "client = Client('http://127.0.0.1:9', 'k', options)\n"
        "[client.track('api_call', event_id=f'{sys.argv[1]}-{n}') for n in range(30)]\n"
        "while client.counters.spooled < 30: time.sleep(0.01)\n"
        "Path(sys.argv[2], sys.argv[1]).touch()\n"
        "time.sleep(60)\n"
    )
    programs = [program(code, name, str(tmp_path)) for name in ("a", "b")]
    deadline = time.monotonic() + 60
    while not all((tmp_path / name).exists() for name in "ab") and time.monotonic() < deadline:
        time.sleep(0.05)
    for each in programs:
        each.send_signal(signal.SIGKILL)
        each.wait(60)
    with Client(receiver.origin, "k", replace(QUICK, spool=tmp_path)) as client:
        client.track("api_call", event_id="c")
        assert client.flush(30)
    assert sorted(receiver.taken) == sorted(
        ["c", *(f"{name}-{n}" for name in "ab" for n in range(30))]
    )
    assert list(tmp_path.glob("*.jsonl")) == []


def test_a_full_spool_keeps_events_in_memory(tmp_path: Path) -> None:
    tight = replace(QUICK, spool=tmp_path, spool_bytes=10, close_seconds=0.1)
    client = Client(NOBODY, "k", tight)
    made = client.track("api_call")
    assert made is not None
    assert not client.close(0.3)
    assert (client.counters.spooled, client.counters.dropped) == (0, 1)


def test_closing_without_a_server_leaves_everything_on_disk(
    receiver: Receiver, tmp_path: Path
) -> None:
    client = Client(NOBODY, "k", replace(QUICK, spool=tmp_path, batch_events=5))
    ids = [client.track("api_call") for _ in range(23)]
    assert not client.close(0.1)
    assert client.counters.dropped == 0
    with Client(receiver.origin, "k", replace(QUICK, spool=tmp_path)) as later:
        later.track("api_call", event_id="new")
        assert later.flush(30)
    assert sorted(receiver.taken) == sorted([*map(str, ids), "new"])


async def test_the_asynchronous_client_spools_too(receiver: Receiver, tmp_path: Path) -> None:
    client = AsyncClient(NOBODY, "k", replace(QUICK, spool=tmp_path))
    made = client.track("api_call")
    assert not await client.aclose(0.2)
    async with AsyncClient(receiver.origin, "k", replace(QUICK, spool=tmp_path)) as later:
        assert await later.flush(20)
    assert receiver.taken == [made]
