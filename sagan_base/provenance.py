"""Where a result comes from: seed, versions, source revision, machine kind and command line, stored beside it."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "torch-fidelity", "numpy", "scipy", "safetensors", "triton", "ylg")


def provenance(seed: int | None = None) -> dict[str, Any]:
    """Plain JSON types: seed, started (UTC), command, versions, git revision (and whether files differ), machine.

    Holds no host or user names, so that results can be published as they are.
    """
    return {
        "seed": seed,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(),
        "versions": versions(),
        "git": dict(git_revision()),
        "machine": machine_kind(),
    }


def command_line() -> str:
    """The command as a person would type it again in the repository.

    Absolute paths say where somebody keeps files, so they are shortened: to what lies below the repository or the
    working folder, or else to their last part.
    """
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = sys.argv[0] if sys.argv and sys.argv[0] else "-"
    if main is not None:
        words = ["-m", main.name.removesuffix(".__main__")]
    else:
        words = [_shortened(str(Path(program).resolve()) if Path(program).is_file() else program)]
    return shlex.join(["python", *words, *(_shortened(word) for word in sys.argv[1:])])


def _shortened(word: str) -> str:
    """A word of a command line, or the path after its "=" or ":", without the folders that are the user's own."""
    for mark in ("=", ":"):
        before, found, path = word.partition(mark)
        if found and Path(path).is_absolute():
            return before + mark + _shortened(path)
    if not Path(word).is_absolute():
        return word
    for root in (Path(__file__).resolve().parents[1], Path.cwd().resolve()):
        if Path(word).is_relative_to(root) and Path(word) != root:
            return Path(word).relative_to(root).as_posix()
    return Path(word).name


def versions() -> dict[str, str]:
    """Version of Python and of each installed package that takes part in a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)
def git_revision() -> tuple[tuple[str, Any], ...]:
    """Pairs ("revision", hex or None) and ("dirty", whether tracked files differ from it, or None)."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    tracked = git("ls-files", "--error-unmatch", __file__)  # an installed copy may lie inside some other repository
    revision = git("rev-parse", "HEAD") if tracked is not None else None
    status = git("status", "--porcelain", "--untracked-files=no") if revision else None
    return ("revision", revision), ("dirty", None if status is None else bool(status))


def machine_kind() -> dict[str, Any]:
    """Kind of processor and accelerator, and the number of threads that PyTorch uses."""
    kind: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        kind["gpu"] = torch.cuda.get_device_name()
        kind["gpus"] = torch.cuda.device_count()
        kind["cuda"] = torch.version.cuda
    return kind


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
