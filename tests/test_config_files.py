"""Configuration files: found by name, read, and written as options."""

import dataclasses

import pytest
from etils.epath import Path

from urgt_jax.commands.fields import override
from urgt_jax.config import Config
from urgt_jax.config_files import (
    command_line_options,
    find_config_folder,
    from_json,
    load_config,
    shipped_configs,
    to_json,
    with_changes,
)
from urgt_jax.errors import UserError

ROOT = Path(__file__).parents[1]

CONFIGS = [*ROOT.glob("configs/[!_]*.py"), *ROOT.glob("configs/*/[!_]*.py")]


@pytest.mark.parametrize("path", sorted(CONFIGS), ids=lambda p: p.stem)
def test_every_configuration_loads_and_goes_through_json(path):
    config = load_config(path)
    assert from_json(Config, to_json(config), "run.json") == config


@pytest.mark.parametrize("name", ["tiny", "tiny.py", "configs/tiny.py"])
def test_load_config_finds_a_shipped_configuration_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(name) == load_config(ROOT / "configs/tiny.py")
    assert "tiny" in shipped_configs()


def test_load_config_finds_a_shipped_folder_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (find_config_folder("ablations") / "joint.py").is_file()
    assert load_config("ablations/joint") == load_config(ROOT / "configs/ablations/joint.py")


def test_load_config_prefers_a_file_of_the_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text("from urgt_jax.config import Config\nconfig = Config(seed=5)")
    assert load_config("tiny.py").seed == 5


def test_load_config_names_the_nearest(tmp_path):
    (tmp_path / "mine.py").write_text("config = 3")
    with pytest.raises(UserError, match=r"did you mean .*mine\.py"):
        load_config(tmp_path / "mines.py")
    with pytest.raises(UserError, match="did you mean tiny"):
        load_config("tinny")
    with pytest.raises(UserError, match="defines no `config`"):
        load_config(tmp_path / "mine.py")
    for name in (".", "/", "tiny.yaml"):  # not the shipped one of that name
        with pytest.raises(UserError, match=f"no configuration at {name}"):
            load_config(name)


def test_load_config_reports_what_fails_in_a_file_in_one_line(tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(UserError, match="broken.py does not run: ZeroDivisionError") as caught:
        load_config(tmp_path / "broken.py")
    assert "\n" not in str(caught.value)


def test_with_changes_replaces_fields_that_only_go_together():
    changes = {"data.source": "folder", "data.path": "photos"}
    config = with_changes(Config(), changes)
    assert config.data == dataclasses.replace(Config().data, source="folder", path="photos")
    with pytest.raises(UserError, match="no field is called data.sources"):
        with_changes(Config(), {"data.sources": "folder"})


def test_command_line_options_give_the_same_changes():
    changes = {"model.cross_patch": False, "eval.edges": True, "data.size": (64, 96)}
    changes["train.trackers"] = ("wandb", "my.Tracker")
    assert override(Config(), command_line_options(changes)) == with_changes(Config(), changes)
