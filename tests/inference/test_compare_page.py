"""The page with coarse and refined maps in a real browser, opened from disk."""

import numpy as np
import pytest
from etils.epath import Path
from helpers.chromium import PROGRAM, Chromium

from urgt_jax.images.colour import colour_normal
from urgt_jax.inference.compare_page import write_compare_page

SIZE = (240, 320)
GREY = np.full((*SIZE, 3), 120, np.uint8)
RED = np.broadcast_to(np.uint8([200, 0, 0]), (*SIZE, 3)).copy()
BLUE = np.broadcast_to(np.uint8([0, 0, 200]), (*SIZE, 3)).copy()
FACING = colour_normal(np.broadcast_to(np.float32([0, 0, -1]), (*SIZE, 3)))
LEFT = colour_normal(np.broadcast_to(np.float32([-0.8, 0, -0.6]), (*SIZE, 3)))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A browser with the page of an image: red before, blue after."""
    if PROGRAM is None:
        pytest.skip("chromium is not installed")
    folder = Path(tmp_path_factory.mktemp("page"))
    pictures = {
        "image": GREY,
        "coarse_depth": RED,
        "depth": BLUE,
        "coarse_normal": FACING,
        "normal": LEFT,
    }
    write_compare_page(folder / "page.html", "photo", pictures)
    browser = Chromium(folder / "profile")
    browser.resize(600, 600)
    browser.open(folder / "page.html")
    browser.wait("document.body.dataset.ready == 'Depth'")
    yield browser
    browser.close()


def colours(page) -> tuple[list[int], list[int]]:
    """The colours left and right of the middle of the image."""
    x, y = page.middle("#stage")
    screen = page.screenshot()
    return screen[int(y), int(x) - 40].tolist(), screen[int(y), int(x) + 40].tolist()


def test_coarse_is_left_and_refined_right_of_the_divider(page):
    before, after = colours(page)
    assert before[0] > 150 and before[2] < 60
    assert after[2] > 150 and after[0] < 60
    x, y = page.middle("#stage")
    page.drag((x, y), (x - 100, y))
    before, after = colours(page)
    assert before == after and after[2] > 150
    page.drag((x - 100, y), (x, y))
    assert page.errors == []


def test_the_lamp_lights_what_faces_it(page):
    page.click("#layers button:nth-of-type(3)")
    page.wait("document.body.dataset.ready == 'Lamp'")
    x, y = page.middle("#stage")
    brightness = {}
    for name, offset in (("left", -250), ("right", 250)):
        page.mouse("Moved", x + offset, y)
        page.wait("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
                  ".then(() => true)")  # fmt: skip
        brightness[name] = colours(page)[1][0]
    assert brightness["left"] > 2 * brightness["right"]  # the refined normals face left
    assert page.errors == []
