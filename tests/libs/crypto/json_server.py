"""A small HTTP server of JSON in a thread, for the two services that have no real one to test on."""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, dict[str, Any]]


class Service(Protocol):
    """What answers."""

    def answer(
        self, method: str, path: str, query: dict[str, str], headers: Any, body: dict[str, Any]
    ) -> Answer: ...


@contextmanager
def serving(service: Service) -> Generator[str, None, None]:
    """Serve on a free port; its base address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body leave together: in two parts the second waits 40 ms for the client's
        # delayed acknowledgement of the first.
        wbufsize = -1

        def log_message(self, *_: Any) -> None:
            return

        def answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            raw = self.rfile.read(length)
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            body = json.loads(raw) if raw else {}
            status, content = service.answer(
                self.command, parts.path, query, self.headers, body or {}
            )
            text = b"" if status == 204 else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_DELETE = do_LIST = answer  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
