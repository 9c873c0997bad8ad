"""Checkpoints in a store that Orbax cannot write to, as files: no arrays are needed here."""

import jax
import pytest
from etils.epath import Path

from urgt_jax.errors import UserError
from urgt_jax.training.checkpoint_mirror import COMPLETE, CheckpointMirror

ADDRESS = "fake://b/run/checkpoints"


@pytest.fixture
def mirror(store) -> CheckpointMirror:
    """A local copy with the checkpoints 1 and 2, which are in the store too."""
    mirror = CheckpointMirror(Path(ADDRESS))
    for step in (1, 2):
        (mirror.local / f"step_{step}/state").mkdir(parents=True)
        (mirror.local / f"step_{step}/state/array").write_text(f"array {step}")
    (mirror.local / "step_3.orbax-checkpoint-tmp").mkdir()
    mirror.upload()
    return mirror


def test_mirror_uploads_complete_checkpoints_and_downloads_them(mirror):
    assert sorted(path.name for path in Path(ADDRESS).iterdir()) == ["step_1", "step_2"]
    copy = CheckpointMirror(Path(ADDRESS))
    assert copy.local != mirror.local
    assert (copy.local / "step_2/state/array").read_text() == "array 2"
    assert [path.name for path in (copy.local / "step_2").iterdir()] == ["state"]


def test_mirror_removes_what_is_gone(mirror):
    (mirror.local / "step_1").rmtree()
    mirror.upload()
    assert [path.name for path in Path(ADDRESS).iterdir()] == ["step_2"]


def test_mirror_ignores_a_checkpoint_whose_upload_was_interrupted(mirror):
    (Path(ADDRESS) / "step_2" / COMPLETE).unlink()
    (Path(ADDRESS) / "step_2/state/half").write_text("of the upload")
    copy = CheckpointMirror(Path(ADDRESS))
    assert [path.name for path in copy.local.iterdir()] == ["step_1"]
    mirror.upload()
    assert mirror.complete() == ["step_1", "step_2"]
    assert [path.name for path in (Path(ADDRESS) / "step_2/state").iterdir()] == ["array"]


def test_mirror_is_for_one_process(store, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="fake://b/run/checkpoints: several processes can save to"):
        CheckpointMirror(Path(ADDRESS))
