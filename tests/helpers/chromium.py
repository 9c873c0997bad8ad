"""A headless Chromium, driven over pipes with the DevTools protocol: no library is needed."""

import base64
import io
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
from PIL import Image

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --hide-scrollbars "
    "--remote-debugging-pipe"
).split()
PATIENCE = 20.0  # seconds


class Chromium:
    """One page of a browser of its own, and what went wrong on it."""

    def __init__(self, profile: Path):
        command = [PROGRAM, *OPTIONS, f"--user-data-dir={profile}"]
        asks, self.write_end = os.pipe()
        self.read_end, tells = os.pipe()
        # The browser reads commands on descriptor 3 and answers on 4, whichever we were given.
        shell = f'exec "$@" 3<&{asks} 4>&{tells}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command],
            pass_fds=(asks, tells), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(asks)
        os.close(tells)
        self.rest, self.count, self.session, self.errors = b"", 0, None, []
        self.loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """Ends the browser."""
        self.process.terminate()
        self.process.wait(PATIENCE)
        os.close(self.write_end)
        os.close(self.read_end)

    def call(self, method: str, **params) -> dict:
        """The browser's answer to a command."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.count:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _next(self) -> dict:
        while b"\0" not in self.rest:
            if not select.select([self.read_end], [], [], PATIENCE)[0]:
                raise TimeoutError("the browser does not answer")
            if not (more := os.read(self.read_end, 1 << 20)):
                raise ConnectionError("the browser has ended")
            self.rest += more
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"]["exception"]["description"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(str(params["args"]))

    def open(self, page: Path) -> None:
        """Goes to a file and waits until it has loaded."""
        self.loaded = False
        self.call("Page.navigate", url=page.as_uri())
        while not self.loaded:
            self._note(self._next())
        self.settle()

    def settle(self) -> None:
        """Waits until the pictures in view are decoded and what was asked for is on the screen."""
        # Asked again while one answers with an error, as a picture whose source changes does.
        self.wait(
            "Promise.all([...document.images].filter(x => x.loading != 'lazy')"
            ".map(x => x.decode())).then(() => true, () => false)"
        )
        self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")

    def run(self, script: str):
        """The value of an expression on the page."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def wait(self, script: str) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self._holds(script):
            if time.monotonic() > end:
                raise TimeoutError(script)
            time.sleep(0.02)

    def _holds(self, script: str) -> bool:
        try:
            return bool(self.run(script))
        except RuntimeError as error:
            # A page that is being left answers with an error: the next one is asked again.
            if "navigated" not in str(error) and "execution context" not in str(error).lower():
                raise
            return False

    def resize(self, width: int, height: int, phone: bool = False) -> None:
        """The size of the window, CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=phone)  # fmt: skip

    def middle(self, selector: str) -> tuple[float, float]:
        """The centre of an element."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        return tuple(self.run(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({box})"))

    def mouse(self, kind: str, x: float, y: float, **more) -> None:
        """A mouse event: Pressed, Moved, Released or Wheel."""
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **more)

    def click(self, selector: str) -> None:
        """Clicks on the centre of an element, which is brought into view."""
        self.run(
            f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'nearest'}})"
        )
        self.drag(self.middle(selector), self.middle(selector))

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Presses at one place, and releases at another."""
        held = {"button": "left", "buttons": 1, "clickCount": 1}
        self.mouse("Moved", *start)
        self.mouse("Pressed", *start, **held)
        if end != start:
            self.mouse("Moved", *end, **held)
        self.mouse("Released", *end, **held)

    def fingers(self, *path: list[tuple[float, float]]) -> None:
        """Touches the screen with fingers that go through the places of a path, and lifts them."""
        kinds = ["Start", *["Move"] * (len(path) - 1), "End"]
        for kind, places in zip(kinds, [*path, []], strict=True):
            points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(places)]
            self.call("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=points)

    def key(self, key: str) -> None:
        """Presses a key."""
        text = {"text": key} if len(key) == 1 else {}
        if key == "Enter":
            text = {"text": "\r", "windowsVirtualKeyCode": 13}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def screenshot(self) -> np.ndarray:
        """What is seen."""
        self.settle()
        data = self.call("Page.captureScreenshot", format="png")["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
