"""`sluice replay` where nothing runs, and against a gateway's answers over a real socket."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.cli.conftest import Sluice

RUN = {
    "id": "rpl_0192aaaa-0000-7000-8000-000000000001",
    "state": "running",
    "dry_run": True,
    "matched": 0,
    "counted": False,
    "replayed": 0,
}
DIFFERENCES = {
    "items": [
        {
            "object_type": "invoice",
            "object_id": "in_1",
            "state": "different",
            "changes": {"status": {"before": "open", "after": "paid"}},
            "error": None,
        },
        {
            "object_type": "charge",
            "object_id": "ch_1",
            "state": "failed",
            "changes": {},
            "error": "no access",
        },
    ],
    "next_cursor": None,
    "checked": 2,
    "different": 1,
    "pending": 0,
    "failed": 1,
}


class Answers(BaseHTTPRequestHandler):
    """Answers as the API does: two polls until the run is done, one until objects are known."""

    asked: list[tuple[str, Any]]

    def log_message(self, *_: object) -> None:
        """Nothing on the error stream."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append((self.path, body))
        if body.get("tenant_id") == "busy":
            self._answer(409, {"code": "replay_running", "detail": "A replay is under way."})
            return
        self._answer(202, RUN | {"dry_run": body["dry_run"]})

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        times = len([asked for asked, _ in self.asked if asked == path])
        self.asked.append((path, None))
        if "/differences" in self.path:
            self._answer(*((200, DIFFERENCES) if times else (404, {"code": "not_found"})))
            return
        dry_run = self.asked[0][1]["dry_run"]
        end = {"state": "done", "matched": 3, "counted": True, "replayed": 3} if times else {}
        self._answer(200, RUN | end | {"dry_run": dry_run})

    def _answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def api() -> Iterator[ThreadingHTTPServer]:
    """A server that answers for the API; `api.RequestHandlerClass.asked` is what it was asked."""
    handler = type("Answering", (Answers,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def at(api: ThreadingHTTPServer) -> dict[str, str]:
    """The variables that lead the command there."""
    origin = f"http://127.0.0.1:{api.server_address[1]}"
    return {"SLUICE_ORIGIN": origin, "SLUICE_OPERATOR_KEY": "slk_test_x"}


def test_without_a_stack_it_says_what_is_missing(sluice: Sluice) -> None:
    result = sluice("replay")
    assert result.returncode == 1
    assert "SLUICE_ORIGIN is not set, and no stack runs here" in result.stderr


def test_a_dry_run_shows_what_would_change(sluice: Sluice, api: ThreadingHTTPServer) -> None:
    result = sluice(
        *("replay", "--type", "invoice.paid", "--tenant", "acme", "--dry-run"),
        *("--from", "2026-10-01", "--to", "2026-10-02T12:00:00Z"),
        **at(api),
    )
    assert result.returncode == 0, result.stderr
    (_, body), *_ = api.RequestHandlerClass.asked  # type: ignore[attr-defined]
    assert body == {
        "tenant_id": "acme",
        "type": "invoice.paid",
        "received_from": "2026-10-01T00:00:00+00:00",
        "received_to": "2026-10-02T12:00:00+00:00",
        "dry_run": True,
    }
    assert "3 of 3 events tried" in result.stdout
    assert "2 objects compared with Stripe, 1 would change, 1 could not be" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["invoice", "in_1", "status", "open", "paid"] in lines
    assert ["charge", "ch_1", "no", "access"] in lines


def test_a_replay_waits_for_its_end(sluice: Sluice, api: ThreadingHTTPServer) -> None:
    result = sluice("replay", "--id", "whe_1", "--id", "whe_2", "--json", **at(api))
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["replay"]["state"], told["replay"]["replayed"]) == ("done", 3)
    assert told["differences"] is None
    (_, body), *_ = api.RequestHandlerClass.asked  # type: ignore[attr-defined]
    assert body == {"ids": ["whe_1", "whe_2"], "dry_run": False}


def test_a_refusal_is_told(sluice: Sluice, api: ThreadingHTTPServer) -> None:
    result = sluice("replay", "--tenant", "busy", **at(api))
    assert result.returncode == 1
    assert "A replay is under way" in result.stderr


def test_a_time_that_is_none_is_wrong_usage(sluice: Sluice, api: ThreadingHTTPServer) -> None:
    result = sluice("replay", "--from", "yesterday", **at(api))
    assert result.returncode == 2
