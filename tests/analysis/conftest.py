"""A headless Chromium driven over the W3C WebDriver protocol, in plain HTTP: no package needed."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1280,1400",
)  # fmt: skip
KEYS = {"ArrowLeft": "\ue012", "ArrowUp": "\ue013", "ArrowRight": "\ue014", "ArrowDown": "\ue015", "Escape": "\ue00c"}


def missing() -> str | None:
    """Why there is no browser here, or None."""
    absent = [name for name in ("chromedriver", "chromium") if shutil.which(name) is None]
    return f"no {' and no '.join(absent)} on this machine" if absent else None


class Browser:
    """One page at a time."""

    def __init__(self) -> None:
        self.profile = tempfile.mkdtemp(prefix="browser-")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self.profile},
        )  # fmt: skip
        self.base = f"http://127.0.0.1:{port}"
        self._wait_for_driver()
        options = {"args": [*ARGUMENTS, f"--user-data-dir={self.profile}/data"], "binary": shutil.which("chromium")}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.base += f"/session/{session['sessionId']}"

    def _wait_for_driver(self) -> None:
        for _ in range(200):
            try:
                self._call("GET", "/status")
                return
            except urllib.error.URLError:
                time.sleep(0.1)
        raise TimeoutError("chromedriver did not answer")

    def _call(self, method: str, path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        # An opener without proxies: the driver is on this machine.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path) -> None:
        """Show a file and wait until its script says that it is ready."""
        self._call("POST", "/url", {"url": page.as_uri()})
        for _ in range(300):
            if self.run("return document.body.dataset.ready === 'yes'"):
                return
            time.sleep(0.05)
        raise TimeoutError(f"{page} did not get ready: {self.messages()}")

    def run(self, script: str, *arguments):
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def point(self, x: float, y: float, click: bool = False) -> None:
        """Move the pointer to a place in the window, and press it there."""
        moves = [{"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}]
        if click:
            moves += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": moves}
        self._call("POST", "/actions", {"actions": [pointer]})

    def press(self, *keys: str) -> None:
        actions = []
        for key in keys:
            value = KEYS.get(key, key)
            actions += [{"type": "keyDown", "value": value}, {"type": "keyUp", "value": value}]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def messages(self) -> list[str]:
        """What the browser complained about since the last call."""
        entries = [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]
        return [text for text in entries if "willReadFrequently" not in text]  # advice on how a test reads pixels

    def close(self) -> None:
        try:
            self._call("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait(timeout=20)
            shutil.rmtree(self.profile, ignore_errors=True)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A running browser; tests that need it are skipped where there is none."""
    if reason := missing():
        pytest.skip(f"{reason}: pages cannot be tried")
    running = Browser()
    yield running
    running.close()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny untrained model of the digits whose attention layers do something."""
    import torch

    from sagan_base.checkpoint import build_networks, named_part, write_checkpoint
    from sagan_base.config import ModelConfig, RunConfig

    model = ModelConfig(
        16, image_channels=1, num_classes=10, latent_dim=8, generator_width=8, discriminator_width=8
    )  # fmt: skip
    config = RunConfig(model=model)
    generator, discriminator = build_networks(config)
    for network in (generator, discriminator):
        for layer in network.attention_layers().values():
            torch.nn.init.constant_(layer.gain, 0.5)
    tensors = named_part("ema", generator.state_dict()) | named_part("discriminator", discriminator.state_dict())
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    write_checkpoint(path, tensors, config, {"class_names": list("0123456789")})
    return path
