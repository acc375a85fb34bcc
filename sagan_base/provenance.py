"""Where a result comes from: seed, versions, source revision, machine kind and command line, stored beside it."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "torch-fidelity", "numpy", "scipy", "safetensors", "triton", "ylg")


@dataclass(frozen=True)
class Git:
    """The source: its revision, and whether tracked files differ from it; None where there is no checkout."""

    revision: str | None
    dirty: bool | None

    @property
    def short(self) -> str:
        """12 digits of the revision, or "unknown"."""
        return (self.revision or "unknown")[:12]


@dataclass(frozen=True)
class Machine:
    """Kind of processor and accelerator, and the number of threads that PyTorch uses."""

    system: str
    cpu: str
    cores: int | None
    threads: int
    gpu: str | None = None
    gpus: int = 0
    cuda: str | None = None

    @property
    def kind(self) -> str:
        """What did the work."""
        return self.gpu or f"{self.cores or '?'} cores of {self.cpu}"

    @property
    def threading(self) -> str:
        """ "1 thread", "4 threads"."""
        return f"{self.threads} thread{'s' * (self.threads > 1)}"


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from. No host or user names, so that results can be published as they are.

    Attributes:
        started: UTC, ISO 8601.
        command: as a person would type it again in the repository.
        versions: of Python and of each installed package that takes part in a result.
    """

    seed: int | None
    started: str
    command: str
    versions: dict[str, str]
    git: Git
    machine: Machine


def provenance(seed: int | None = None) -> dict[str, Any]:
    """``Provenance`` of this process as plain JSON types."""
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return asdict(Provenance(seed, started, command_line(), versions(), git_revision(), machine_kind()))


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
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@lru_cache(maxsize=1)
def git_revision() -> Git:
    """Of the source that runs, where it lies in a checkout of its own."""
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
    return Git(revision, None if status is None else bool(status))


def machine_kind() -> Machine:
    """The machine that this process runs on."""
    gpu = ()
    if torch.cuda.is_available():
        gpu = (torch.cuda.get_device_name(), torch.cuda.device_count(), torch.version.cuda)
    system = f"{platform.system()} {platform.machine()}"
    return Machine(system, _cpu_model(), os.cpu_count(), torch.get_num_threads(), *gpu)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
