"""Data sets of TFDS: their descriptions may not choose what code runs."""

import json

import pytest
from helpers.public_sets import assert_rejected, prepare_nyu_depth_v2

from urgt_jax.data.tfds import named_classes


@pytest.mark.parametrize(
    "entry",
    [
        {"pythonClassName": "trap.Feature"},
        {"type": "trap.Feature", "content": {}},
        {"type": "tensorflow_datasets.core.features.text_feature.Text", "proto_cls": "trap.Proto"},
    ],
)
def test_description_that_names_another_module_is_refused_and_runs_nothing(
    tmp_path, monkeypatch, entry
):
    (tmp_path / "trap.py").write_text("open('ran', 'w').close()")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    prepare_nyu_depth_v2(tmp_path / "data")
    path = next((tmp_path / "data").glob("nyu_depth_v2/*/features.json"))
    description = json.loads(path.read_text())
    description["featuresDict"]["features"]["image"] = entry
    path.write_text(json.dumps(description))
    assert_rejected("nyu_depth_v2", tmp_path / "data", "features.json names classes", "trap.")
    assert not (tmp_path / "ran").exists()


def test_named_classes_finds_them_wherever_they_stand():
    description = {"a": [{"pythonClassName": "x"}], "type": "y", "c": {"proto_cls": "z", "d": 1}}
    assert named_classes(description) == {"x", "y", "z"}
