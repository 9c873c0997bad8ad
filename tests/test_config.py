"""Configurations: fields, bad values, JSON."""

import json

import pytest

from urgt_jax.config import SIZES, Config
from urgt_jax.config_files import from_json, to_json, with_changes
from urgt_jax.errors import UserError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.encoder.width": 48}, "model.encoder.width 48"),
        ({"model.patch_size": (50, 56)}, "multiples of 14"),
        ({"model.patch_size": (3738, 3738)}, "at most 4194304 pixels"),
        ({"model.dpt_layers": (3, 2, 1, 0)}, "model.dpt_layers .* rising order"),
        ({"model.dpt_layers": (0, 1, 2, 24)}, "reads beyond the depth 24"),
        ({"data.mix": (1.0, 1.0, 0.0, 0.0)}, "sum to 1"),
        ({"data.source": "kitti"}, "every other source needs the folder"),
        ({"optim.learning_rate": -1.0}, "optim.learning_rate -1.0"),
        ({"prior.lines": (9.0, 3.0)}, "prior.lines"),
        ({"seed": -1}, "seed -1"),
        ({"eval.overlap": 1.0}, "eval.overlap 1.0"),
        ({"train.images_every": 5}, "add --train.trackers"),
    ],
)
def test_config_rejects_bad_values_naming_the_field(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        with_changes(Config(), changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_go_through_json(size):
    config = Config(model=SIZES[size])
    assert from_json(Config, to_json(config), "run.json") == config


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seeds": 1}', '{"model": 3}'])
def test_from_json_names_the_damaged_file(text):
    with pytest.raises(UserError, match=r"run\.json"):
        from_json(Config, text, "run.json")


def test_from_json_names_the_nearest_field():
    with pytest.raises(UserError, match="unknown field seeds; did you mean seed"):
        from_json(Config, json.dumps({"seeds": 1}), "run.json")


def test_with_changes_rejects_an_unknown_field():
    with pytest.raises(UserError, match=r"no field is called model\.dept"):
        with_changes(Config(), {"model.dept": 1})
