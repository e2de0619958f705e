"""A strict ModelScope hub: the listing and the files of one repository, with faults on request.

It speaks what modelscope 1.40 asks: `/api/v1/models/{id}/repo/files` and `/api/v1/models/{id}/repo` with Range.
Anything else is a 404.
"""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, urlsplit


@dataclass
class Faults:
    """What goes wrong, until set back. `cut_at`: bytes of the file after which connections break."""

    cut_at: int | None = None
    cuts: int = 0  # how many connections break
    wrong_bytes: bool = False
    status: int | None = None  # every answer's


@dataclass
class FakeHub:
    """Start it with `with`; `url` is what MODELSCOPE_ENDPOINT takes."""

    repository: str = "Qwen/Qwen3-4B-GGUF"
    revision: str = "master"
    files: dict[str, bytes] = field(default_factory=dict)
    listed_sizes: dict[str, int] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    ranges: list[str | None] = field(default_factory=list)  # of each request for a file
    listings: int = 0

    def __enter__(self) -> Self:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02], name="fake hub")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def listing(self) -> list[dict[str, object]]:
        return [
            {
                "Name": path, "Path": path, "Type": "blob", "Revision": self.revision,
                "Size": self.listed_sizes.get(path, len(body)), "Sha256": hashlib.sha256(body).hexdigest(),
            }
            for path, body in self.files.items()
        ]  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""

    def do_GET(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if hub.faults.status:
            self._json(hub.faults.status, {"Code": hub.faults.status, "Success": False, "Message": "fault"})
        elif query.get("Revision", hub.revision) != hub.revision:
            self._missing()
        elif url.path == f"/api/v1/models/{hub.repository}/repo/files":
            hub.listings += 1
            self._json(200, {"Code": 200, "Success": True, "Data": {"Files": hub.listing()}})
        elif url.path == f"/api/v1/models/{hub.repository}/repo" and query.get("FilePath") in hub.files:
            self._file(hub.files[query["FilePath"]])
        else:
            self._missing()

    def _missing(self) -> None:
        self._json(404, {"Code": 10010205001, "Success": False, "Message": "not found"})

    def _json(self, status: int, body: dict[str, object]) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _file(self, body: bytes) -> None:
        asked, faults = self.headers.get("Range"), self.hub.faults
        self.hub.ranges.append(asked)
        start = 0
        if asked:
            found = re.fullmatch(r"bytes=(\d+)-", asked)
            if not found or (start := int(found[1])) >= len(body):
                self._json(416, {"Code": 416, "Success": False, "Message": "range"})
                return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = len(body)
        if faults.cut_at is not None and faults.cuts > 0:
            faults.cuts, end = faults.cuts - 1, max(faults.cut_at, start)
        self.wfile.write(bytes(end - start) if faults.wrong_bytes else body[start:end])
        self.wfile.flush()
        self.close_connection = True
