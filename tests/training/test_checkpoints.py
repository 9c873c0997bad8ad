"""Checkpoints: damaged files, full disks, other meshes; one configuration per work directory."""

import gc
import logging
import resource
import shutil
import sys

import jax
import numpy as np
import pytest
from etils.epath import Path

from urgt_jax.config_files import with_changes
from urgt_jax.errors import UserError
from urgt_jax.remote import all_files, copy_folder
from urgt_jax.training import sharding
from urgt_jax.training.checkpoint_mirror import COMPLETE
from urgt_jax.training.checkpoints import Checkpoints
from urgt_jax.training.step import state_shardings
from urgt_jax.training.workdir import lock_workdir


@pytest.fixture(scope="module")
def saved(depth_only, mesh, first_state, tmp_path_factory):
    """A work directory with the states after 2 and 4 steps, which differ in the step only."""
    folder = Path(tmp_path_factory.mktemp("saved"))
    checkpoints = Checkpoints(folder, depth_only)
    layout = state_shardings(depth_only, mesh)
    for step in (2, 4):
        state = first_state._replace(step=np.int32(step))
        checkpoints.save(jax.device_put(state, layout), step)
    checkpoints.close()
    return folder


@pytest.fixture
def stray_errors(monkeypatch, caplog):
    """The errors of abandoned tasks, which appear when the garbage is collected.

    TensorStore's threads report that Orbax has closed an event loop right when it happens; nothing
    but a hook for the whole process can prevent that.
    """
    # Otherwise pytest would keep Orbax's log, and with it the tracebacks and the tasks.
    monkeypatch.setattr(logging.getLogger("absl"), "disabled", True)
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)

    def collect() -> list[str]:
        gc.collect()
        errors = [str(x.exc_value) for x in unraisable]
        errors += [record.getMessage() for record in caplog.records if record.name == "asyncio"]
        return [error for error in errors if error != "Event loop is closed"]

    return collect


def _largest_file(folder, step: int):
    """The file of a checkpoint that holds its arrays."""
    return max(all_files(folder / f"checkpoints/step_{step}"), key=lambda f: f.stat().length)


def _truncate(file) -> None:
    file.write_bytes(file.read_bytes()[:100])


def _delete(file) -> None:
    file.unlink()


def _flip_bit(file) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [_truncate, _delete, _flip_bit])
def test_restore_takes_the_checkpoint_before_a_damaged_one(
    depth_only, mesh, first_state, saved, tmp_path, damage, stray_errors
):
    workdir = shutil.copytree(saved, tmp_path / "run")
    damage(_largest_file(workdir, 4))
    checkpoints = Checkpoints(workdir, depth_only)
    state = checkpoints.restore(mesh)
    assert state.step == 2 and (workdir / "damaged/step_4").is_dir()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), first_state.params)
    checkpoints.save(state._replace(step=state.step + 2), 4)
    checkpoints.close()
    assert Checkpoints(workdir, depth_only).restore(mesh).step == 4
    del checkpoints  # which holds the tasks
    assert stray_errors() == []


def test_checkpoints_in_a_store_are_restored_and_damaged_ones_set_aside(
    depth_only, mesh, saved, store
):
    workdir = Path("fake://b/run")
    for name in ("step_2", "step_4"):
        copy_folder(saved / "checkpoints" / name, workdir / "checkpoints" / name)
        (workdir / "checkpoints" / name / COMPLETE).write_bytes(b"")
    _flip_bit(_largest_file(workdir, 4))
    checkpoints = Checkpoints(workdir, depth_only, lock_workdir(workdir))
    state = checkpoints.restore(mesh)
    assert state.step == 2
    assert [path.name for path in (workdir / "damaged").iterdir()] == ["step_4"]
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["step_2"]
    checkpoints.save(state._replace(step=np.int32(6)), 6)
    stored = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert stored == ["step_2", "step_6"]  # without waiting for the end of the run
    lock_workdir(workdir)  # as another run
    with pytest.raises(UserError, match="taken over by another run"):
        checkpoints.save(state, 8)
    checkpoints.close()


def test_restore_never_starts_again_if_all_checkpoints_are_damaged(
    depth_only, mesh, saved, tmp_path, capsys
):
    workdir = shutil.copytree(saved, tmp_path / "run")
    for step in (2, 4):
        _flip_bit(_largest_file(workdir, step))
    for _ in range(2):
        with pytest.raises(UserError, match="no checkpoint in .* can be read"):
            Checkpoints(workdir, depth_only).restore(mesh)
    assert "checkpoint 4 in" in capsys.readouterr().out
    assert not (workdir / "damaged").exists()


def test_restore_moves_nothing_on_a_temporary_error(depth_only, mesh, saved, tmp_path, monkeypatch):
    workdir = shutil.copytree(saved, tmp_path / "run")
    checkpoints = Checkpoints(workdir, depth_only)

    def fail(*_, **__):
        raise ValueError("reading failed") from OSError(116, "Stale file handle")

    monkeypatch.setattr(checkpoints.manager, "restore", fail)
    with pytest.raises(UserError, match="cannot be read now .Stale file handle.. Nothing was"):
        checkpoints.restore(mesh)
    assert not (workdir / "damaged").exists()


@pytest.mark.parametrize("before,after", [(1, 4), (4, 2)])
def test_restore_on_another_number_of_devices(depth_only, first_state, tmp_path, before, after):
    state = first_state._replace(step=np.int32(4))

    def config_and_mesh(devices: int):
        config = with_changes(depth_only, {"mesh.data": 1, "mesh.fsdp": devices})
        return config, sharding.make_mesh(config, jax.devices()[:devices])

    config, mesh = config_and_mesh(before)
    checkpoints = Checkpoints(tmp_path, config)
    checkpoints.save(jax.device_put(state, state_shardings(config, mesh)), 4)
    checkpoints.close()

    config, mesh = config_and_mesh(after)
    restored = Checkpoints(tmp_path, config).restore(mesh)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored.params), state.params)
    kernel = restored.params["within_patch"]["attn"]["qkv"]["kernel"]
    assert kernel.sharding.mesh.size == after


def test_save_on_a_full_disk_is_one_error_and_keeps_what_was_saved(
    depth_only, mesh, first_state, saved, tmp_path, stray_errors
):
    workdir = shutil.copytree(saved, tmp_path / "run")
    state = jax.device_put(first_state, state_shardings(depth_only, mesh))
    checkpoints = Checkpoints(workdir, depth_only)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # larger files cannot be written
    try:
        with pytest.raises(
            UserError, match="no checkpoint could be written .* step 4 is intact"
        ) as error:
            checkpoints.save(state, 6)
            checkpoints.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Checkpoints(workdir, depth_only).restore(mesh).step == 4
    del checkpoints, error  # which hold the tasks
    assert stray_errors() == []
