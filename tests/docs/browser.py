"""A headless Chromium, driven over plain HTTP as the WebDriver standard says.

Needs Debian's packages chromium and chromium-driver, and no library: the few calls that are needed
are fewer lines than the set-up of one.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Browser", "browser", "is_there", "processes_of"]

OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
PATIENCE_S = 20
_LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def is_there() -> bool:
    """Say whether both programs are installed."""
    return shutil.which("chromium") is not None and shutil.which("chromedriver") is not None


class Browser:
    """One window.

    Attributes:
        profile: The folder in which it keeps all that it writes.
    """

    def __init__(self, port: int, profile: str) -> None:
        """Open a window whose profile is an empty folder."""
        self.profile = profile
        self._base = f"http://127.0.0.1:{port}"
        asked = {
            "browserName": "chrome",
            "goog:chromeOptions": {
                "args": [*OPTIONS, f"--user-data-dir={profile}"],
                "binary": shutil.which("chromium"),
            },
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"pageLoad": PATIENCE_S * 1000, "script": PATIENCE_S * 1000},
        }
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": asked}})
        self._base += f"/session/{session['sessionId']}"

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is loaded."""
        self._call("POST", "/url", {"url": url})

    @property
    def url(self) -> str:
        """Where the window is."""
        return str(self._call("GET", "/url"))

    def run(self, script: str, *arguments: object) -> Any:
        """Run JavaScript, the body of a function, and return what it returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait_for(self, script: str) -> Any:
        """Run JavaScript in each frame until it returns something that is true; return that."""
        waiting = """
            const look = new Function(arguments[0]), done = arguments[arguments.length - 1];
            const again = () => {
                const found = look();
                found ? done(found) : requestAnimationFrame(again);
            };
            again();
        """
        return self._call("POST", "/execute/async", {"script": waiting, "args": [script]})

    def look(self, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Have a screen of this size, and a preference for light or dark."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._devtools("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", features=[scheme])

    def complaints(self) -> list[str]:
        """Return what the console has got since the last call."""
        return [
            f"{entry['level']}: {entry['message']}"
            for entry in self._call("POST", "/se/log", {"type": "browser"})
            if entry["level"] in ("SEVERE", "WARNING")
        ]

    def screenshot(self, path: Path) -> None:
        """Write what can be seen, as PNG."""
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def close(self) -> None:
        """Close the window, and with it the browser."""
        self._call("DELETE", "")

    def _devtools(self, command: str, **parameters: object) -> None:
        self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, method=method)
        try:
            with _LOCAL.open(request, timeout=PATIENCE_S + 5) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser; at the end nothing of it is left, neither process nor file."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        environment = {**os.environ, "HOME": profile, "XDG_CONFIG_HOME": profile}
        driver = subprocess.Popen(
            ["chromedriver", "--port=0"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
            start_new_session=True,
        )  # fmt: skip
        try:
            assert driver.stdout is not None
            port = next(
                int(found[1])
                for line in driver.stdout
                if (found := re.search(r"successfully on port (\d+)", line))
            )
            window = Browser(port, f"{profile}/profile")
            try:
                yield window
            finally:
                window.close()
        finally:
            # All that it has started is in its session.
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
            if driver.stdout is not None:
                driver.stdout.close()
            _wait_for_the_end_of(profile)


def processes_of(profile: str) -> list[int]:
    """Return the processes that have a profile in their command line."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if profile.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def _wait_for_the_end_of(profile: str) -> None:
    """Wait until the system has taken away what was killed; it takes a moment."""
    until = time.monotonic() + PATIENCE_S
    while (left := processes_of(profile)) and time.monotonic() < until:
        for number in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.01)
