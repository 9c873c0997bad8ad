"""Means over images."""

import math

import numpy as np

from urgt_jax.evaluation.resume import JournalEntry, pack_counts
from urgt_jax.evaluation.tally import Tally, average


def test_average_leaves_out_images_without_the_metric():
    scores = [
        {"depth": {"abs_rel": 0.1, "see": float("nan")}, "normal": {}},
        {"depth": {"abs_rel": 0.3, "see": 2.0}, "normal": {"mean": 8.0}},
    ]
    means = average(scores)
    assert means == {"depth": {"abs_rel": 0.2, "see": 2.0}, "normal": {"mean": 8.0}}


def test_average_is_nan_where_no_image_has_the_metric():
    means = average([{"depth": {"see": float("nan")}, "normal": {}}] * 2)
    assert math.isnan(means["depth"]["see"])


def test_tally_pools_normals_over_pixels():
    counts = np.zeros(180_001, np.int64)
    counts[10_000] = 3  # three pixels at 10 degrees
    scores = {"refined": {"depth": {}, "normal": {}}}
    tally = Tally(("refined",))
    tally.add(JournalEntry("a", (2, 3), scores, {"refined": pack_counts(counts)}, "", "pseudo"))
    tally.add(JournalEntry("b", (4, 5), scores, {}))
    assert tally.means()["refined"]["pooled"]["mean"] == 10.0005
    assert tally.normals == {"pseudo": 1}
    assert tally.sizes == {(2, 3), (4, 5)}
    assert [name for name, _ in tally.images] == ["a", "b"]


def test_tally_has_means_of_each_scene_and_intervals():
    tally = Tally(("refined",))
    for name, scene, error in (("a", "x", 0.1), ("b", "x", 0.3), ("c", "y", 0.6), ("d", "", 0.2)):
        scores = {"refined": {"depth": {"abs_rel": error}, "normal": {}}}
        tally.add(JournalEntry(name, (2, 3), scores, {}, scene))
    scenes = tally.scene_means()
    assert list(scenes) == ["x", "y"]
    assert scenes["x"]["refined"]["depth"]["abs_rel"] == 0.2
    assert scenes["y"]["refined"]["depth"]["abs_rel"] == 0.6
    low, high = tally.intervals()["refined"]["depth"]["abs_rel"]
    assert 0.1 <= low < 0.3 < high <= 0.6
