"""A server on the loopback interface that answers as the Hugging Face hub does."""

import contextlib
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# What a repository answers to every request -> status and headers, as the hub's.
FAULTS = {
    "missing": (401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."}),
    "gated": (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted."}),
    "revision": (404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id: other"}),
    "token": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
    "forbidden": (403, {}),
    "limited": (429, {"Retry-After": "60"}),
    "down": (503, {}),
    "other": (404, {}),
}


class Hub(ThreadingHTTPServer):
    """`repositories` maps "owner/name" to {file name: content}, a key of FAULTS, "silent" or "slow".

    A repository with a file "stalls" tells of its files and sends none.
    `requests` are the lines of all requests so far.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes] | str] = {}
        self.requests: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append(f"{self.command} {self.path}")
        parts = self.path.partition("?")[0].split("/")
        is_list = parts[1:3] == ["api", "models"]
        files = self.server.repositories.get("/".join(parts[3:5] if is_list else parts[1:3]), "missing")
        if files == "silent":
            time.sleep(60)
        elif files == "slow":  # a header that never ends, so that no read takes long
            with contextlib.suppress(OSError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
                for _ in range(600):
                    self.wfile.write(b"x")
                    time.sleep(0.1)
        elif isinstance(files, str):
            self.answer(*FAULTS[files])
        elif is_list:
            siblings = [{"rfilename": name} for name in files]
            content = {"id": "owner/name", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
            self.answer(200, {"Content-Type": "application/json"}, json.dumps(content).encode())
        elif "stalls" in files and self.command == "GET":
            time.sleep(60)
        elif (name := "/".join(parts[5:])) in files:
            tag = hashlib.sha1(files[name]).hexdigest()
            self.answer(200, {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"'}, files[name])
        else:
            self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def answer(self, status, headers, content=b""):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass
