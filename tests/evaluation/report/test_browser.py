"""The pages of the report in a real browser: what a person sees and does."""

import json
from itertools import pairwise
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from etils.epath import Path
from helpers import miniature_sets
from helpers.chromium import PROGRAM, Chromium
from helpers.command import call
from helpers.report_layers import SHAPE, layers_with_known_errors, scores_of_both

from urgt_jax.commands import eval as eval_command
from urgt_jax.evaluation import report
from urgt_jax.evaluation.report.layers import image_folder
from urgt_jax.images.colour import RAMP

NASTY = "<b>&\"'.png"
FAR = RAMP[0].tolist()
NEAR = RAMP[-1].tolist()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser for all tests of this file."""
    if PROGRAM is None:
        pytest.skip("chromium is not installed")
    browser = Chromium(Path(tmp_path_factory.mktemp("profile")))
    yield browser
    browser.close()


@pytest.fixture
def chromium(browser):
    """The browser with a fresh log; a test fails if its pages log an error."""
    browser.errors.clear()
    browser.resize(1200, 800)
    yield browser
    assert browser.errors == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report of four images, of which two have pages."""
    folder = Path(tmp_path_factory.mktemp("report"))
    far = np.full(SHAPE, 0.1, np.float32)
    near = np.full(SHAPE, 1, np.float32)
    truth = np.where(np.arange(SHAPE[1]) % 2, far, near)
    layers = layers_with_known_errors()._replace(
        depth={"coarse": far, "refined": near, "truth": truth}
    )
    scored = [
        ("good", scores_of_both(0.4, 0.1, delta1=0.7)),
        ("unknown", scores_of_both(np.nan, np.nan, delta1=np.nan)),
        (NASTY, scores_of_both(0.1, 0.3, delta1=0.9)),
        ("middle", scores_of_both(0.2, 0.2, delta1=0.8)),
    ]
    for name in ("good", NASTY):
        report.write_layers(folder, name, layers)
    report.write_pages(folder, dict(scored[0][1]), scored)
    return folder


NAMES = "[...document.querySelectorAll('#images tbody th')].map(x => x.dataset.name)"
FIRST_SCORES = "[...document.querySelectorAll('#images tbody tr')].map(x => x.cells[1].textContent)"


def test_list_sorts_by_the_clicked_column_with_missing_scores_last(chromium, folder):
    chromium.open(folder / "report.html")
    worst = [NASTY, "middle", "good", "unknown"]
    assert chromium.run(NAMES) == worst
    chromium.click("#images th:nth-child(2) button")
    assert chromium.run(NAMES) == ["good", "middle", NASTY, "unknown"]
    assert chromium.run("document.querySelector('[aria-sort=ascending]').cellIndex") == 1
    chromium.click("#images th:nth-child(3) button")  # higher is better: the worst is the lowest
    assert chromium.run(NAMES) == ["good", "middle", NASTY, "unknown"]
    chromium.key("Enter")  # the button has the focus
    assert chromium.run(NAMES) == [NASTY, "middle", "good", "unknown"]
    chromium.click("#images th:nth-child(1) button")
    assert chromium.run(NAMES) == sorted(worst, key=str.lower)


def test_list_shows_the_scores_of_the_chosen_candidate(chromium, folder):
    chromium.open(folder / "report.html")
    assert chromium.run(FIRST_SCORES) == ["0.3000", "0.2000", "0.1000", "–"]
    chromium.click("#candidate label:nth-of-type(1)")
    assert chromium.run(FIRST_SCORES) == ["0.4000", "0.2000", "0.1000", "–"]
    chromium.click("#candidate label:nth-of-type(3)")
    assert chromium.run(FIRST_SCORES) == ["3.00", "1.00", "0.25", "–"]
    assert chromium.run(NAMES) == [NASTY, "middle", "good", "unknown"]


def test_report_begins_with_a_divider_that_moves(chromium, tmp_path):
    good = scores_of_both(0.4, 0.1)
    report.write_layers(tmp_path, "good", layers_with_known_errors())
    page = report.write_pages(tmp_path, dict(good), [("good", good)], "good")
    chromium.open(page)
    assert chromium.run("document.querySelector('#front img').naturalWidth") == SHAPE[1]
    x, y = chromium.middle("#front")
    chromium.drag((x, y), (x + 100, y))
    split = float(chromium.run("document.querySelector('#front input').value"))
    assert 55 < split < 75
    style = chromium.run("document.querySelector('#front').style.getPropertyValue('--split')")
    assert style == f"{split:g}%"


