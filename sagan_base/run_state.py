"""Where a run's folder stands: what a training there goes on from, or why it cannot; and that nobody else trains there.

What the folder's files are is in run_folder.py.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sagan_base.checkpoint import Checkpoint, Info, checkpoint_files, checkpoint_path, read_latest
from sagan_base.config import RunConfig
from sagan_base.data import ImageData
from sagan_base.run_folder import CHECKPOINT_FOLDER, CONFIG_FILE, experiment_problem, folder_problem, obstacle

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def read_run(out: Path, config: RunConfig, data: ImageData) -> tuple[str | None, Checkpoint | None]:
    """Why this run cannot be made in a folder, or None and the checkpoint that it goes on from (None: from nothing)."""
    steps, every, folder = config.training.steps, config.training.checkpoint_every, out / CHECKPOINT_FOLDER
    due = (checkpoint_path(folder, step) for step in {steps, *(range(every, steps, every) if every else ())})
    if problem := obstacle(out, due) or _occupation(out) or folder_problem(out / CONFIG_FILE, config, data):
        return problem, None
    _, newest = read_latest(folder) or (None, None)
    if newest is None and checkpoint_files(folder):
        return f"no checkpoint in {folder} can be read; delete them to start anew, or use another --out", None
    if newest is not None:
        if lacking := Info.__annotations__.keys() - newest.info.keys() - {"best"}:
            return f"the newest checkpoint in {folder} lacks {', '.join(sorted(lacking))}; delete it", None
        fingerprint = newest.info["data"]["fingerprint"]
        if problem := experiment_problem(folder, newest.config, fingerprint, config, data):
            return problem, None
        if (step := newest.info["step"]) > steps:
            return f"{out} holds {step} steps, more than --steps {steps}; give {step} or more, or another --out", None
    return None, newest


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Inside, nobody else trains in this folder, which is made; where its file system has no locks, that is hoped.

    Raises:
        OSError: somebody does.
    """
    out.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(out, os.O_RDONLY)  # locked by itself, it needs no file beside those of the run
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"another process trains in {out}; wait for its end, or use another --out") from None
        except OSError:
            pass
        yield
    finally:
        os.close(handle)


def _occupation(out: Path) -> str | None:
    if not out.is_dir():
        return None
    try:
        with alone_in(out):
            return None
    except OSError as error:
        return str(error)
