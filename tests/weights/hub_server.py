"""A hub of Hugging Face's kind on this machine: the same addresses, headers, redirects and refusals."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves ``files``, {"owner/name/path": bytes}, at ``address``.

    Attributes:
        requests: (method, path, range header) of each request.
        drop_after: close the first answer to a GET after so many bytes, once.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.requests, self.drop_after = files, [], None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                hub._answer(self, body=False)

            def do_GET(self):
                hub._answer(self, body=True)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def downloads(self) -> list[tuple[str, str | None]]:
        """(path, range header) of each file asked for."""
        return [(path, wanted) for method, path, wanted in self.requests if method == "GET" and "/resolve/" in path]

    def _answer(self, handler: BaseHTTPRequestHandler, body: bool) -> None:
        wanted = handler.headers.get("Range")
        self.requests.append((handler.command, handler.path, wanted))
        name = handler.path.partition("?")[0].lstrip("/").replace("/resolve/main/", "/")
        contents = self.files.get(name)
        if contents is None:
            known = any(file.startswith("/".join(name.split("/")[:2])) for file in self.files)
            handler.send_response(404)
            handler.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        handler.send_response(206 if wanted else 200)
        handler.send_header("ETag", f'"{hashlib.sha256(contents).hexdigest()}"')
        handler.send_header("X-Repo-Commit", COMMIT)
        handler.send_header("Content-Length", str(len(contents) - start))
        handler.send_header("Accept-Ranges", "bytes")
        if wanted:
            handler.send_header("Content-Range", f"bytes {start}-{len(contents) - 1}/{len(contents)}")
        handler.end_headers()
        if not body:
            return
        if self.drop_after is not None and start == 0:
            handler.wfile.write(contents[: self.drop_after])
            handler.wfile.flush()
            self.drop_after = None
            handler.close_connection = True
            handler.connection.close()
            return
        handler.wfile.write(contents[start:])
