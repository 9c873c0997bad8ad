"""What a run does when something fails: gradients, checkpoints, disks."""

import dataclasses
import resource
import shutil

import jax
import numpy as np
import pytest

from urgt_jax.config import Optim
from urgt_jax.config_files import with_changes
from urgt_jax.data import pipeline
from urgt_jax.errors import UserError
from urgt_jax.training import sharding
from urgt_jax.training.checkpoints import Checkpoints
from urgt_jax.training.loop import StepWatch
from urgt_jax.training.step import StepVerdict, initial_state, state_shardings, train_step


@pytest.fixture(scope="module")
def short(micro):
    """Depth alone, which is half to compile, in two parts a step."""
    optim = Optim(learning_rate=1e-3, steps=8, accumulate=2)
    return with_changes(dataclasses.replace(micro, optim=optim), {
        "model.outputs": ("depth",), "data.mix": (1.0, 0.0, 0.0, 0.0),
    })  # fmt: skip


@pytest.fixture(scope="module")
def started(short):
    """The mesh, a first state on the host, and a batch."""
    mesh = sharding.make_mesh(short)
    state = jax.device_get(initial_state(short, mesh))
    return mesh, state, pipeline.Batches(short)[0]


@pytest.fixture(scope="module")
def taken(short, started):
    """Steps from the first state, by what was done to the batch."""
    mesh, state, batch = started
    spoiled = batch["coarse_depth"].copy()
    spoiled[3, 0, 5, 5] = np.nan

    def run(batch):
        place = state_shardings(short, mesh)
        return jax.device_get(train_step(short, mesh)(jax.device_put(state, place), batch))

    return {"sound": run(batch), "spoiled": run(batch | {"coarse_depth": spoiled})}


def test_a_step_without_a_finite_gradient_changes_nothing(started, taken):
    after, _, verdict = taken["spoiled"]
    jax.tree.map(np.testing.assert_array_equal, after.params, started[1].params)
    jax.tree.map(np.testing.assert_array_equal, after.opt, started[1].opt)
    assert (after.step, after.skipped, verdict.usable) == (1, 1, False)
    sound, _, good = taken["sound"]
    assert (sound.step, sound.skipped, good.usable) == (1, 0, True)


def test_the_picture_that_spoils_a_step_is_found(taken):
    far = taken["spoiled"][2].far
    assert np.flatnonzero(~np.isfinite(far)).tolist() == [3]
    np.testing.assert_allclose(np.delete(far, 3), np.delete(taken["sound"][2].far, 3), rtol=1e-6)


def _watch(short, **optim):
    config = dataclasses.replace(short, optim=dataclasses.replace(short.optim, **optim))
    return StepWatch(config, pipeline.Batches(config), skipped=0)


BAD = StepVerdict(np.False_, np.float32("nan"), np.array([1.0, np.nan] + [0.5] * 6, np.float32))


def test_a_run_stops_at_a_step_that_cannot_be_taken_and_names_the_picture(short):
    watch = _watch(short)
    index, name = pipeline.Batches(short).drawn_images(5)[1]
    watch.step(5, BAD)
    with pytest.raises(UserError, match=rf"step 6: .* not finite; .*: {index} \({name}\); .* 0:"):
        watch.read()


def test_some_such_steps_may_be_left_out(short, capsys):
    watch = _watch(short, skips=2)
    for k in range(2):
        watch.step(k, BAD)
        watch.step(k, BAD._replace(usable=np.True_))
    watch.step(9, BAD)
    told = capsys.readouterr().out.splitlines()
    assert [line.split("; ")[-1] for line in told] == [
        f"left out ({n} of at most 2)" for n in (1, 2)
    ]
    with pytest.raises(UserError, match="step 10: .* so far: 2"):
        watch.read()


