"""Which images get a page, and which are on the sheets."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from urgt_jax.evaluation import examples, report
from urgt_jax.evaluation.examples import ExampleSheets, WorstImages
from urgt_jax.evaluation.resume import JournalEntry
from urgt_jax.images.grid import cover_image

SIZE = (40, 60)
ERRORS = {"a": 0.1, "b": 0.4, "c": float("nan"), "d": 0.3}


def entry(name, depth, normal=None):
    return JournalEntry(name, SIZE, {"refined": {"depth": depth, "normal": normal or {}}}, {})


@pytest.mark.parametrize("order", ["abcd", "dcba", "cbda", "abab" + "cdcd"])
def test_worst_images_do_not_depend_on_the_order(order):
    worst = WorstImages("refined", 2)
    for name in order:
        worst.rank(entry(name, {"abs_rel": ERRORS[name]}))
    assert sorted(worst.errors) == ["b", "d"]


def test_worst_images_name_those_that_they_drop():
    worst = WorstImages("refined", 1)
    assert worst.rank(entry("a", {"abs_rel": 0.1})) == []
    assert worst.rank(entry("b", {"abs_rel": 0.2})) == ["a"]
    assert worst.rank(entry("c", {"abs_rel": 0.1})) == ["c"]


def test_worst_images_are_ranked_by_normals_without_depth():
    worst = WorstImages("refined", 1)
    worst.rank(entry("a", {}, {"mean": 20.0}))
    worst.rank(entry("b", {}, {"mean": 10.0}))
    assert list(worst.errors) == ["a"]


@pytest.fixture
def layers():
    """The maps of an image whose refined depth is wrong at one patch corner."""
    rng = np.random.default_rng(0)
    truth = np.full(SIZE, 0.5, np.float32)
    refined = truth.copy()
    refined[18:22, 28:32] = 0.4
    image = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    valid = np.ones(SIZE, bool)
    return report.Layers(image, {"refined": refined, "truth": truth}, {}, valid, valid)


def test_example_sheets_write_each_file_once(tmp_path, monkeypatch, layers):
    writes = Counter()
    write_image = examples.write_image

    def count(path, image):
        writes[path.name] += 1
        write_image(path, image)

    monkeypatch.setattr(examples, "write_image", count)
    sheets = ExampleSheets()
    sheets.add(layers, cover_image(*SIZE, 2, 2))
    paths = sheets.write(tmp_path)
    assert writes == {"examples.png": 1, "zooms.png": 1}
    assert paths == [tmp_path / "examples.png", tmp_path / "zooms.png"]
    assert Image.open(paths[0]).size[0] > 100


def test_example_sheets_write_no_zooms_of_a_single_patch(tmp_path, layers):
    sheets = ExampleSheets()
    sheets.add(layers, cover_image(*SIZE, 1, 1))
    assert sheets.write(tmp_path) == [tmp_path / "examples.png"]


def test_example_sheets_are_full_after_their_number_of_images(monkeypatch, layers):
    monkeypatch.setattr(examples, "SHEET_IMAGES", 2)
    sheets = ExampleSheets()
    for _ in range(2):
        assert not sheets.full
        sheets.add(layers, cover_image(*SIZE, 1, 1))
    assert sheets.full
