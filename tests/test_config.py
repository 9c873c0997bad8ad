"""Configurations: overrides, files, and what is refused."""

import json
from pathlib import Path

import pytest

from urgt_jax.commands.fields import override
from urgt_jax.config import Config
from urgt_jax.config_files import from_json, load_config, to_json
from urgt_jax.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.py")), ids=lambda p: p.stem)
def test_every_configuration_loads_and_goes_through_json(path):
    config = load_config(path)
    assert from_json(Config, to_json(config), "here") == config


def test_weights_made_before_strengths_were_ranges_still_tell_their_configuration():
    told = json.loads(to_json(Config()))
    told["prior"]["grain"] = 0.12
    assert from_json(Config, json.dumps(told), "here").prior.grain == (0.12, 0.12)


def test_overrides():
    config = override(Config(), ["--model.depth", "30", "--data.size", "64", "96"])
    assert config.model.depth == 30 and config.data.size == (64, 96)


@pytest.mark.parametrize(
    "arguments,told",
    [
        (["--model.dept", "12"], "did you mean --model.depth"),
        (["--model.depth", "many"], "depth"),
        (["--model.encoder.width", "48"], "model.encoder.width 48"),
        (["--model.patch_size", "50", "56"], "multiples of 14"),
        (["--data.mix", "1", "1", "0", "0"], "sum to 1"),
        (["--optim.learning_rate", "-1"], "optim.learning_rate"),
        (["--prior.lines", "9", "3"], "prior.lines"),
        (["--seed", "-1"], "seed"),
        (["--eval.overlap", "1.0"], "eval.overlap"),
        (["stray"], "stray"),
    ],
)
def test_bad_values_are_told_in_one_line(arguments, told):
    with pytest.raises(UserError, match=told.replace("(", r"\(")) as caught:
        override(Config(), arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seeds": 1}', '{"model": 3}'])
def test_a_damaged_saved_configuration_is_told(text):
    with pytest.raises(UserError, match="run.json"):
        from_json(Config, text, "run.json")


def test_a_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "tiny.py").write_text("config = 3")
    with pytest.raises(UserError, match=r"did you mean .*tiny\.py"):
        load_config(tmp_path / "tinny.py")
    with pytest.raises(UserError, match="defines no `config`"):
        load_config(tmp_path / "tiny.py")
