"""A collector of traces (OTLP over HTTP) that only keeps what it is sent, for looking into."""

import gzip
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass(frozen=True)
class TraceSink:
    """Where it listens, and the file that everything goes to, unpacked."""

    endpoint: str
    path: Path


@contextmanager
def trace_sink(path: Path, *, port: int = 0) -> Generator[TraceSink, None, None]:
    """A sink on a free port, until the block is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        """Answers every export with success."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            with turn, path.open("ab") as file:
                file.write(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield TraceSink(f"http://127.0.0.1:{server.server_port}", path)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
