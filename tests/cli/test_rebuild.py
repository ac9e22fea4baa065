"""`sluice rebuild metering` against metering's answers over a real socket."""

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
        assert self.path == f"/api/v1/usage/rebuilds/{ID}"
        self._answer(200, RUN | {"records_read": 7} | ENDS[self.headers.get("x-tenant-id")])

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
