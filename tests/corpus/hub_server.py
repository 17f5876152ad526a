"""A server of one dataset that speaks what `hf://` asks of the Hugging Face Hub: is there such a
repository, what lies below a folder, and the bytes of a file.
"""

import hashlib
import json
import urllib.parse
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class HubServer(ThreadingHTTPServer):
    """Serve a dataset's files, held in memory, on a free port of this machine.

    files: by their path in the repository; `pages` is how many entries one answer lists at most,
    as the Hub lists a thousand.
    """

    daemon_threads = True

    def __init__(self, repository: str, files: Mapping[str, bytes], pages: int = 2) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repository, self.files, self.pages = repository, dict(files), pages

    @property
    def address(self) -> str:
        """The endpoint, as the Hub's clients call it."""
        return f"http://127.0.0.1:{self.server_port}"

    def entries(self, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """The files and folders below a folder, as the Hub describes them."""
        prefix = f"{folder}/" if folder else ""
        below = [path.removeprefix(prefix) for path in self.files if path.startswith(prefix)]
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(below):
            parts = path.split("/")
            for depth in range(1, len(parts) + 1 if recursive else 2):
                name = prefix + "/".join(parts[:depth])
                found[name] = self._described(name)
        return list(found.values())

    def _described(self, path: str) -> dict[str, Any]:
        if path not in self.files:
            return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
        content = self.files[path]
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # as git names it
        return {"type": "file", "path": path, "oid": blob, "size": len(content)}


class _Answer(BaseHTTPRequestHandler):
    server: HubServer

    def do_GET(self) -> None:
        """Answer one of the three questions."""
        path, _, query = self.path.partition("?")
        path, hub = urllib.parse.unquote(path), self.server
        about = f"/api/datasets/{hub.repository}"
        files = f"/datasets/{hub.repository}/resolve/main/"
        if path in (about, f"{about}/revision/main"):
            self._send({"id": hub.repository, "sha": "0" * 40})
        elif path.startswith(f"{about}/tree/main"):
            self._list(path.removeprefix(f"{about}/tree/main").strip("/"), query)
        elif path.startswith(files) and (name := path.removeprefix(files)) in hub.files:
            self._send(hub.files[name])
        else:
            self._refuse("EntryNotFound" if hub.repository in path else "RepoNotFound")

    def _list(self, folder: str, query: str) -> None:
        asked = dict(urllib.parse.parse_qsl(query))
        entries = self.server.entries(folder, asked.get("recursive", "").lower() == "true")
        if not entries:
            self._refuse("EntryNotFound")
            return
        first = int(asked.get("cursor", 0))
        after = first + self.server.pages
        more = urllib.parse.urlencode(asked | {"cursor": after})
        link = f'<{self.server.address}{self.path.partition("?")[0]}?{more}>; rel="next"'
        self._send(entries[first:after], {"Link": link} if after < len(entries) else {})

    def _send(self, answer: Any, headers: Mapping[str, str] | None = None) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Nothing: the tests' output is not a log."""
