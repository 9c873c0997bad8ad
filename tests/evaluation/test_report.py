"""The report: what is on disk, and what a person sees and does in a browser."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers.chromium import PROGRAM, Chromium
from PIL import Image

from urgt_jax.errors import UserError
from urgt_jax.evaluation import report
from urgt_jax.evaluation.report.layers import UNKNOWN, place
from urgt_jax.evaluation.report.zooms import WINDOW
from urgt_jax.images.colour import RAMP
from urgt_jax.images.grid import cover_image

SHAPE = (40, 60)
NASTY = "<b>&\"'.png"
SIDES = ("coarse", "refined")
FAR, NEAR = RAMP[0], RAMP[-1]


def made(shape=SHAPE, normals=True, seed=0):
    """A picture whose refined maps are true, and whose coarse ones err by 10 % and 22.5°."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.1, 1, shape).astype(np.float32)
    facing = np.broadcast_to(np.float32([0, 0, -1]), (*shape, 3))
    turned = np.float32([np.sin(np.pi / 8), 0, -np.cos(np.pi / 8)])
    normal = {"coarse": np.broadcast_to(turned, facing.shape), "refined": facing, "truth": facing}
    return report.Layers(
        rng.integers(0, 256, (*shape, 3), np.uint8),
        {"coarse": truth * np.float32(1.1), "refined": truth, "truth": truth},
        normal if normals else {},
        np.ones(shape, bool),
        np.ones(shape, bool),
    )


def scores(abs_rel, angle=np.nan, **more):
    return {"depth": {"abs_rel": abs_rel, **more}, "normal": {"mean": angle}}


def both(coarse, refined, **more):
    return {"coarse": scores(coarse, **more), "refined": scores(refined, **more)}


def summary(pictures, **more):
    means = {side: pictures[0][1][side] for side in pictures[0][1]}
    return {
        "data": "scenes, split test",
        "protocol": "no alignment",
        "patches": "2 x 2",
        **means,
    } | more


def layer(folder, name, file):
    return np.asarray(Image.open(place(folder, name) / file).convert("RGB"))


class Page(HTMLParser):
    """The elements, links and text of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.text = set(), [], ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for key, value in attrs if key in ("href", "src")]

    def handle_data(self, data):
        self.text += data


# --- files


def test_layers_have_the_pictures_size_and_the_photograph_its_pixels(tmp_path):
    report.write_layers(tmp_path, "one", layers := made())
    files = {x.name for x in place(tmp_path, "one").glob("*.png")}
    shown = {f"{kind}_{side}.png" for kind in ("depth", "normal") for side in (*SIDES, "truth")}
    errors = {f"{kind}_error_{side}.png" for kind in ("depth", "normal") for side in SIDES}
    assert files == {"image.png"} | shown | errors
    assert all(layer(tmp_path, "one", file).shape == (*SHAPE, 3) for file in files)
    np.testing.assert_array_equal(layer(tmp_path, "one", "image.png"), layers.image)
    np.testing.assert_array_equal(
        layer(tmp_path, "one", "depth_refined.png"), layer(tmp_path, "one", "depth_truth.png")
    )


@pytest.mark.parametrize("kind", ["depth", "normal"])
def test_an_error_of_half_the_scale_has_the_middle_colour_and_none_the_darkest(tmp_path, kind):
    report.write_layers(tmp_path, "one", made())
    coarse, refined = (layer(tmp_path, "one", f"{kind}_error_{side}.png") for side in SIDES)
    assert np.abs(coarse - RAMP[3]).max() <= 2
    np.testing.assert_array_equal(refined, np.broadcast_to(FAR, refined.shape))


@pytest.mark.filterwarnings("error")
def test_depth_is_dark_far_away_and_grey_where_nothing_is_known(tmp_path):
    layers = made()
    depth = np.full(SHAPE, 0.5, np.float32)
    depth[:, :20], depth[:, 40:] = 0.1, 1
    holes = depth.copy()
    holes[0, :3] = np.nan, np.inf, 0
    valid = np.ones(SHAPE, bool)
    valid[5] = False
    layers = layers._replace(depth={"coarse": holes, "truth": depth}, valid=valid)
    report.write_layers(tmp_path, "one", layers)
    seen = layer(tmp_path, "one", "depth_coarse.png")
    np.testing.assert_array_equal(seen[0, :3], [UNKNOWN, NEAR, UNKNOWN])
    np.testing.assert_array_equal(seen[9, [0, -1]], [FAR, NEAR])
    error = layer(tmp_path, "one", "depth_error_coarse.png")
    np.testing.assert_array_equal(error[0, :4], [UNKNOWN, NEAR, NEAR, FAR])
    np.testing.assert_array_equal(error[5], np.broadcast_to(UNKNOWN, error[5].shape))


@pytest.mark.parametrize(
    "name", [NASTY, "../../up", "a" * 300, "con", "", "snow ☃", "\udcff", ".hidden", "a\nb\0"]
)
def test_any_name_becomes_a_folder_inside_the_report(tmp_path, name):
    report.write_layers(tmp_path, name, made())
    (inside,) = (tmp_path / "report").iterdir()
    assert inside == place(tmp_path, name) and (inside / "image.png").is_file()


def test_names_that_look_alike_do_not_share_a_folder(tmp_path):
    names = ["a b", "a_b", "a?b", "A_b"]
    assert len({place(tmp_path, name).name.lower() for name in names}) == len(names)


def test_a_superseded_picture_loses_its_page_but_not_its_thumbnail(tmp_path):
    pictures = [("one", both(0.1, 0.2)), ("two", both(0.1, 0.1))]
    for name, _ in pictures:
        report.write_layers(tmp_path, name, made())
    report.drop_layers(tmp_path, "one")
    report.drop_layers(tmp_path, "never written")
    assert [x.name for x in place(tmp_path, "one").iterdir()] == ["thumbnail.jpg"]
    links = Page(report.write_pages(tmp_path, summary(pictures), pictures)).links
    assert f"report/{place(tmp_path, 'one').name}/thumbnail.jpg" in links
    assert f"report/{place(tmp_path, 'one').name}/index.html" not in links
    assert f"report/{place(tmp_path, 'two').name}/index.html" in links


def test_a_new_report_replaces_the_old_one_and_nothing_else(tmp_path):
    pictures = [("one", both(0.1, 0.2)), ("two", both(0.1, 0.1))]
    for name, _ in pictures:
        report.write_layers(tmp_path, name, made())
    report.write_pages(tmp_path, summary(pictures), pictures)
    mine = [tmp_path / "notes.html", tmp_path / "report" / "mine.txt"]
    mine.append(place(tmp_path, "two") / "notes.txt")
    for path in mine:
        path.write_text("mine")
    report.clear(tmp_path)
    left = {x for x in tmp_path.rglob("*") if x.is_file()} - set(mine)
    assert {x.name for x in left} <= {"page.css", "table.js", "slider.js"}
    assert all(path.read_text() == "mine" for path in mine)
    assert not place(tmp_path, "one").exists()


def test_a_file_in_the_way_of_the_folder_is_told_in_one_line(tmp_path):
    (tmp_path / "report").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        report.write_layers(tmp_path, "one", made())
    with pytest.raises(UserError, match="cannot make the folder"):
        report.write_pages(tmp_path, {}, [("one", both(1, 1))])


def test_no_pictures_make_no_report(tmp_path):
    with pytest.raises(UserError, match="no picture was scored"):
        report.write_pages(tmp_path, {}, [])
    assert not list(tmp_path.iterdir())


def test_links_lead_to_files_that_are_there(tmp_path):
    pictures = [("one", both(0.1, 0.2)), (NASTY, both(0.1, 0.1)), ("no layers", both(1, 0))]
    for name, _ in pictures[:2]:
        report.write_layers(tmp_path, name, made())
    page = report.write_pages(tmp_path, summary(pictures), pictures)
    pages = [page, *(tmp_path / "report").glob("*/index.html")]
    assert len(pages) == 3
    for path in pages:
        links = Page(path).links
        assert links and all((path.parent / link).is_file() for link in links)


def test_text_of_others_is_never_markup(tmp_path):
    pictures = [(NASTY, both(0.1, 0.2)), ("</script><b>", both(0.1, 0.1))]
    for name, _ in pictures:
        report.write_layers(tmp_path, name, made())
    told = {key: "<b>'\"&" for key in ("data", "protocol", "patches")}
    page = report.write_pages(tmp_path, summary(pictures, skipped={"<i>": "<u>"}, **told), pictures)
    for path in (page, place(tmp_path, NASTY) / "index.html"):
        seen = Page(path)
        assert NASTY in seen.text
        assert not {"i", "u"} & seen.tags - {"i" if path != page else ""}
    assert Page(page).text.count("<b>'\"&") == 3 and "<u>" in Page(page).text


# --- tables and sheets


def test_the_terminal_shows_known_scores_line_by_line_with_their_ratio():
    means = {"coarse": scores(0.2, delta1=0.5, see=np.nan), "refined": scores(0.1, delta1=0.75)}
    means["coarse"]["pooled"] = {"mean": 20.0}
    means["refined"]["pooled"] = {"mean": 15.0}
    lines = [line.split() for line in report.table(means, SIDES).splitlines()]
    assert lines == [
        ["coarse", "refined", "ratio"],
        ["AbsRel", "↓", "0.2000", "0.1000", "0.50"],
        ["δ1", "↑", "0.5000", "0.7500", "1.50"],
        ["pooled", "mean", "°", "↓", "20.00", "15.00", "0.75"],
    ]


def test_one_side_has_no_ratio_and_a_missing_score_is_a_dash():
    lines = report.table({"predicted": scores(0.2)}, ("predicted",)).splitlines()
    assert [line.split() for line in lines] == [["predicted"], ["AbsRel", "↓", "0.2000"]]
    means = {"coarse": scores(np.nan), "refined": scores(0.1)}
    assert report.table(means, SIDES).splitlines()[1].split()[2:] == ["–", "0.1000", "–"]


def test_a_sheet_has_a_row_for_depth_and_one_for_normals_and_white_beyond():
    sheet = report.sheet([made((10, 20)), made((6, 8), normals=False)])
    assert sheet.shape == (3 * 4 + 10 + 10 + 6, 6 * 24, 3)
    np.testing.assert_array_equal(sheet[:10, :20], sheet[14:24, :20])
    np.testing.assert_array_equal(sheet[:10, :20], made((10, 20)).image)
    assert (sheet[28:, 6 * 12 :] == 255).all() and (sheet[10:14] == 255).all()


# --- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if PROGRAM is None:
        pytest.skip("no chromium on this machine: the pages are not opened")
    browser = Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def chromium(browser):
    """A browser on which nothing may go wrong."""
    browser.errors.clear()
    browser.resize(1200, 800)
    yield browser
    assert browser.errors == []


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report of four pictures, of which two have pages."""
    folder = tmp_path_factory.mktemp("written")
    far, near = np.full(SHAPE, 0.1, np.float32), np.full(SHAPE, 1, np.float32)
    truth = np.where(np.arange(60) % 2, far, near)
    layers = made()._replace(depth={"coarse": far, "refined": near, "truth": truth})
    pictures = [
        ("good", both(0.4, 0.1, delta1=0.7)),
        ("unknown", both(np.nan, np.nan, delta1=np.nan)),
        (NASTY, both(0.1, 0.3, delta1=0.9)),
        ("middle", both(0.2, 0.2, delta1=0.8)),
    ]
    for name in ("good", NASTY):
        report.write_layers(folder, name, layers)
    report.write_pages(folder, summary(pictures), pictures)
    return folder


ORDER = "[...document.querySelectorAll('#pictures tbody th')].map(x => x.dataset.name)"
CELLS = "[...document.querySelectorAll('#pictures tbody tr')].map(x => x.cells[1].textContent)"


def test_a_click_on_a_header_sorts_with_unknown_last(chromium, written):
    chromium.open(written / "report.html")
    worst = [NASTY, "middle", "good", "unknown"]
    assert chromium.run(ORDER) == worst
    chromium.click("#pictures th:nth-child(2) button")
    assert chromium.run(ORDER) == ["good", "middle", NASTY, "unknown"]
    assert chromium.run("document.querySelector('[aria-sort=ascending]').cellIndex") == 1
    chromium.click("#pictures th:nth-child(3) button")  # more is better: the worst is the least
    assert chromium.run(ORDER) == ["good", "middle", NASTY, "unknown"]
    chromium.key("Enter")  # the button has the focus
    assert chromium.run(ORDER) == [NASTY, "middle", "good", "unknown"]
    chromium.click("#pictures th:nth-child(1) button")
    assert chromium.run(ORDER) == sorted(worst, key=str.lower)


def test_the_list_shows_the_scores_of_the_chosen_side_in_their_order(chromium, written):
    chromium.open(written / "report.html")
    assert chromium.run(CELLS) == ["0.3000", "0.2000", "0.1000", "–"]
    chromium.click("#side label:nth-of-type(1)")
    assert chromium.run(CELLS) == ["0.4000", "0.2000", "0.1000", "–"]
    chromium.click("#side label:nth-of-type(3)")
    assert chromium.run(CELLS) == ["3.00", "1.00", "0.25", "–"]
    assert chromium.run(ORDER) == [NASTY, "middle", "good", "unknown"]


@pytest.mark.parametrize("kinds", [("depth",), ("normal",), ("depth", "normal")])
def test_a_report_of_one_side_and_one_picture_opens(chromium, tmp_path, kinds):
    layers = made()
    depth = {"predicted": layers.depth["coarse"]} if "depth" in kinds else {}
    normal = {"predicted": layers.normal["coarse"], "truth": layers.normal["truth"]}
    layers = layers._replace(depth=depth | {"truth": layers.depth["truth"]})
    layers = layers._replace(normal=normal if "normal" in kinds else {})
    pictures = [("one", {"predicted": {kind: {"mean": 20.0, "abs_rel": 0.1} for kind in kinds}})]
    report.write_layers(tmp_path, "one", layers)
    chromium.open(report.write_pages(tmp_path, summary(pictures), pictures))
    chromium.click("#pictures tbody a")
    chromium.wait("document.querySelector('#lefttag')?.textContent == 'predicted'")
    assert chromium.run("document.querySelector('#righttag').textContent") == "truth"
    found = chromium.run("[...document.querySelectorAll('#group input')].map(x => x.value)")
    assert set(found) == {"image", "depth", *kinds, *(f"{kind}_error" for kind in kinds)}


def opened(chromium, written):
    chromium.open(place(written, "good") / "index.html")


def seen(chromium, at):
    """The colours at a place left and right of the picture's middle, on the stage."""
    x, y = chromium.middle("#stage")
    picture = chromium.screenshot()
    return [picture[int(y) + 60, int(x) + offset].tolist() for offset in at]


def test_the_divider_parts_coarse_from_refined_where_it_is_dragged(chromium, written):
    opened(chromium, written)
    dark, bright = FAR.tolist(), NEAR.tolist()
    assert seen(chromium, (-100, 100)) == [dark, bright]
    x, y = chromium.middle("#divider")
    chromium.drag((x, y), (x + 150, y))
    assert seen(chromium, (100, 200)) == [dark, bright]
    chromium.drag((x + 150, y), (x - 150, y))
    assert seen(chromium, (-200, -100)) == [dark, bright]
    for _ in range(20):
        chromium.key("ArrowRight")
    now = float(chromium.run("document.querySelector('#divider').ariaValueNow"))
    assert abs(chromium.middle("#divider")[0] - x) < 100 and 40 < now < 60


def placed(chromium):
    """The left edge and the width of the picture on the screen."""
    return chromium.run("(r => [r.x, r.width])(images.left.getBoundingClientRect())")


def runs(line):
    """The lengths of what has one colour, but for the first and the last."""
    ends = np.flatnonzero(np.any(line[1:] != line[:-1], -1))
    return np.diff(ends)


def test_a_pixel_is_zoomed_to_eight_screen_pixels_around_the_cursor(chromium, written):
    opened(chromium, written)
    chromium.run("show('left', 'truth'); show('right', 'truth'); moveDivider(0)")
    x, y = (int(v) for v in chromium.middle("#stage"))
    chromium.run("zoomBy(0.01)")
    chromium.mouse("Wheel", x - 13, y, deltaX=0, deltaY=-240)
    left, width = placed(chromium)
    widths = []
    for _ in range(12):
        chromium.mouse("Wheel", x - 13, y, deltaX=0, deltaY=-70)
        (width_here,) = set(runs(chromium.screenshot()[y + 40, x - 40 : x + 40]))
        widths.append(width_here)
    assert widths == sorted(widths) and len(set(widths)) > 3 and widths[-1] == 8
    assert chromium.run("find('scale').textContent") == "800 %"
    new_left, new_width = placed(chromium)
    assert (x - 13 - new_left) / new_width == pytest.approx((x - 13 - left) / width, abs=0.01)
    line = chromium.screenshot()[y + 40, x - 150 : x + 150]
    assert len(runs(line)) > 30 and set(runs(line)) == {8}


def test_both_sides_stay_together_when_zoomed_and_dragged(chromium, written):
    opened(chromium, written)
    chromium.run("show('left', 'image'); show('right', 'image')")
    x, y = (int(v) for v in chromium.middle("#stage"))
    for key in "0++":
        chromium.key(key)
    chromium.drag((x + 60, y + 60), (x + 33, y + 41))
    parts = []
    for split in (0.1, 0.9):
        chromium.run(f"moveDivider({split})")
        parts.append(chromium.screenshot()[y - 100 : y + 100, x - 200 : x + 200])
    np.testing.assert_array_equal(*parts)
    assert len(np.unique(parts[0].reshape(-1, 3), axis=0)) > 100


def test_a_finger_moves_the_divider_and_two_fingers_zoom_what_is_between_them(chromium, written):
    opened(chromium, written)
    x, y = chromium.middle("#divider")
    chromium.fingers([(x, y)], [(x + 60, y)], [(x + 120, y)])
    assert chromium.middle("#divider") == pytest.approx((x + 120, y), abs=2)
    chromium.run("zoomBy(0.01)")
    left, width = placed(chromium)
    chromium.fingers(*([(x - 10 * i, y - 50), (x + 10 * i, y - 50)] for i in (2, 4, 6, 8)))
    new_left, new_width = placed(chromium)
    assert new_width / width == pytest.approx(4, rel=0.01)
    assert (x - new_left) / new_width == pytest.approx((x - left) / width, abs=0.02)


def test_only_chosen_layers_are_loaded_and_the_next_picture_opens_alike(chromium, written):
    opened(chromium, written)
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


def test_a_phone_shows_the_pages_without_scrolling_sideways(chromium, written):
    chromium.resize(390, 844, phone=True)
    for page in (written / "report.html", place(written, "good") / "index.html"):
        chromium.open(page)
        assert chromium.run("document.documentElement.scrollWidth") <= 390


def post(shape=(300, 400), top=30, left=200):
    """A wall with a post of three pixels before it, and an error at the corner of 4 patches."""
    truth = np.full(shape, 0.2, np.float32)
    truth[top : top + 100, left : left + 3] = 0.5
    refined = truth.copy()
    refined[248:252, 98:102] *= 1.5
    sides = {"coarse": truth, "refined": refined, "truth": truth}
    everywhere = np.ones(shape, bool)
    return report.Layers(np.zeros((*shape, 3), np.uint8), sides, {}, everywhere, everywhere)


def test_zooms_are_where_things_are_thin_and_where_patches_meet_worst():
    layers = post()
    windows = cover_image(*layers.valid.shape, 6, 4)  # corners at every 50 rows and 100 columns
    thin, border = report.zooms(layers, windows)
    assert thin.valid.shape == border.valid.shape == WINDOW
    assert (thin.depth["truth"] == 0.5).sum() == 300
    assert (border.depth["refined"] != border.depth["truth"]).sum() == 16
    assert set(border.depth) == set(layers.depth) and not border.normal


def test_nothing_thin_and_no_borders_are_no_zooms():
    flat = post()._replace(depth={"refined": np.ones((300, 400)), "truth": np.ones((300, 400))})
    assert report.zooms(flat, cover_image(300, 400, 1, 1)) == []
    small = made()
    assert [x.valid.shape for x in report.zooms(small, cover_image(*SHAPE, 2, 2))] == [SHAPE] * 2


def test_a_reduced_picture_has_every_so_manieth_pixel():
    big = made((50, 1000))
    small = report.reduced(big)
    assert small.valid.shape == (17, 334)
    np.testing.assert_array_equal(small.depth["refined"], big.depth["refined"][::3, ::3])
    np.testing.assert_array_equal(small.image, big.image[::3, ::3])
