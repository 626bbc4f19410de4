"""The report of runs that are still going on, served to this machine alone. It reads run folders and nothing else."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from visurf.reporting.page import embedded, policy, render
from visurf.reporting.reading import stamp
from visurf.reporting.report import report_data
from visurf.small_pictures import FOLDER, is_stored_name

_PICTURE = re.compile(r"/picture/(\d{1,6})/([0-9a-f.a-z]{1,40})")


class Watcher:
    """What the server shows, made anew only when a run folder has changed."""

    def __init__(self, runs: Sequence[Path]) -> None:
        """Take the run folders."""
        self.runs = list(runs)
        self._lock = threading.Lock()
        self._seen: object = None
        self._page, self._data, self._tag = b"", b"", ""

    def current(self) -> tuple[bytes, bytes, str]:
        """The page, its data as JSON, and what tells this state from another."""
        with self._lock:
            now = stamp(self.runs)
            if now != self._seen:
                data = report_data(self.runs, watch=True)
                self._page = render(data, "visurf report").encode()
                self._data = embedded(data).encode()
                self._tag = f'"{hashlib.sha256(repr(now).encode()).hexdigest()[:20]}"'
                self._seen = now
            return self._page, self._data, self._tag

    def picture(self, path: str) -> bytes | None:
        """A recorded picture by its address, or None; no address leads out of the runs' picture folders."""
        match = _PICTURE.fullmatch(path)
        if match is None or not is_stored_name(match[2]) or int(match[1]) >= len(self.runs):
            return None
        try:
            return (self.runs[int(match[1])] / FOLDER / match[2]).read_bytes()
        except OSError:
            return None


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "visurf", ""
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        """Answer with the page, its data or a picture."""
        # A page elsewhere may point a name of its own at this machine; it cannot change what its browser calls the host.
        if self.headers.get("Host", "") not in self.server.hosts:
            self._send(HTTPStatus.FORBIDDEN, b"this server answers to 127.0.0.1 and localhost only", "text/plain")
            return
        path = self.path.partition("?")[0]
        if path.startswith("/picture/"):
            picture = self.server.watcher.picture(path)
            kind = "image/png" if path.endswith(".png") else "image/jpeg"
            self._send(HTTPStatus.OK if picture is not None else HTTPStatus.NOT_FOUND, picture or b"", kind, keep=True)
            return
        if path not in ("/", "/data.json"):
            self._send(HTTPStatus.NOT_FOUND, b"", "text/plain")
            return
        try:
            page, data, tag = self.server.watcher.current()
        except (OSError, ValueError) as error:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, str(error).encode(), "text/plain; charset=utf-8")
            return
        if path == "/data.json" and self.headers.get("If-None-Match") == tag:
            self._send(HTTPStatus.NOT_MODIFIED, b"", "application/json", tag=tag)
        elif path == "/data.json":
            self._send(HTTPStatus.OK, data, "application/json", tag=tag)
        else:
            self._send(HTTPStatus.OK, page, "text/html; charset=utf-8")

    def _send(self, status: HTTPStatus, body: bytes, kind: str, *, tag: str = "", keep: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=86400, immutable" if keep else "no-cache")
        self.send_header("Content-Security-Policy", policy(served=True) + "; frame-ancestors 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if tag:
            self.send_header("ETag", tag)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a page that asks every few seconds would fill the terminal."""


class Server(ThreadingHTTPServer):
    """Serves on 127.0.0.1 until it is shut down."""

    daemon_threads = True

    def __init__(self, runs: Sequence[Path], port: int = 0) -> None:
        """Bind to a port of 127.0.0.1; 0 takes a free one.

        Raises:
            OSError: The port is taken.
        """
        self.watcher = Watcher(runs)
        super().__init__(("127.0.0.1", port), _Handler)
        self.hosts = {f"127.0.0.1:{self.server_port}", f"localhost:{self.server_port}"}

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://127.0.0.1:{self.server_port}/"
