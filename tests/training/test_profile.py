"""Profiles of steps can be read and cover the steps that were asked for."""

import re
from dataclasses import replace

import pytest
from jax.profiler import ProfileData

from urgt_jax.config import Train
from urgt_jax.errors import UserError
from urgt_jax.files import find_paths
from urgt_jax.scaling.batch_shapes import abstract_batch
from urgt_jax.training.loop import train
from urgt_jax.training.profile import StepProfiler
from urgt_jax.training.step import abstract_state, train_step


@pytest.mark.slow
def test_train_profile_holds_the_steps_that_were_asked_for(tmp_path, depth_only, capsys):
    optim = replace(depth_only.optim, steps=5)
    settings = replace(depth_only.train, profile=(2, 3))
    train(replace(depth_only, optim=optim, train=settings), tmp_path, report=print)
    assert "profile of 3 steps from step 2" in capsys.readouterr().out
    (path,) = find_paths(tmp_path / "profile", "plugins/profile/*/*.xplane.pb")
    steps = set()
    for plane in ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                if event.name == "train":
                    steps.add(dict(event.stats)["step_num"])
    assert steps == {2, 3, 4}
    assert find_paths(tmp_path / "profile", "plugins/profile/*/perfetto_trace.json.gz")


def test_profile_ends_with_the_steps_if_these_fail(tmp_path, first_state, capsys):
    profiler = StepProfiler((2, 9), tmp_path)
    with pytest.raises(UserError, match="too many skipped"), profiler:
        for step in (1, 2, 3):
            profiler.before(step, first_state)
        raise UserError("too many skipped")
    assert capsys.readouterr().out.startswith("profile, cut short: ")
    (path,) = find_paths(tmp_path / "profile", "plugins/profile/*/*.xplane.pb")
    ProfileData.from_file(str(path))
    with StepProfiler((1, 1), tmp_path / "again") as profiler:  # no other profile is active
        profiler.before(1, first_state)
        profiler.close(first_state)


def test_train_step_names_its_parts(depth_only, mesh):
    state = abstract_state(depth_only)
    lowered = train_step(depth_only, mesh).lower(state, abstract_batch(depth_only, 1))
    text = lowered.as_text(debug_info=True)
    for name in ("encode", "within_patch", "across_patches", "heads", "loss", "optimizer"):
        assert re.search(rf"[/(]{name}[/)]", text), name  # in gradients "jvp(heads)"


@pytest.mark.parametrize("profile", [(0, 3), (3, 0), (-1, 2)])
def test_config_rejects_an_impossible_profile(profile):
    with pytest.raises(UserError, match="train.profile"):
        Train(profile=profile)
