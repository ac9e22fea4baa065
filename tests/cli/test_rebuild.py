"""`sluice rebuild` against the services' answers over a real socket."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.cli.conftest import Sluice

ID = "rbd_0192aaaa-0000-7000-8000-000000000001"
RUN: dict[str, Any] = {
    "id": ID,
    "source": "archive",
    "state": "waiting",
    "records_read": 0,
    "records_expected": 7,
    "compared": None,
    "error": None,
}
SAME = {"live": 3, "rebuilt": 3, "only_live": 0, "only_rebuilt": 0}
NO_ROWS: dict[str, list[str]] = {"live_rows": [], "rebuilt_rows": []}
ENDS: dict[str | None, dict[str, Any]] = {
    "acme": {"state": "equal", "compared": {"usage_minute": SAME | NO_ROWS}},
    "globex": {
        "state": "different",
        "compared": {
            "usage_minute": {
                **SAME,
                "only_live": 1,
                "live_rows": ["(series,2026-01-01,7)"],
                "rebuilt_rows": [],
            }
        },
    },
    "gone": {"state": "failed", "error": "a file of the archive is missing"},
}


COMPARED = {"journal_entry": SAME | NO_ROWS, "account_balance": SAME | NO_ROWS}
FOUND: dict[str, Any] = {
    "compared": COMPARED,
    "faults": [],
    "other_versions": 2,
    "other_contents": 1,
    "set_aside": 0,
}
BOOKS: dict[str | None, dict[str, Any]] = {
    "acme": {"state": "equal", "found": FOUND},
    "globex": {
        "state": "different",
        "found": FOUND | {"faults": ["tenant entry 7: it does not fit the chain"], "set_aside": 3},
    },
    "gone": {"state": "failed", "error": "billing.events[3] begins at 9: what was before is gone"},
}


class Answers(BaseHTTPRequestHandler):
    """Answers as the API does: one poll until the run is done."""

    asked: list[Any]

    def log_message(self, *_: object) -> None:
        """Nothing on the error stream."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.asked.append((self.path, self.headers.get("x-tenant-id"), json.loads(body)))
        self._answer(202, RUN)

    def do_GET(self) -> None:
        ends = BOOKS if self.path == f"/api/v1/ledger/rebuilds/{ID}?mode=live" else ENDS
        assert ends is BOOKS or self.path == f"/api/v1/usage/rebuilds/{ID}"
        self._answer(200, RUN | {"records_read": 7} | ends[self.headers.get("x-tenant-id")])

    def _answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def api() -> Iterator[ThreadingHTTPServer]:
    handler = type("Answering", (Answers,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_end_is_told_and_is_the_exit_code(sluice: Sluice, api: ThreadingHTTPServer) -> None:
    origin = f"http://127.0.0.1:{api.server_address[1]}"
    at = {"SLUICE_ORIGIN": origin, "SLUICE_OPERATOR_KEY": "slk_test_x"}
    equal = sluice("rebuild", "metering", "--tenant", "acme", "--from", "topic", **at)
    assert equal.returncode == 0, equal.stderr
    assert "7 events counted anew" in equal.stdout
    assert "Equal." in equal.stdout
    asked = api.RequestHandlerClass.asked  # type: ignore[attr-defined]
    assert asked == [("/api/v1/usage/rebuilds", "acme", {"source": "topic"})]
    different = sluice("rebuild", "metering", "--tenant", "globex", **at)
    assert different.returncode == 1
    assert "only live, usage_minute: (series,2026-01-01,7)" in different.stdout
    failed = sluice("rebuild", "metering", "--tenant", "gone", "--json", **at)
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["error"] == "a file of the archive is missing"
    failed = sluice("rebuild", "metering", "--tenant", "gone", **at)
    assert (failed.returncode, "is missing" in failed.stderr) == (1, True)


def test_books_are_rebuilt_in_the_mode_that_is_named(
    sluice: Sluice, api: ThreadingHTTPServer
) -> None:
    origin = f"http://127.0.0.1:{api.server_address[1]}"
    at = {"SLUICE_ORIGIN": origin, "SLUICE_OPERATOR_KEY": "slk_test_x"}
    equal = sluice("rebuild", "ledger", "--tenant", "acme", "--mode", "live", **at)
    assert equal.returncode == 0, equal.stderr
    assert "7 records read anew" in equal.stdout
    assert "2 entries were made by another version" in equal.stdout
    assert "Equal." in equal.stdout
    asked = api.RequestHandlerClass.asked  # type: ignore[attr-defined]
    assert asked == [("/api/v1/ledger/rebuilds?mode=live", "acme", {})]
    different = sluice("rebuild", "ledger", "--tenant", "globex", "--mode", "live", **at)
    assert different.returncode == 1
    assert "tenant entry 7: it does not fit the chain" in different.stdout
    assert "3 events cannot be booked" in different.stdout
    failed = sluice("rebuild", "ledger", "--tenant", "gone", "--mode", "live", **at)
    assert (failed.returncode, "begins at 9" in failed.stderr) == (1, True)
