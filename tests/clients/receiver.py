"""A server that answers as Sluice does, or as a test has it: real HTTP on a real socket."""

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], bytes]
Events = list[dict[str, Any]]


def accepted(events: Events) -> Answer:
    """202 with a verdict per event."""
    results = [{"id": e["id"], "source": e["source"], "status": "accepted"} for e in events]
    return 202, {}, json.dumps({"results": results}).encode()


def problem(status: int, code: str = "odd", **headers: str) -> Callable[[Events], Answer]:
    """Always this problem."""
    return lambda _: (status, headers, json.dumps({"code": code}).encode())


@dataclass
class Receiver:
    """What came in, and what to answer: `script` first, then `accepted`."""

    origin: str = ""
    requests: list[tuple[dict[str, str], Events]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    script: list[Callable[[Events], Answer]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, headers: dict[str, str], body: bytes) -> Answer:
        """Note a request and answer it."""
        events: Events = json.loads(gzip.decompress(body))
        with self._lock:
            self.requests.append((headers, events))
            said = (self.script.pop(0) if self.script else accepted)(events)
            if said[0] == 202:
                verdicts = json.loads(said[2]).get("results", [])
                self.taken += [e["id"] for e in verdicts if e["status"] == "accepted"]
        return said


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """A receiver that listens for the length of the block."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, extra, body = receiver.answer(headers, self.rfile.read(length))
            self.send_response(status)
            for name, value in {**extra, "Content-Length": str(len(body))}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    receiver.origin = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
