"""A tracker of one's own, and the server on loopback that it sends everything to."""

import json
import os
import threading
import urllib.request
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from urgt_jax.training.trackers.protocol import TrackedRun

URL = "TRACKER_URL"  # environment variable


class HttpTracker:
    """Posts everything as JSON."""

    def __init__(self, run: TrackedRun):
        self.post("run", id=run.id, name=run.name, step=run.step, commit=run.commit)
        self.post("config", values=run.config)

    def write_scalars(self, step: int, values: dict[str, float]) -> None:
        self.post("scalars", step=step, values=values)

    def write_images(self, step: int, images: dict) -> None:
        self.post("images", step=step, shapes={name: x.shape for name, x in images.items()})

    def close(self) -> None:
        self.post("close")

    def post(self, kind: str, **content: object) -> None:
        data = json.dumps({"kind": kind, **content}).encode()
        urllib.request.urlopen(os.environ[URL], data, timeout=10).close()


class TrackerServer:
    """Keeps what is posted to it while its block runs."""

    def __init__(self):
        self.posts: list[dict] = []
        posts = self.posts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers["Content-Length"])
                posts.append(json.loads(self.rfile.read(length)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "TrackerServer":
        serve = partial(self.server.serve_forever, poll_interval=0.01)
        threading.Thread(target=serve, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def of_kind(self, kind: str) -> list[dict]:
        """The posts of one kind, in order."""
        return [post for post in self.posts if post["kind"] == kind]