def test_an_exploded_gradient_is_told_with_the_farthest_picture_first(short):
    watch, pictures = _watch(short), pipeline.Batches(short).drawn_images(0)
    watch.step(0, StepVerdict(np.False_, np.float32(2e5), np.arange(8, dtype=np.float32)))
    with pytest.raises(UserError, match=rf"exploded \(norm 2e\+05.*first: {pictures[7][0]} \("):
        watch.read()


@pytest.fixture(scope="module")
def saved(short, started, tmp_path_factory):
    """A work directory with the states after 2 and 4 steps, which differ."""
    mesh, state, _ = started
    folder = tmp_path_factory.mktemp("saved")
    kept = Checkpoints(folder, short)
    place = state_shardings(short, mesh)
    for count in (2, 4):
        kept.save(jax.device_put(state._replace(step=np.int32(count)), place), count)
    kept.close()
    return folder


def _arrays(folder, count: int):
    """The largest file of a checkpoint, which holds arrays."""
    files = (folder / f"checkpoints/step_{count}").rglob("*")
    return max((f for f in files if f.is_file()), key=lambda f: f.stat().st_size)


def _flip(file) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:100]),
    "lost": lambda file: file.unlink(),
    "one bit": _flip,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_taken(short, started, saved, tmp_path, damage):
    run = shutil.copytree(saved, tmp_path / "run")
    DAMAGES[damage](_arrays(run, 4))
    kept = Checkpoints(run, short)
    state = kept.restore(started[0])
    assert state.step == 2 and (run / "damaged/step_4").is_dir()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), started[1].params)
    kept.save(state._replace(step=state.step + 2), 4)
    kept.close()
    assert Checkpoints(run, short).restore(started[0]).step == 4


def test_a_run_never_starts_again_in_silence(short, started, saved, tmp_path, capsys):
    run = shutil.copytree(saved, tmp_path / "run")
    for count in (2, 4):
        _flip(_arrays(run, count))
    for _ in range(2):
        with pytest.raises(UserError, match="no checkpoint in .* can be read"):
            Checkpoints(run, short).restore(started[0])
    assert "checkpoint 4 in" in capsys.readouterr().out
    assert not (run / "damaged").exists()


def test_what_may_pass_puts_no_checkpoint_aside(short, started, saved, tmp_path, monkeypatch):
    run = shutil.copytree(saved, tmp_path / "run")
    kept = Checkpoints(run, short)

    def fail(*_, **__):
        raise ValueError("reading failed") from OSError(116, "Stale file handle")

    monkeypatch.setattr(kept.manager, "restore", fail)
    with pytest.raises(UserError, match="cannot be read now .Stale file handle.; nothing was"):
        kept.restore(started[0])
    assert not (run / "damaged").exists()


@pytest.mark.parametrize("before,after", [(1, 4), (4, 2)])
def test_a_checkpoint_is_read_on_other_devices(short, started, tmp_path, before, after):
    state = started[1]._replace(step=np.int32(4))
    for count, does in ((before, "save"), (after, "restore")):
        config = with_changes(short, {"mesh.data": 1, "mesh.fsdp": count})
        mesh = sharding.make_mesh(config, jax.devices()[:count])
        kept = Checkpoints(tmp_path, config)
        if does == "save":
            kept.save(jax.device_put(state, state_shardings(config, mesh)), 4)
        else:
            found = kept.restore(mesh)
        kept.close()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found.params), state.params)
    assert found.params["within_patch"]["attn"]["qkv"]["kernel"].sharding.mesh.size == after


def test_a_full_disk_is_one_line_and_what_was_saved_stays(short, started, saved, tmp_path):
    run = shutil.copytree(saved, tmp_path / "run")
    mesh, state, _ = started
    state = jax.device_put(state, state_shardings(short, mesh))
    kept = Checkpoints(run, short)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # larger files cannot be written
    try:
        with pytest.raises(UserError, match="no checkpoint could be written .* step 4 is kept"):
            kept.save(state, 6)
            kept.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Checkpoints(run, short).restore(mesh).step == 4
