"""`urgt app`: its command line, and its page in a real browser."""

import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from etils.epath import Path
from helpers.chromium import PROGRAM, Chromium
from helpers.command import call

from urgt_jax.commands.app import main
from urgt_jax.errors import UserError

ROOT = Path(__file__).parents[2]
SECONDS = 240  # for the first image, which waits for compilation


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", 99999], "--port: must be from 1 to 65535"),
        (["--prot", 8000], "unknown option --prot; did you mean --port"),
    ],
)
def test_app_rejects_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        call(main, *options)


def test_app_says_which_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r'gradio is not installed. Run: pip install "urgt-jax.app'):
        call(main, "--weights", "scenes")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture
def server(weights, tmp_path):
    """A running `urgt app`, and the address that it prints."""
    pytest.importorskip("gradio")
    port = free_port()
    words = [sys.executable, "-m", "urgt_jax", "app", "--weights", weights, "--port", str(port)]
    environment = {**os.environ, "URGT_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    while line and not line.startswith("open "):
        line = process.stdout.readline()
    yield process, line.removeprefix("open ").split(" ")[0]
    process.terminate()
    process.wait(20)


def shows(browser: Chromium, text: str, seconds: float) -> bool:
    """Whether the report contains a text within that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if text in browser.run("document.querySelector('#report textarea')?.value ?? ''"):
            return True
        time.sleep(0.2)
    return False


def click_until(browser: Chromium, text: str) -> None:
    """Click on the button until the report contains a text: the first clicks may come too early."""
    for _ in range(12):
        browser.wait("!!document.querySelector('#refine')")
        browser.click("#refine")
        if shows(browser, text, 10):
            return
    raise AssertionError(text)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_app_refines_an_image_in_a_browser_after_an_error(server, scene, tmp_path, width):
    if PROGRAM is None:
        pytest.skip("chromium is not installed")
    process, address = server
    assert address.startswith("http://127.0.0.1:")
    browser = Chromium(Path(tmp_path / "profile"))
    try:
        browser.resize(width, 900, phone=width < 600)
        browser.open(address)
        click_until(browser, "error: there is no image")
        for field, name in (
            ("image", "photo.png"),
            ("coarse_depth", "photo_coarse_depth.npy"),
            ("coarse_normal", "photo_coarse_normal.npy"),
        ):
            browser.choose_file(f"#{field} input[type=file]", scene.with_name(name))
            browser.wait(f"!!document.querySelector('#{field} a[href*=\"{name}\"]')")
        browser.click("#refine")
        assert shows(browser, "coarse depth: 41 x 67 pixels, disparity", SECONDS)
        browser.wait("!!document.querySelector('#slider iframe')")
        links = browser.run(
            "[...document.querySelectorAll('#files a')].map(x => x.href).filter(x => x)"
        )
        names = [link.rsplit("/", 1)[-1] for link in links]
        assert sorted(set(names)) == [
            "photo_depth.npy",
            "photo_depth.png",
            "photo_normal.npy",
            "photo_normal.png",
        ]
        [link] = {link for link in links if link.endswith("photo_depth.npy")}
        size = browser.run(f"fetch({link!r}).then(x => x.arrayBuffer()).then(x => x.byteLength)")
        assert size == 128 + 41 * 67 * 4
        # The slider: the page is wide enough, and something colourful is in its frame.
        browser.run("document.querySelector('#slider iframe').scrollIntoView({block: 'center'})")
        overflow = browser.run("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0
        x, y = browser.middle("#slider iframe")
        end = time.monotonic() + 20
        while time.monotonic() < end:
            part = browser.screenshot()[int(y) - 60 : int(y) + 20, int(x) - 80 : int(x) + 80]
            if np.ptp(part.astype(int), axis=-1).mean() > 40:
                break
        assert np.ptp(part.astype(int), axis=-1).mean() > 40
        # Gradio itself logs that it uses no streams.
        assert [error for error in browser.errors if "Method not implemented" not in error] == []
    finally:
        browser.close()
    assert process.poll() is None
