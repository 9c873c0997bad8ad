"""The pages of the report as files: links, escaping and what is linked."""

from html.parser import HTMLParser

import numpy as np
import pytest
from helpers.report_layers import layers_with_known_errors, scores_of, scores_of_both

from urgt_jax.errors import UserError
from urgt_jax.evaluation import report
from urgt_jax.evaluation.report import pages
from urgt_jax.evaluation.report.layers import image_folder

NASTY = "<b>&\"'.png"


def write_report(folder, scored, with_layers, typical="", provenance=None, **facts):
    """Write a report of images, some of which have layers, and return its path."""
    for name in with_layers:
        report.write_layers(folder, name, layers_with_known_errors())
    means = scored[0][1]
    return report.write_pages(folder, {**means, **facts}, scored, typical, provenance)


def write_report_of(folder, scored, layers):
    """Write a report that begins with the first image, which has these layers."""
    report.write_layers(folder, scored[0][0], layers)
    return write_report(folder, scored, [], typical=scored[0][0])


class Page(HTMLParser):
    """The elements, links and text of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags = set()
        self.links = []
        self.text = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for key, value in attrs if key in ("href", "src")]

    def handle_data(self, data):
        self.text += data


def test_write_pages_links_only_to_files_that_exist(tmp_path):
    scored = [
        ("one", scores_of_both(0.1, 0.2)),
        (NASTY, scores_of_both(0.1, 0.1)),
        ("no layers", scores_of_both(1.0, 0.0)),
    ]
    index = write_report(tmp_path, scored, with_layers=["one", NASTY])
    pages = [index, *(tmp_path / "report").glob("*/index.html")]
    assert len(pages) == 3
    for page in pages:
        links = Page(page).links
        assert links
        assert all((page.parent / link).is_file() for link in links)


def test_write_pages_links_no_page_for_dropped_layers(tmp_path):
    scored = [("one", scores_of_both(0.1, 0.2)), ("two", scores_of_both(0.1, 0.1))]
    write_report(tmp_path, scored, with_layers=["one", "two"])
    report.remove_layers(tmp_path, "one")
    links = Page(write_report(tmp_path, scored, with_layers=[])).links
    one = image_folder(tmp_path, "one").name
    two = image_folder(tmp_path, "two").name
    assert f"report/{one}/thumbnail.jpg" in links
    assert f"report/{one}/index.html" not in links
    assert f"report/{two}/index.html" in links


def test_write_pages_ranks_the_worst_image_first(tmp_path):
    scored = [
        ("good", scores_of_both(0.4, 0.1)),
        ("missing", scores_of_both(np.nan, np.nan)),
        ("bad", scores_of_both(0.1, 0.3)),
    ]
    text = Page(write_report(tmp_path, scored, with_layers=[])).text
    assert text.index("bad") < text.index("good") < text.index("missing")


def test_report_begins_with_a_typical_image_and_a_verdict(tmp_path):
    scored = [("one", scores_of_both(0.4, 0.1)), ("two", scores_of_both(0.2, 0.2))]
    provenance = {"command": "urgt eval", "date": "today"}
    means = {"coarse": scores_of(0.4), "refined": scores_of(0.15)}
    for name in ("examples.png", "zooms.png"):
        (tmp_path / name).write_bytes(b"")
    page = Page(
        write_report(tmp_path, scored, ["two"], typical="two", provenance=provenance, **means)
    )
    home = f"report/{image_folder(tmp_path, 'two').name}"
    pictures = [link for link in page.links if link.startswith("report/image_")]
    assert pictures[:2] == [f"{home}/depth_coarse.png", f"{home}/depth_refined.png"]
    assert {"examples.png", "zooms.png"} <= set(page.links)
    for text in ("AbsRel 62 % lower than the coarse map.", "urgt eval", "today"):
        assert text in page.text
    assert page.text.index("AbsRel 62 %") < page.text.index("urgt eval")


def test_report_without_predicted_depth_begins_with_normals_or_no_maps(tmp_path):
    layers = layers_with_known_errors()
    layers = layers._replace(depth={"truth": layers.depth["truth"]})
    scored = [("one", scores_of_both(0.4, 0.1))]
    page = Page(write_report_of(tmp_path, scored, layers))
    home = f"report/{image_folder(tmp_path, 'one').name}"
    pictures = [link for link in page.links if link.startswith("report/image_")]
    assert pictures[:2] == [f"{home}/normal_coarse.png", f"{home}/normal_refined.png"]
    report_of_truth = write_report_of(tmp_path, scored, layers._replace(normal={}))
    assert 'id="front"' not in report_of_truth.read_text()


def test_every_image_of_the_report_can_be_clicked(tmp_path):
    scored = [("one", scores_of_both(0.4, 0.1)), ("two", scores_of_both(0.2, 0.2))]
    for name in ("one", "two"):
        report.write_layers(tmp_path, name, layers_with_known_errors())
    report.remove_layers(tmp_path, "two")
    text = write_report(tmp_path, scored, []).read_text()
    assert f'<a href="report/{image_folder(tmp_path, "one").name}/index.html">' in text
    assert f'<a href="report/{image_folder(tmp_path, "two").name}/thumbnail.jpg">' in text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.4, 0.2), "AbsRel 50 % lower than the coarse map."),
        ((0.2, 0.4), "AbsRel 100 % higher than the coarse map."),
        ((0.2, 0.2018), "AbsRel within 1 % of the coarse map."),
    ],
)
def test_verdict_compares_in_words(values, expected):
    summary = {"coarse": scores_of(values[0]), "refined": scores_of(values[1])}
    assert pages.verdict(summary, ["coarse", "refined"]) == expected


def test_verdict_names_the_blur_and_the_normals():
    summary = {
        "coarse": scores_of(0.4, 20.0),
        "smoothed": scores_of(0.3, 16.0),
        "refined": scores_of(0.24, 8.0),
    }
    assert pages.verdict(summary, list(summary)) == (
        "AbsRel 40 % lower than the coarse map, 20 % lower than a blur of it. Mean error of "
        "normals 60 % lower than the coarse map, 50 % lower than a blur of it."
    )
    alone = {"predicted": scores_of(0.25)}
    alone["intervals"] = {"predicted": {"depth": {"abs_rel": [0.2, 0.3]}}}
    assert pages.verdict(alone, ["predicted"]) == (
        "AbsRel 0.2500 (95 % interval 0.2000 to 0.3000)."
    )


def test_ratios_within_1_percent_are_neither_better_nor_worse(tmp_path):
    scored = [("one", scores_of_both(0.4, 0.398, delta1=0.5))]
    scored[0][1]["refined"]["depth"]["delta1"] = 0.6
    text = write_report(tmp_path, scored, []).read_text()
    assert 'class="ratio same"' in text
    assert '<span class="ratio better">1.20</span>' in text


def test_typical_image_is_the_one_of_median_error():
    scored = [
        (name, scores_of_both(0.5, error))
        for name, error in zip("abcde", (3, 1, 2, 9, 5), strict=True)
    ]
    assert report.typical_image(scored) == "a"
    scored.append(("f", scores_of_both(0.5, np.nan)))
    assert report.typical_image(scored) == "a"


def test_write_pages_escapes_text(tmp_path):
    scored = [(NASTY, scores_of_both(0.1, 0.2)), ("</script><b>", scores_of_both(0.1, 0.1))]
    facts = dict.fromkeys(("data", "protocol", "patches"), "<b>'\"&")
    index = write_report(
        tmp_path, scored, with_layers=[NASTY, "</script><b>"], skipped={"<i>": "<u>"}, **facts
    )
    page = Page(index)
    assert NASTY in page.text
    assert not {"i", "u"} & page.tags
    assert page.text.count("<b>'\"&") == 3
    assert "<u>" in page.text
    page = Page(image_folder(tmp_path, NASTY) / "index.html")
    assert NASTY in page.text
    assert not {"b", "u"} & page.tags


def test_write_pages_takes_names_that_are_not_utf_8(tmp_path):
    scored = [("photo\udcff", scores_of_both(0.1, 0.2))]
    assert "photo?" in Page(write_report(tmp_path, scored, with_layers=[])).text


def test_write_pages_rejects_a_report_without_images(tmp_path):
    with pytest.raises(UserError, match="no image was scored"):
        report.write_pages(tmp_path, {}, [])
    assert not list(tmp_path.iterdir())


def test_write_pages_rejects_a_file_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "report").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        report.write_pages(tmp_path, {}, [("one", scores_of_both(1.0, 1.0))])
