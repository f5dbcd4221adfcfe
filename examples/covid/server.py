"""Serves the case records over HTTP on loopback, and counts how often they were asked for."""

import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from examples.covid.generate import case_records


@cache
def document() -> bytes:
    """Returns the records, made once."""
    return case_records()


class CaseServer:
    """A web server with the case records, for the time of a `with` block.

    Attributes:
        url: Where the records are.
        requests: How often they were asked for.
    """

    def __init__(self) -> None:
        self.requests = 0
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            """Answers every GET with the records."""

            def do_GET(self) -> None:
                with lock:
                    outer.requests += 1
                body = document()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="case server", daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/casedistribution/json"

    def __enter__(self) -> "CaseServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
