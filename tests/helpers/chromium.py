"""A headless Chromium, driven over pipes with the DevTools protocol, without a library."""

import base64
import io
import json
import os
import select
import shutil
import subprocess
import time

import numpy as np
from etils.epath import Path
from PIL import Image

PROGRAM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
TIMEOUT = 20.0  # seconds


class Chromium:
    """A browser with one page, and the errors the page logged."""

    def __init__(self, profile: Path):
        command = [PROGRAM, *OPTIONS, f"--user-data-dir={profile}"]
        browser_reads, self.write_end = os.pipe()
        self.read_end, browser_writes = os.pipe()
        # The browser reads commands from descriptor 3 and writes answers to 4.
        shell = f'exec "$@" 3<&{browser_reads} 4>&{browser_writes}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command],
            pass_fds=(browser_reads, browser_writes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(browser_reads)
        os.close(browser_writes)
        self.received = b""
        self.commands = 0
        self.session = None
        self.errors = []
        self.loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        self.process.terminate()
        self.process.wait(TIMEOUT)
        os.close(self.write_end)
        os.close(self.read_end)

    def call(self, method: str, **params) -> dict:
        """Send a command and return the browser's answer."""
        self.commands += 1
        message = {"id": self.commands, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        answer = self._next()
        while answer.get("id") != self.commands:
            self._handle_event(answer)
            answer = self._next()
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _next(self) -> dict:
        while b"\0" not in self.received:
            if not select.select([self.read_end], [], [], TIMEOUT)[0]:
                raise TimeoutError("the browser does not answer")
            received = os.read(self.read_end, 1 << 20)
            if not received:
                raise ConnectionError("the browser has ended")
            self.received += received
        message, _, self.received = self.received.partition(b"\0")
        return json.loads(message)

    def _handle_event(self, event: dict) -> None:
        method = event.get("method")
        params = event.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"]["exception"]["description"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(str(params["args"]))

    def open(self, page: Path | str) -> None:
        """Go to a file, or to an address, and wait until it has loaded."""
        self.loaded = False
        self.call("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        while not self.loaded:
            self._handle_event(self._next())
        self.settle()

    def settle(self) -> None:
        """Wait until the images in view are decoded and all changes are on the screen."""
        # Repeated while an image answers with an error, as one whose source changes does.
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
        """Wait until an expression is true."""
        end = time.monotonic() + TIMEOUT
        while not self._is_true(script):
            if time.monotonic() > end:
                raise TimeoutError(script)
            time.sleep(0.02)

    def _is_true(self, script: str) -> bool:
        try:
            return bool(self.run(script))
        except RuntimeError as error:
            # A page that is being left answers with an error; the next page will be asked.
            if "navigated" not in str(error) and "execution context" not in str(error).lower():
                raise
            return False

    def resize(self, width: int, height: int, phone: bool = False) -> None:
        """Set the size of the window in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )

    def middle(self, selector: str) -> tuple[float, float]:
        """The centre of an element."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        return tuple(self.run(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({box})"))

    def mouse(self, kind: str, x: float, y: float, **more) -> None:
        """Send a mouse event: Pressed, Moved, Released or Wheel."""
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **more)

    def click(self, selector: str) -> None:
        """Click on the centre of an element after scrolling it into view."""
        self.run(
            f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'nearest'}})"
        )
        self.drag(self.middle(selector), self.middle(selector))

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse button at one place and release it at another."""
        button = {"button": "left", "buttons": 1, "clickCount": 1}
        self.mouse("Moved", *start)
        self.mouse("Pressed", *start, **button)
        if end != start:
            self.mouse("Moved", *end, **button)
        self.mouse("Released", *end, **button)

    def choose_file(self, selector: str, path: Path) -> None:
        """Put a file into an <input type=file>, as if the user had dropped it there."""
        expression = f"document.querySelector({json.dumps(selector)})"
        element = self.call("Runtime.evaluate", expression=expression)["result"]["objectId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], objectId=element)

    def fingers(self, *path: list[tuple[float, float]]) -> None:
        """Touch the screen with fingers, move them along a path, and lift them."""
        kinds = ["Start", *["Move"] * (len(path) - 1), "End"]
        for kind, places in zip(kinds, [*path, []], strict=True):
            points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(places)]
            self.call("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=points)

    def key(self, key: str) -> None:
        """Press a key."""
        text = {"text": key} if len(key) == 1 else {}
        if key == "Enter":
            text = {"text": "\r", "windowsVirtualKeyCode": 13}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def screenshot(self) -> np.ndarray:
        """The pixels of the window."""
        self.settle()
        data = self.call("Page.captureScreenshot", format="png")["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
