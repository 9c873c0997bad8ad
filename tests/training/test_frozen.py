"""Runs with frozen parameters: checkpoints, and a killed run that resumes."""

import jax
import numpy as np
import optax
import pytest
from etils.epath import Path
from helpers.command import config_file
from helpers.processes import start_python

from urgt_jax.config import Config
from urgt_jax.config_files import with_changes
from urgt_jax.training import sharding
from urgt_jax.training.checkpoints import Checkpoints
from urgt_jax.training.optimizer import make_optimizer
from urgt_jax.training.step import abstract_state, state_shardings
from urgt_jax.weights.tensor_files import open_tensors

FROZEN = {"optim.frozen": ("^encoder/", "_patch/.*bias"), "optim.ema_decay": 0.5}


def test_state_shardings_have_nothing_for_what_frozen_parameters_lack(depth_only):
    config = with_changes(depth_only, FROZEN | {"mesh.fsdp": 2})
    state = abstract_state(config)
    layout = state_shardings(config, sharding.make_mesh(config, jax.devices()[:2]))
    assert jax.tree.structure(layout) == jax.tree.structure(state)
    average = optax.tree_utils.tree_get(layout.opt_state, "average")
    assert average["encoder"]["cls"] == optax.MaskedNode()
    kernel = average["within_patch"]["attn"]["qkv"]["kernel"]
    assert kernel == layout.params["within_patch"]["attn"]["qkv"]["kernel"]


@pytest.mark.slow
def test_checkpoint_of_frozen_parameters_is_restored_on_two_devices(
    depth_only, first_state, tmp_path
):
    config = with_changes(depth_only, FROZEN | {"mesh.fsdp": 2})
    mesh = sharding.make_mesh(config, jax.devices()[:2])
    opt_state = make_optimizer(config.optim).init(first_state.params)
    state = first_state._replace(step=np.int32(4), opt_state=jax.device_get(opt_state))
    checkpoints = Checkpoints(Path(tmp_path), config)
    checkpoints.save(jax.device_put(state, state_shardings(config, mesh)), 4)
    checkpoints.close()
    restored = jax.device_get(Checkpoints(Path(tmp_path), config).restore(mesh))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def _train(config: Config, folder: Path, name: str, kill_at: str | None = None) -> str:
    """Run train.py to its end, or until its output has a line that begins like this."""
    process = start_python("train.py", config_file(config, folder), "--workdir", folder / name)
    if kill_at is not None:
        while not process.stdout.readline().startswith(kill_at):
            assert process.poll() is None
        process.kill()
    output = process.communicate(timeout=900)[0]
    assert process.returncode == (0 if kill_at is None else -9), output
    return output


@pytest.mark.slow
def test_killed_run_with_frozen_parameters_resumes_to_the_same_bits(depth_only, tmp_path):
    folder = Path(tmp_path)
    changes = {
        "optim.steps": 30,
        "train.save_every": 4,
        "train.log_every": 1,
        "optim.accumulate": 1,
    }
    config = with_changes(depth_only, FROZEN | changes)
    _train(config, folder, "undisturbed")
    _train(config, folder, "killed", kill_at="step 10/")
    assert "resumes at step" in _train(config, folder, "killed")
    first = _train(with_changes(config, {"optim.steps": 1}), folder, "first")
    assert "trained 1 steps" in first
    weights = {}
    for name in ("undisturbed", "killed", "first"):
        file = open_tensors(folder / name / "weights.safetensors")
        weights[name] = {path: tensor.read() for path, tensor in file.tensors.items()}
    for path, expected in weights["undisturbed"].items():
        np.testing.assert_array_equal(weights["killed"][path], expected, err_msg=path)
        same = np.array_equal(weights["first"][path], expected)
        assert same == config.optim.freezes(path.replace(".", "/")), path
