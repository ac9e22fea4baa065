"""`sluice release` against a gateway's answers over a real socket."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.cli.conftest import Sluice

RELEASED = {
    "tenant_id": "0192aaaa-0000-7000-8000-000000000001",
    "account": "acct_globex",
    "mode": "test",
}
OUTCOMES = {"whe_1": "stored", "whe_2": "duplicate", "whe_3": "quarantined"}
WHY = ("--why", "secrets were exchanged")


class Answers(BaseHTTPRequestHandler):
    """Answers as the API does."""

    asked: list[tuple[str, Any]]

    def log_message(self, *_: object) -> None:
        """Nothing on the error stream."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append((self.path, body))
        outcome = OUTCOMES.get(self.path.split("/")[-2])
        told = RELEASED | {"outcome": outcome, "dry_run": body["dry_run"]}
        refused = {"code": "webhook_event_not_held", "detail": "It is not kept aside."}
        content = json.dumps(told if outcome else refused).encode()
        self.send_response(200 if outcome else 409)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def asked() -> list[tuple[str, Any]]:
    """What the API was asked."""
    return []


@pytest.fixture
def there(asked: list[tuple[str, Any]]) -> Iterator[dict[str, str]]:
    """The variables that lead the command to a server that answers for the API."""
    handler = type("Answering", (Answers,), {"asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    origin = f"http://127.0.0.1:{server.server_address[1]}"
    yield {"SLUICE_ORIGIN": origin, "SLUICE_OPERATOR_KEY": "slk_test_x"}
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_tells_what_became_of_the_event(
    sluice: Sluice, there: dict[str, str], asked: list[tuple[str, Any]]
) -> None:
    dry = sluice("release", "whe_1", *WHY, "--dry-run", **there)
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.startswith("Dry run: it is published to tenant 0192aaaa")
    for event, said in (
        ("whe_1", "It is published to tenant 0192aaaa"),
        ("whe_2", "It had come before: nothing is published"),
        ("whe_3", "It waits until somebody connects acct_globex"),
    ):
        assert sluice("release", event, *WHY, **there).stdout.startswith(said)
    assert [body["dry_run"] for _, body in asked] == [True, False, False, False]
    assert asked[0] == (
        "/api/v1/webhook-events/whe_1/release",
        {"why": "secrets were exchanged", "dry_run": True},
    )


def test_as_json_it_is_the_answer(sluice: Sluice, there: dict[str, str]) -> None:
    result = sluice("release", "whe_2", *WHY, "--json", **there)
    assert json.loads(result.stdout) == RELEASED | {"outcome": "duplicate", "dry_run": False}


def test_a_refusal_is_told_and_a_reason_is_wanted(sluice: Sluice, there: dict[str, str]) -> None:
    refused = sluice("release", "whe_4", *WHY, **there)
    assert refused.returncode == 1
    assert "It is not kept aside" in refused.stderr
    assert sluice("release", "whe_1", **there).returncode == 2
