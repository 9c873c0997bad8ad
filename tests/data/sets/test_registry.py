"""The list of data sets, and what needs tensorflow-datasets."""

import re
import subprocess
import sys

import pytest
from etils.epath import Path

from urgt_jax.commands.fields import override
from urgt_jax.config import Config
from urgt_jax.data.sets import DATA_SETS, find_data_set
from urgt_jax.data.sets.kitti import Kitti
from urgt_jax.data.sources import default_split
from urgt_jax.errors import UserError

ROOT = Path(__file__).parents[3]
WITHOUT_TFDS = "import sys; sys.modules['tensorflow_datasets'] = None; "  # as if not installed
REMEDY = 'Run: pip install "urgt-jax[data]"'


def run_python(script: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def test_find_data_set_names_the_nearest_to_a_mistyped_name():
    assert find_data_set("kitti") is Kitti
    with pytest.raises(UserError, match="no data set 'kiti'. Did you mean kitti[?] .* booster"):
        find_data_set("kiti")


def test_data_source_is_checked_on_the_command_line():
    options = ["--data.source", "unreal4", "--data.path", "here"]
    with pytest.raises(UserError, match="no data set 'unreal4'. Did you mean unreal4k"):
        override(Config(), options)


def test_sources_do_not_import_tensorflow_datasets():
    script = "import sys, urgt_jax.data.sources; print('tensorflow_datasets' in sys.modules)"
    assert run_python(script).stdout == "False\n"


def test_prepare_says_how_to_install_tensorflow_datasets():
    script = WITHOUT_TFDS + (
        "sys.argv = ['urgt', 'prepare', 'unreal4k', '--source', 'a', '--out', 'b']; "
        "from urgt_jax.commands.main import main; sys.exit(main())"
    )
    process = run_python(script)
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1 and REMEDY in process.stderr


def test_nyu_depth_v2_says_how_to_install_tensorflow_datasets(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError) as caught:
        find_data_set("nyu_depth_v2")(tmp_path)
    assert REMEDY in str(caught.value)


def test_docs_list_the_data_sets_and_their_default_splits():
    table = (ROOT / "docs/data-sets.md").read_text().partition("```")[0]
    documented = {}
    for left, right in re.findall(r"^\| (`.*?) \| .* \| (.*) \|$", table, re.MULTILINE):
        names = left.split(", ")
        splits = right.split(", ")
        if len(splits) == 1:
            splits *= len(names)
        for name, split in zip(names, splits, strict=True):
            documented[name.strip("`")] = split.strip("`-")
    assert set(documented) == {"scenes", *DATA_SETS}
    for name, split in documented.items():
        assert default_split(name, "") == split, name
    assert f"on {len(DATA_SETS)} data sets" in (ROOT / "README.md").read_text()
