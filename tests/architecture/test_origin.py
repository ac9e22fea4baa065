"""The generated Caddyfile, in a real Caddy before upstreams that say who they are."""

import contextlib
import http.client
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cli.generate_apps import CONSOLE, Route, ServiceApp
from deploy.local import caddy
from deploy.local.environment import SERVICE_PORTS
from deploy.local.ports import scratch_port
from libs.web.serve import KEEP_ALIVE_SECONDS

STAFF = "127.0.0.1"
PROBLEM = "application/problem+json"
MAX_BODY_BYTES = 8_000_000


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Origin:
    port: int

    def ask(
        self,
        path: str,
        method: str = "GET",
        host: str = STAFF,
        body: bytes = b"",
        more: Mapping[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            headers = {"Host": f"{host}:{self.port}", **(more or {})}
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, headers, answer.read())
        finally:
            connection.close()


def _upstream(service: str) -> ThreadingHTTPServer:
    class Echo(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            with contextlib.suppress(ConnectionError):  # the proxy gave the request up
                self.answer()

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            body = json.dumps({"service": service, "path": self.path}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Seen", " ".join(name.lower() for name in self.headers))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def origin(scratch: Path) -> Generator[Origin, None, None]:
    """Caddy with the committed Caddyfile; ledger's upstream is down."""
    upstreams = {name: _upstream(name) for name in SERVICE_PORTS if name != "ledger"}
    values = {f"SLUICE_{n.upper()}_PORT": str(s.server_port) for n, s in upstreams.items()}
    port = scratch_port()
    values |= {"SLUICE_ORIGIN_PORT": str(port), "SLUICE_LEDGER_PORT": str(scratch_port())}
    folder = scratch / "caddy"
    environment = caddy.environment(values, folder)
    command = caddy.prepare(folder, environment)
    with (folder / "caddy.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait_for(port)
        yield Origin(port)
    finally:
        process.terminate()
        process.wait(timeout=20)
        for server in upstreams.values():
            server.shutdown()
            server.server_close()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "Caddy does not listen"
            time.sleep(0.05)
        else:
            return


def _example(route: Route) -> str:
    return re.sub(r"\{[^}]+\}", "some-thing_1", route.path)


def test_caddy_finds_nothing_wrong(tmp_path: Path) -> None:
    command = [str(caddy.binary()), "validate", "--adapter", "caddyfile"]
    command += ["--config", str(caddy.CADDYFILE)]
    environment = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "PATH": "/usr/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_route_reaches_its_service(origin: Origin, apps: list[ServiceApp]) -> None:
    for app in apps:
        for route in app.routes:
            if app.service == "ledger":
                continue
            method = "GET" if "GET" in route.methods else "POST"
            answer = origin.ask(_example(route) + "?limit=1", method)
            said = json.loads(answer.body)
            assert said == {"service": app.service, "path": _example(route) + "?limit=1"}


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/api/v1/nothing",
        "/api/v1/plans/",
        "/api/v1/plans/a/b",
        "/API/v1/plans",
        "/api/v1/invoices/a%2Fb",
        "/api/v1/plansx",
        "/healthz",
        "/readyz",
        "/metrics",
        "//metrics",
        "/api/v1/plans/../../../metrics",
        "/api/v1/plans/%2e%2e/%2e%2e/%2e%2e/healthz",
        "/openapi.json/x",
        "/docs/../../Caddyfile",
    ],
)
def test_what_is_not_listed_is_absent(origin: Origin, path: str) -> None:
    answer = origin.ask(path)
    assert answer.status == 404
    assert answer.headers["content-type"] == PROBLEM
    problem = json.loads(answer.body)
    assert problem["code"] == "not_found"
    assert problem["detail"]


def test_the_document_is_the_committed_one(origin: Origin) -> None:
    answer = origin.ask("/openapi.json")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.body == (caddy.DOCS / "openapi.json").read_bytes()


def test_every_problem_leads_to_its_explanation(origin: Origin) -> None:
    answer = origin.ask("/docs/problems")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    problem = json.loads(origin.ask("/nothing").body)
    path, _, anchor = problem["type"].partition("#")
    assert path == "/docs/problems"
    assert f'id="{anchor}"'.encode() in answer.body


def test_the_portals_name_is_another_site(origin: Origin, apps: list[ServiceApp]) -> None:
    pages = [r for app in apps if app.service == CONSOLE for r in app.routes]
    assert not [route for route in pages if route.path.startswith("/portal")], "extend this test"
    for path in ("/api/v1/plans", "/tenants", "/openapi.json"):
        answer = origin.ask(path, host="localhost")
        assert answer.status == 404
        assert json.loads(answer.body)["code"] == "not_found"


def test_a_body_past_every_limit_is_refused(origin: Origin) -> None:
    answer = origin.ask("/api/v1/plans", "POST", body=b" " * (MAX_BODY_BYTES + 1))
    assert answer.status == 413
    assert json.loads(answer.body)["code"] == "body_too_large"


def test_a_service_that_is_down_is_a_problem_that_says_so(
    origin: Origin, apps: list[ServiceApp]
) -> None:
    routes = [route for app in apps if app.service == "ledger" for route in app.routes]
    answer = origin.ask(_example(routes[0]))
    assert answer.status == 503
    assert answer.headers["content-type"] == PROBLEM
    assert answer.headers["retry-after"] == "5"
    assert json.loads(answer.body)["code"] == "unavailable"


def test_the_server_does_not_introduce_itself(origin: Origin) -> None:
    answer = origin.ask("/api/v1/plans")
    assert "server" not in answer.headers
    assert "via" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_nobody_outside_chooses_a_trace(origin: Origin) -> None:
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "x=1"}
    answer = origin.ask("/api/v1/plans", more={**trace, "accept": "*/*"})
    seen = set(answer.headers["x-seen"].split())
    assert "accept" in seen
    assert not trace.keys() & seen


def test_an_idle_connection_is_given_up_here_before_the_service_closes_it() -> None:
    (seconds,) = re.findall(r"\tkeepalive (\d+)s\n", caddy.CADDYFILE.read_text())
    assert int(seconds) < KEEP_ALIVE_SECONDS
