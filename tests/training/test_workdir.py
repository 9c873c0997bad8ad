"""Work directories: one run at a time, and one configuration."""

import dataclasses
import os
import re
from fnmatch import fnmatch

import pytest
from etils.epath import Path

from urgt_jax.config_files import field_names, with_changes
from urgt_jax.errors import UserError
from urgt_jax.folder_lock import LOCK, FolderLock
from urgt_jax.training.loop import TrainingRun
from urgt_jax.training.workdir import CHANGEABLE_FIELDS, check_lock, claim, lock_workdir


def test_lock_is_released_with_the_run_and_after_an_error(depth_only, tmp_path):
    run = TrainingRun(depth_only, tmp_path / "run")
    with pytest.raises(UserError, match="in use by process"):
        FolderLock(tmp_path / "run", "--workdir")
    run.release_workdir()
    with pytest.raises(UserError, match="another configuration"):
        TrainingRun(dataclasses.replace(depth_only, seed=7), tmp_path / "run")
    FolderLock(tmp_path / "run", "--workdir").release()


def test_later_run_takes_over_a_work_directory_in_a_store(store):
    workdir = Path("fake://b/run")
    first = lock_workdir(workdir)
    check_lock(first, workdir)
    assert re.match(rf"process {os.getpid()} on \S+ since 20", (workdir / LOCK).read_text())
    second = lock_workdir(workdir)
    with pytest.raises(UserError, match="fake://b/run was taken over by another run, which has"):
        check_lock(first, workdir)
    check_lock(second, workdir)


def test_claim_rejects_another_configuration(micro, tmp_path):
    claim(tmp_path / "run", micro)
    claim(tmp_path / "run", micro)
    claim(tmp_path / "run", with_changes(micro, {"mesh.fsdp": 2, "train.save_every": 3}))
    with pytest.raises(UserError, match="differs in seed"):
        claim(tmp_path / "run", dataclasses.replace(micro, seed=7))


@pytest.mark.parametrize("damage", [b"", b"\xff", b"{", b"[]"])
def test_claim_reports_a_damaged_configuration(micro, tmp_path, damage):
    claim(tmp_path / "run", micro)
    (tmp_path / "run/config.json").write_bytes(damage)
    with pytest.raises(UserError, match="config.json"):
        claim(tmp_path / "run", micro)


def test_docs_list_the_fields_that_may_change():
    page = (Path(__file__).parents[2] / "docs/train.md").read_text()
    table = page.split("These fields may change:")[1].split("\n\n")[1]
    documented = set()
    for row in table.splitlines()[2:]:
        for pattern in re.findall(r"`([\w.*]+)`", row.split("|")[1]):
            documented |= {name for name in field_names() if fnmatch(name, pattern)}
    documented.remove("train.deterministic")  # it may be turned on, and has a rule of its own
    assert documented == CHANGEABLE_FIELDS
