"""A Hugging Face hub on this machine, and tiny random weights under official names."""

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax
import numpy as np
from etils.epath import Path

from urgt_jax.config import Config, Eval, Model, Vit
from urgt_jax.models.depth_anything import DepthAnythingConfig
from urgt_jax.models.metric3d import Metric3DConfig
from urgt_jax.models.registry import FileConfig, abstract_params, network_config
from urgt_jax.weights.convert import to_official
from urgt_jax.weights.tensor_files import open_tensors, write_safetensors
from urgt_jax.weights.weight_file import save_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# The smallest sizes of which shapes tell everything: heads have 64 channels, and published models
# have 12 blocks or more.
VIT = Vit(
    width=64, depth=12, num_heads=1, pretrain_size=42, registers=0, position_resampling="offset"
)
LAYERS = (2, 5, 8, 11)
TINY = {
    "urgt": Config(
        model=Model(
            Vit(width=64, depth=12, num_heads=1, pretrain_size=42),
            num_heads=1,
            depth=12,
            dpt_layers=LAYERS,
            patch_size=(42, 42),
            dpt_features=8,
            dpt_channels=(8, 8, 8, 8),
        ),
        eval=Eval(grid=(8, 8), overlap=0.3, fidelity="official"),
    ),
    "depth_anything_s": DepthAnythingConfig(
        VIT, layers=LAYERS, features=8, channels=(8, 8, 8, 8), size=42
    ),
    "metric3d_s": Metric3DConfig(VIT, channels=(8, 16), hidden=8, iters=4, bins=8),
}


def official_file(folder: Path, config: FileConfig) -> bytes:
    """Random weights of a model under its official names; the same every time."""
    rng = np.random.default_rng(0)

    def draw(leaf) -> np.ndarray:
        return rng.uniform(-0.05, 0.05, leaf.shape).astype(np.float32)

    params = jax.tree.map(draw, abstract_params(network_config(config)))
    ours = folder / "ours.safetensors"
    save_weights(ours, params, config)
    plan = to_official(open_tensors(ours), ours)
    write_safetensors(folder / "official.safetensors", plan.tensors, plan.metadata)
    return (folder / "official.safetensors").read_bytes()


class LoopbackHub:
    """Serves files as the hub does; `requests` lists the paths that were asked for."""

    def __init__(self, files: Mapping[str, Mapping[str, bytes]]):
        requests = self.requests = []

        class Handler(BaseHTTPRequestHandler):
            """Answers of one connection."""

            protocol_version = "HTTP/1.1"

            def answer(self, status: int, content: bytes, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            def do_GET(self) -> None:
                path = self.path.partition("?")[0].strip("/")
                requests.append(path)
                if path.startswith("api/models/"):
                    self.describe(path.removeprefix("api/models/"))
                    return
                repository, _, rest = path.partition("/resolve/")
                file = rest.partition("/")[2]
                content = files.get(repository, {}).get(file)
                if content is None:
                    kind = "EntryNotFound" if repository in files else "RepoNotFound"
                    self.answer(404, b"", X_Error_Code=kind)
                    return
                tag = hashlib.sha256(content).hexdigest()
                self.answer(200, content, ETag=f'"{tag}"', X_Repo_Commit=COMMIT)

            do_HEAD = do_GET

            def describe(self, path: str) -> None:
                """The list of a repository's files, at api/models/ORG/NAME/tree/REVISION."""
                repository = "/".join(path.split("/")[:2])
                if repository not in files:
                    self.answer(404, b"", X_Error_Code="RepoNotFound")
                    return
                entries = []
                for name, content in files[repository].items():
                    entry = {"type": "file", "path": name, "size": len(content), "oid": COMMIT}
                    entries.append(entry)
                self.answer(200, json.dumps(entries).encode(), Content_Type="application/json")

            def log_message(self, *_) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End the server."""
        self.server.shutdown()
        self.server.server_close()
