"""Chromium without a window, driven by chromedriver through the WebDriver protocol, with nothing but the standard library.

Debian: `apt-get install chromium chromium-driver`.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

KEYS = {
    "Enter": "\ue007",
    "Escape": "\ue00c",
    "Left": "\ue012",
    "Up": "\ue013",
    "Right": "\ue014",
    "Down": "\ue015",
    "Tab": "\ue004",
    "Home": "\ue011",
    "End": "\ue010",
}

# No window, no sandbox for root, and nothing that would look for a network.
_ARGUMENTS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-extensions --disable-dev-shm-usage --hide-scrollbars "
    "--force-device-scale-factor=1 --host-resolver-rules=MAP\u00a0*\u00a0~NOTFOUND"
).split(" ")


class Browser:
    """One Chromium and one page of it. A context manager."""

    def __init__(self, profile: Path) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        self._driver = subprocess.Popen(
            [str(DRIVER), "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        assert self._driver.stdout is not None
        port = next(match[1] for line in self._driver.stdout if (match := re.search(r"on port (\d+)\.", line)))
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._base = f"http://127.0.0.1:{port}/session"
        arguments = [argument.replace("\u00a0", " ") for argument in _ARGUMENTS]
        options = {"binary": CHROMIUM, "args": [*arguments, f"--user-data-dir={profile}"]}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            session = self._send("POST", "", {"capabilities": {"alwaysMatch": capabilities}})
        except BaseException:
            self._driver.kill()
            raise
        self._base += f"/{session['sessionId']}"

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        try:
            self._send("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait()

    def _send(self, method: str, command: str, body: dict[str, Any] | None = None) -> Any:
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(
            self._base + command, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with self._opener.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error

    def open(self, path: Path, hash: str = "") -> None:
        """Loads a file anew, also if only the part after `#` is another."""
        self._send("POST", "/url", {"url": "about:blank"})
        self._send("POST", "/url", {"url": path.resolve().as_uri() + hash})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of a function returns, in the page."""
        return self._send("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def settle(self) -> None:
        """Waits for what the page does after an event: its listeners, and the next frame."""
        self._send("POST", "/execute/async", {"script": "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done)));", "args": []})  # fmt: skip

    def click(self, selector: str) -> None:
        """Clicks on the middle of an element, as a person does."""
        (element,) = self._send("POST", "/element", {"using": "css selector", "value": selector}).values()
        self._send("POST", f"/element/{element}/click")
        self.settle()

    def press(self, *keys: str) -> None:
        """Presses keys, by their names or as text, wherever the focus is."""
        signs = [sign for key in keys for sign in KEYS.get(key, key)]
        actions = [{"type": kind, "value": sign} for sign in signs for kind in ("keyDown", "keyUp")]
        self._send("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})
        self.settle()

    def hover(self, x: int, y: int) -> None:
        move = {"type": "pointerMove", "duration": 0, "x": x, "y": y}
        self._send("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": [move]}]})
        self.settle()

    def resize(self, width: int, height: int) -> None:
        """Makes the page as large as that, whatever is around it."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **metrics)
        self.settle()

    def prefer(self, scheme: str) -> None:
        """Makes the system light or dark."""
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def command(self, name: str, **parameters: Any) -> Any:
        """A command of Chromium's own protocol."""
        return self._send("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def complaints(self) -> list[str]:
        """What the console said since it was asked last: errors, and what the page's policy refused."""
        return [entry["message"] for entry in self._send("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._send("GET", "/screenshot")))
