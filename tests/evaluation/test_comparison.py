"""A comparison of two evaluations by their files."""

import json

import numpy as np
import pytest
from helpers.report_layers import layers_with_known_errors, scores_of_both

from urgt_jax.errors import UserError
from urgt_jax.evaluation import comparison_page, report, results
from urgt_jax.evaluation.comparison import compare, comparison_table, read_results
from urgt_jax.evaluation.report.layers import image_folder

FACTS = {
    "data": "some data",
    "protocol": "some protocol",
    "resolution": "some size",
    "candidates": ["coarse", "refined"],
}


def write_results(folder, errors: dict, layers=(), **facts):
    """The results of an evaluation with these errors of the refined maps."""
    rows = []
    for name, (abs_rel, delta1) in errors.items():
        scores = scores_of_both(0.5, abs_rel)
        scores["refined"]["depth"]["delta1"] = delta1
        rows.append({"name": name, **scores})
    text = json.dumps({**FACTS, **facts, "per_image": rows}).replace("NaN", "null")
    folder.mkdir(parents=True)
    results.write_results(folder, json.loads(text))
    for name in layers:
        report.write_layers(folder, name, layers_with_known_errors())
    return folder


@pytest.fixture
def folders(tmp_path):
    """Two evaluations that share three images, with maps of one of them."""
    first = {"a": (0.1, 0.9), "b": (0.2, 0.8), "c": (0.3, None), "only first": (0.3, 0.7)}
    second = {"b": (0.1, 0.9), "a": (0.2, 0.9), "c": (0.1, 0.8)}
    return (
        write_results(tmp_path / "one #1", first, ["b"]),
        write_results(tmp_path / "two", second, ["b", "c"]),
    )


def test_compare_pairs_images_by_name(folders):
    comparison = compare(read_results(folders[0]), read_results(folders[1]))
    assert comparison.names == ["a", "b", "c"] and comparison.unpaired == 1
    rows = {row.column.key: row for row in comparison.differences}
    abs_rel = rows["abs_rel"]
    assert abs_rel.first == pytest.approx(0.2) and abs_rel.second == pytest.approx(0.4 / 3)
    assert abs_rel.difference == pytest.approx((0.1 - 0.1 - 0.2) / 3)
    assert abs_rel.improved == pytest.approx(200 / 3) and abs_rel.images == 3
    assert abs_rel.low <= abs_rel.difference <= abs_rel.high
    assert abs_rel.better and not abs_rel.certain
    delta1 = rows["delta1"]  # c has none in the first; an unchanged image is not improved
    assert (delta1.images, delta1.improved) == (2, 50)
    assert delta1.difference == pytest.approx(0.05) and delta1.better


def test_comparison_table_has_a_line_per_metric(folders):
    comparison = compare(read_results(folders[0]), read_results(folders[1]))
    lines = comparison_table(comparison, comparison_page.labels(comparison)).splitlines()
    assert lines[0].split() == ["one", "#1", "two", "difference", "95", "%", "interval", "improved"]
    assert lines[1].split()[:5] == ["AbsRel", "↓", "0.2000", "0.1333", "-0.0667"]
    assert lines[1].endswith("67 %")


def test_comparison_page_links_both_maps_side_by_side(folders, tmp_path):
    comparison = compare(read_results(folders[0]), read_results(folders[1]))
    page = comparison_page.write_page(comparison, tmp_path / "out")
    text = page.read_text()
    assert text.index(">c<") < text.index(">b<") < text.index(">a<")  # the most improved first
    pages = list((tmp_path / "out/report").glob("*/index.html"))
    assert len(pages) == 1  # only b has maps in both
    content = pages[0].read_text()
    start = content.index('id="layers">') + len('id="layers">')
    groups = json.loads(content[start : content.index("</script>", start)])["groups"]
    layers = groups["depth"]["layers"]
    assert list(layers) == ["one #1", "two", "truth", "image"]
    assert groups["depth"]["shown"] == ["one #1", "two"]
    assert "one%20%231" in layers["one #1"]
    for link in layers.values():
        assert (pages[0].parent / link.replace("%20", " ").replace("%23", "#")).is_file()
    assert '<a href="../../compare.html">' in content


def test_folders_of_one_name_are_called_by_their_paths(tmp_path):
    first = write_results(tmp_path / "x/scores", {"a": (0.1, 0.9)})
    second = write_results(tmp_path / "y/scores", {"a": (0.1, 0.9)})
    comparison = compare(read_results(first), read_results(second))
    assert comparison_page.labels(comparison) == (str(first), str(second))
    assert np.isnan(comparison.differences[0].low)


@pytest.mark.parametrize(
    ("facts", "errors", "message"),
    [
        ({"protocol": "another"}, {"a": (0.1, 0.9)}, "the protocol of .* differ"),
        ({"data": "another"}, {"a": (0.1, 0.9)}, "the data of .* differ"),
        ({}, {"z": (0.1, 0.9)}, "have no image in common"),
    ],
)
def test_compare_rejects_what_cannot_be_compared(tmp_path, facts, errors, message):
    first = write_results(tmp_path / "one", {"a": (0.1, 0.9)})
    second = write_results(tmp_path / "two", errors, **facts)
    with pytest.raises(UserError, match=message):
        compare(read_results(first), read_results(second))


def test_compare_rejects_evaluations_without_a_common_metric(tmp_path):
    scores = {"depth": {"depth": {"abs_rel": 0.1}}, "normal": {"normal": {"mean": 9.0}}}
    for kind, values in scores.items():
        (tmp_path / kind).mkdir()
        rows = [{"name": "a", "predicted": {"depth": {}, "normal": {}, **values}}]
        content = {**FACTS, "candidates": ["predicted"], "per_image": rows}
        results.write_results(tmp_path / kind, content)
    with pytest.raises(UserError, match="no metric in common"):
        compare(read_results(tmp_path / "depth"), read_results(tmp_path / "normal"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no metrics.json. Pass a folder that urgt eval wrote"),
        ("", "is empty"),
        ("[1]", "one JSON object"),
        ("{}", "metrics.json is damaged .there is no checksum.. Run urgt eval again"),
    ],
)
def test_read_results_rejects_a_damaged_folder(tmp_path, content, message):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_results(tmp_path)


def test_read_results_notices_a_changed_digit(folders):
    path = folders[1] / "metrics.json"
    path.write_text(path.read_text().replace("0.9", "0.8", 1))
    with pytest.raises(UserError, match="metrics.json is damaged .the checksum is wrong"):
        read_results(folders[1])


@pytest.mark.parametrize("rows", [None, [], [3], [{"name": "a"}], [{"name": "a", "x": {"y": 1}}]])
def test_read_results_rejects_results_without_images(tmp_path, rows):
    results.write_results(tmp_path, {"candidates": ["x"], "per_image": rows})
    with pytest.raises(UserError, match="no scores of images"):
        read_results(tmp_path)


def test_comparison_page_names_damaged_contents_of_an_image(folders, tmp_path):
    comparison = compare(read_results(folders[0]), read_results(folders[1]))
    path = image_folder(folders[1], "b") / "layers.json"
    path.write_text(path.read_text()[:20])
    with pytest.raises(UserError, match="layers.json"):
        comparison_page.write_page(comparison, tmp_path / "out")
