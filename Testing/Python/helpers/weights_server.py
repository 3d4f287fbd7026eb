"""A server on this computer that gives files well, slowly, in part, or not at all."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LONG_S = 1.0  # until a stalled connection is dropped


@contextmanager
def serving(content: bytes) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """Give the address of a server for a file, and the list of its requests: path and asked range.

    /good gives all of it and knows ranges, /plain knows none. /cut breaks off in the middle and /stall stops there,
    until they are asked to go on. /slow makes a pause in the middle. /page is no network, /endless too long, /missing
    not there; /moved leads on to /good and /unsafe to another computer.
    """
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            asked.append((self.path, wanted))
            start = int(wanted[6:-1]) if wanted and self.path != "/plain" else 0
            if self.path in ("/moved", "/unsafe"):
                self.send_response(302)
                self.send_header("Location", "/good" if self.path == "/moved" else "http://example.org/good")
                self.end_headers()
                return
            if self.path == "/missing" or start >= len(content):
                self.send_error(404 if self.path == "/missing" else 416)
                return
            body = {"/page": b"<html>gone</html>", "/endless": 3 * content}.get(self.path, content)[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if self.path != "/endless":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            half = len(body) // 2
            self.wfile.write(body[:half])
            self.wfile.flush()
            if self.path in ("/slow", "/stall") and not start:
                time.sleep(0.05 if self.path == "/slow" else LONG_S)
            if start or self.path not in ("/cut", "/stall"):
                self.wfile.write(body[half:])

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):  # the client went away
                super().handle()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}", asked
        finally:
            http.shutdown()
            thread.join()


def write_registry(folder: Path, **values: Any) -> Path:
    """Write a registry of one network, `large`, that is the default."""
    entry = {"name": "large", "description": "A larger network.", "licence": "CC0-1.0", "file": "large.pt", **values}
    path = folder / "registry.json"
    path.write_text(json.dumps({"default": "large", "weights": [entry]}))
    return path