@pytest.mark.parametrize("kinds", [("depth",), ("normal",), ("depth", "normal")])
def test_pages_of_one_candidate_and_one_image_open(chromium, tmp_path, kinds):
    layers = layers_with_known_errors()
    depth = {"truth": layers.depth["truth"]}
    normal = {}
    if "depth" in kinds:
        depth = {"predicted": layers.depth["coarse"], **depth}
    if "normal" in kinds:
        normal = {"predicted": layers.normal["coarse"], "truth": layers.normal["truth"]}
    report.write_layers(tmp_path, "one", layers._replace(depth=depth, normal=normal))
    scores = {"predicted": {kind: {"mean": 20.0, "abs_rel": 0.1} for kind in kinds}}
    chromium.open(report.write_pages(tmp_path, scores, [("one", scores)]))
    chromium.click("#images tbody a")
    chromium.wait("document.querySelector('#lefttag')?.textContent == 'predicted'")
    assert chromium.run("document.querySelector('#righttag').textContent") == "truth"
    groups = chromium.run("[...document.querySelectorAll('#group input')].map(x => x.value)")
    assert set(groups) == {"image", "depth", *kinds, *(f"{kind}_error" for kind in kinds)}


def open_image_page(chromium, folder):
    chromium.open(image_folder(folder, "good") / "index.html")


def colours_at(chromium, offsets):
    """The colours on the stage at some pixels right of its middle."""
    x, y = chromium.middle("#stage")
    screen = chromium.screenshot()
    return [screen[int(y) + 60, int(x) + offset].tolist() for offset in offsets]


def test_divider_separates_the_layers_where_it_is_dragged(chromium, folder):
    open_image_page(chromium, folder)
    assert colours_at(chromium, (-100, 100)) == [FAR, NEAR]
    x, y = chromium.middle("#divider")
    chromium.drag((x, y), (x + 150, y))
    assert colours_at(chromium, (100, 200)) == [FAR, NEAR]
    chromium.drag((x + 150, y), (x - 150, y))
    assert colours_at(chromium, (-200, -100)) == [FAR, NEAR]
    for _ in range(20):
        chromium.key("ArrowRight")
    percent = float(chromium.run("document.querySelector('#divider').ariaValueNow"))
    assert 40 < percent < 60
    assert abs(chromium.middle("#divider")[0] - x) < 100


def image_box(chromium):
    """The left edge and the width of the image on the screen."""
    return chromium.run("(r => [r.x, r.width])(images.left.getBoundingClientRect())")


def run_lengths(line):
    """The lengths of runs of one colour, without the first and the last run."""
    ends = np.flatnonzero(np.any(line[1:] != line[:-1], -1))
    return np.diff(ends)


def test_zoom_enlarges_pixels_evenly_up_to_eight_around_the_cursor(chromium, folder):
    open_image_page(chromium, folder)
    chromium.run("show('left', 'truth'); show('right', 'truth'); moveDivider(0)")
    x, y = (int(position) for position in chromium.middle("#stage"))
    chromium.run("zoomBy(0.01)")
    chromium.mouse("Wheel", x - 13, y, deltaX=0, deltaY=-240)
    left, width = image_box(chromium)
    widths = []
    for _ in range(12):
        chromium.mouse("Wheel", x - 13, y, deltaX=0, deltaY=-70)
        (pixel_width,) = set(run_lengths(chromium.screenshot()[y + 40, x - 40 : x + 40]))
        widths.append(pixel_width)
    assert widths == sorted(widths)
    assert len(set(widths)) > 3
    assert widths[-1] == 8
    assert chromium.run("find('scale').textContent") == "800 %"
    new_left, new_width = image_box(chromium)
    assert (x - 13 - new_left) / new_width == pytest.approx((x - 13 - left) / width, abs=0.01)
    line = chromium.screenshot()[y + 40, x - 150 : x + 150]
    assert len(run_lengths(line)) > 30
    assert set(run_lengths(line)) == {8}


def test_zoom_and_drag_keep_both_layers_aligned(chromium, folder):
    open_image_page(chromium, folder)
    chromium.run("show('left', 'image'); show('right', 'image')")
    x, y = (int(position) for position in chromium.middle("#stage"))
    for key in "0++":
        chromium.key(key)
    chromium.drag((x + 60, y + 60), (x + 33, y + 41))
    parts = []
    for split in (0.1, 0.9):
        chromium.run(f"moveDivider({split})")
        parts.append(chromium.screenshot()[y - 100 : y + 100, x - 200 : x + 200])
    np.testing.assert_array_equal(*parts)
    assert len(np.unique(parts[0].reshape(-1, 3), axis=0)) > 100


def test_touch_moves_the_divider_with_one_finger_and_zooms_with_two(chromium, folder):
    open_image_page(chromium, folder)
    x, y = chromium.middle("#divider")
    chromium.fingers([(x, y)], [(x + 60, y)], [(x + 120, y)])
    assert chromium.middle("#divider") == pytest.approx((x + 120, y), abs=2)
    chromium.run("zoomBy(0.01)")
    left, width = image_box(chromium)
    chromium.fingers(*([(x - 10 * i, y - 50), (x + 10 * i, y - 50)] for i in (2, 4, 6, 8)))
    new_left, new_width = image_box(chromium)
    assert new_width / width == pytest.approx(4, rel=0.01)
    assert (x - new_left) / new_width == pytest.approx((x - left) / width, abs=0.02)


