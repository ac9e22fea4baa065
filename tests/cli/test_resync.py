"""`sluice resync` where nothing runs, and against stripe_sync's answers over a real socket."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.cli.conftest import Sluice

STEP = {"object_type": "customer", "listed": 3, "marked": 1, "done": False, "last_error": None}
RUN = {
    "id": "rsy_0192aaaa-0000-7000-8000-000000000001",
    "state": "running",
    "stripe_account": "platform",
    "listed": 3,
    "marked": 1,
    "steps": [STEP],
}


class Answers(BaseHTTPRequestHandler):
    """Answers as the API does: one poll until the run is done."""

    asked: list[tuple[str, str | None]]

    def log_message(self, *_: object) -> None:
        """Nothing on the error stream."""

    def do_POST(self) -> None:
        tenant = self.headers.get("x-tenant-id")
        self.asked.append((self.path, tenant))
        if tenant == "unconnected":
            self._answer(409, {"code": "stripe_not_connected", "detail": "Connect Stripe first."})
            return
        self._answer(202, RUN)

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("x-tenant-id")))
        done = sum(path == self.path for path, _ in self.asked) > 1
        self._answer(200, RUN | {"state": "done", "listed": 7, "steps": []} if done else RUN)

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
    result = sluice("resync")
    assert result.returncode == 1
    assert "SLUICE_ORIGIN is not set, and no stack runs here" in result.stderr


def test_it_waits_for_the_end_and_says_what_was_found(
    sluice: Sluice, api: ThreadingHTTPServer
) -> None:
    result = sluice("resync", "--tenant", "acme", **at(api))
    assert result.returncode == 0, result.stderr
    assert "Stripe listed 7 objects of platform; 1 were missing or differed" in result.stdout
    asked = api.RequestHandlerClass.asked  # type: ignore[attr-defined]
    path = f"/api/v1/stripe/resync/{RUN['id']}"
    assert asked == [("/api/v1/stripe/resync", "acme"), (path, "acme"), (path, "acme")]
    told = json.loads(sluice("resync", "--json", **at(api)).stdout)
    assert (told["state"], told["listed"]) == ("done", 7)


def test_a_refusal_is_told(sluice: Sluice, api: ThreadingHTTPServer) -> None:
    result = sluice("resync", "--tenant", "unconnected", **at(api))
    assert result.returncode == 1
    assert "Connect Stripe first" in result.stderr
