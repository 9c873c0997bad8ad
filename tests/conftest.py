"""Tests run on eight fake CPU devices and in full float32."""

import os
import sys
from importlib.metadata import version

from etils.epath import Path

# Tests compile much and compute little. Programs that tests start take these flags over.
flags = [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"]
if version("jax").startswith("0.10."):
    flags.append("--xla_cpu_use_fusion_emitters=false")  # compiles in half the time; gone in 0.11
# XLA aborts where devices need more than 40 s to meet, as eight of them may on two busy cores.
flags.append("--xla_cpu_collective_call_terminate_timeout_seconds=600")
os.environ["XLA_FLAGS"] = " ".join(flags)

# Commands keep compiled programs, but not among those of the user who runs the tests.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache/compiled")
)

import helpers.typecheck  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1]))
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
# From here on, every annotation of the package is checked at every call, shapes included.
install_import_hook("urgt_jax", f"{helpers.typecheck.__name__}.check")

from helpers.fake_remote import FakeStore, register_store  # noqa: E402
from helpers.micro import MICRO  # noqa: E402

from urgt_jax import remote  # noqa: E402
from urgt_jax.config import Config  # noqa: E402
from urgt_jax.config_files import with_changes  # noqa: E402


def pytest_collection_modifyitems(items) -> None:
    """Files that take long come first, so that workers beside each other end together."""
    long = (
        "test_kill_and_resume",
        "test_step",
        "test_sharding",
        "test_loop",
        "test_refine",
        "test_losses",
        "test_refiner",
        "test_loss_terms",
        "test_convert",
    )
    items.sort(key=lambda item: long.index(item.path.stem) if item.path.stem in long else len(long))


@pytest.fixture
def tmp_path(tmp_path) -> Path:
    """A folder of the test, as commands and Python calls get theirs: an epath."""
    return Path(tmp_path)


@pytest.fixture
def store(tmp_path, monkeypatch) -> FakeStore:
    """A store with fake:// addresses. No test may write to a folder that is named like one."""
    monkeypatch.setattr(remote, "_copies", {})
    monkeypatch.setattr(remote, "_writable", set())
    workplace = tmp_path / "workplace"
    workplace.mkdir()
    monkeypatch.chdir(workplace)
    yield register_store(tmp_path / "store")
    assert list(workplace.iterdir()) == []


@pytest.fixture(scope="session")
def micro() -> Config:
    """The smallest model that has every part, on the smallest scenes."""
    changes = {
        "model.layer_scale": 0.3,
        "data.batch": 8,
        "data.mix": (0.25, 0.25, 0.25, 0.25),
        "optim.learning_rate": 1e-3,
        "optim.steps": 8,
        "train.save_every": 6,
        "train.log_every": 1,
    }
    return with_changes(MICRO, changes)