def test_image_page_loads_only_the_shown_layers_and_the_next_one_opens_alike(chromium, folder):
    open_image_page(chromium, folder)
    sources = "[...document.images].map(x => x.getAttribute('src'))"
    assert chromium.run(sources) == ["depth_coarse.png", "depth_refined.png"]
    chromium.click("#group label:nth-child(4)")
    assert chromium.run(sources) == ["depth_error_coarse.png", "depth_error_refined.png"]
    chromium.key("3")
    chromium.run("find('right').value = 'truth'; find('right').dispatchEvent(new Event('change'))")
    assert chromium.run(sources) == ["normal_coarse.png", "normal_truth.png"]
    chromium.key("p")
    chromium.wait(f"document.querySelector('h1')?.textContent == {json.dumps(NASTY)}")
    chromium.wait("document.readyState == 'complete'")
    assert chromium.run(sources) == ["normal_coarse.png", "normal_truth.png"]
    assert chromium.run("document.querySelector('#previous')") is None


def test_pages_fit_the_width_of_a_phone(chromium, folder):
    chromium.resize(390, 844, phone=True)
    for page in (folder / "report.html", image_folder(folder, "good") / "index.html"):
        chromium.open(page)
        assert chromium.run("document.documentElement.scrollWidth") <= 390


def links_of(chromium, page) -> list[Path]:
    """The files that a page links to, and that its images come from; its images must show."""
    chromium.open(page)
    chromium.run("[...document.images].forEach(x => { x.loading = 'eager' })")
    chromium.wait("[...document.images].every(x => x.complete && x.naturalWidth > 0)")
    urls = chromium.run(
        "[...[...document.querySelectorAll('a[href]')].map(x => x.href),"
        "...[...document.images].map(x => x.src)]"
    )
    return [Path(unquote(urlsplit(url).path)) for url in urls]


@pytest.mark.slow
def test_every_link_of_an_evaluation_and_a_comparison_opens(chromium, tmp_path):
    (tmp_path / "set #1").mkdir()
    photos = miniature_sets.measured(tmp_path / "set #1", 3, (40, 56))
    maps = miniature_sets.perfect_predictions(photos, tmp_path / "maps")
    words = ["--predictions", maps, "--kind", "depth", "--data", "folder", photos, "--pages", 2]
    call(eval_command.main, *words, "--out", tmp_path / "second")
    for number, file in enumerate(sorted(maps.iterdir())):
        np.save(file, np.load(file) * np.float32(1.2 + 0.1 * number))
    call(eval_command.main, *words, "--out", tmp_path / "first")
    call(eval_command.main, "--compare", tmp_path / "first", tmp_path / "second")
    comparison = tmp_path / "second/compared_with_first"
    pages = [tmp_path / "first/report.html", tmp_path / "second/report.html"]
    pages.append(comparison / "compare.html")
    for page in pages:  # grows
        for path in links_of(chromium, page):
            assert path.is_file(), (page, path)
            if path.suffix == ".html" and path not in pages:
                pages.append(path)
    # Both reports have pages of 2 images. The worst ones of both are compared.
    image_pages = [page for page in pages if page.name == "index.html"]
    compared = [page for page in image_pages if str(page).startswith(str(comparison))]
    assert len(image_pages) >= 5 and len(compared) >= 1
    chromium.open(tmp_path / "first/report.html")
    x, y = chromium.middle("#front")
    chromium.drag((x, y), (x - 100, y))
    assert float(chromium.run("document.querySelector('#front input').value")) < 50
    chromium.open(compared[0])
    tags = "['left', 'right'].map(side => document.getElementById(side + 'tag').textContent)"
    assert chromium.run(tags) == ["first", "second"]
    x, y = chromium.middle("#divider")
    chromium.drag((x, y), (x + 100, y))
    assert chromium.middle("#divider")[0] == pytest.approx(x + 100, abs=2)
    chromium.resize(390, 844, phone=True)
    chromium.open(comparison / "compare.html")
    assert chromium.run("document.documentElement.scrollWidth") <= 390
    # The headings of the list of images do not touch each other.
    boxes = chromium.run(
        "[...document.querySelectorAll('#images thead th')].map(x => {"
        "const range = document.createRange(); range.selectNodeContents(x);"
        "const box = range.getBoundingClientRect(); return [box.left, box.right] })"
    )
    assert all(left[1] + 8 < right[0] for left, right in pairwise(boxes))
