"""Files that are either whole or absent: write beside the target, then rename. Everything here is written by these.

``write_text``, ``write_json`` and ``save_image`` for what people read; ``atomic_write`` for what a library writes.
"""

import errno
import json
import os
import platform
import re
import stat
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from safetensors import SafetensorError

T = TypeVar("T")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tabs and ends of lines
CACHE = "--cache or YLG_CACHE"  # who chooses the place of what is kept
# Names of temporary files say who writes them, before the number of the process: machines may share a folder.
_OWNER = f"by-{re.sub('[^A-Za-z0-9]', '', platform.node())[:40]}-"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success it replaces ``path``, on failure it is removed.

    The folder is created where missing. The bytes are flushed to disk before the rename, so that after a
    crash of the machine the name points at the old file or the new one, never at a part of it.

    Raises:
        OSError: it cannot be written; names ``path``.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target.parent)
        check_target(target)
        handle, name = tempfile.mkstemp(target.suffix, f".{target.name[:30]}.{_OWNER}{os.getpid()}-", target.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner can read
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except (OSError, SafetensorError) as error:
        raise OSError(f"{target} cannot be written ({getattr(error, 'strerror', None) or error})") from error


def check_target(target: Path) -> None:
    """What ``atomic_write`` refuses of a name.

    Raises:
        OSError: no file can have this name, or a folder or a device has it, which must stay.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(target.stat().st_mode):
            raise FileExistsError(errno.EEXIST, "something that is no file has this name", str(target))


@cache
def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of processes of this machine that were killed; once a folder and process."""
    for path in folder.glob(f".*.{_OWNER}*"):
        process = path.name.rpartition(_OWNER)[2].partition("-")[0]
        if process.isdecimal() and not _is_running(int(process)):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


def writable_folder(option: str, folder: Path, keep: bool = True) -> None:
    """Make ``folder`` where it is not there yet, and see that it takes files, before long work whose results it gets.

    Args:
        keep: False leaves no folder behind that was not there, because more may have to be refused.
    Raises:
        ValueError: nothing can be written there; names ``option``, which gave it.
    """
    if folder.parts[:1] and folder.parts[0].startswith("~"):  # that a shell or ``user_path`` left
        raise ValueError(f"{option}: {folder} names a home that is not known here; give another place")
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for path in made if not keep else ():
            path.rmdir()
    except OSError as error:
        reason = "it is a file" if isinstance(error, (FileExistsError, NotADirectoryError)) else error.strerror
        raise ValueError(f"{option}: nothing can be written into {folder} ({reason}); give another place") from None


def is_text(name: str) -> bool:
    """Whether a name can stand in a text: UTF-8, and nothing that moves a terminal's cursor or changes its colours."""
    return name.encode(errors="replace").decode() == name and not CONTROLS.search(name)


def check_name(name: str) -> None:
    """Raises ValueError for a name that is no text, because tables and pages would have to show it."""
    if not is_text(name):
        raise ValueError(f"the name of {name!r} is not UTF-8, or holds control characters; rename it")


def user_path(path: str | Path) -> Path:
    """The path with its ~ or ~user replaced; unchanged where there is no such user, so that no such file is found."""
    return Path(os.path.expanduser(path))


def kept(path: Path, read: Callable[[Path], T], make: Callable[[], None]) -> T:
    """What ``read`` finds in a cache's file, which ``make`` writes where it is missing; a damaged one is made again."""
    if path.exists():
        try:
            return read(path)
        except Exception as error:  # every format has errors of its own, and none of them must stay for ever
            print(f"note: {path} is damaged ({type(error).__name__}) and is made again", file=sys.stderr)
    writable_folder(CACHE, path.parent)
    make()
    return read(path)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz, by name; objects, which could run code, are refused.

    Raises:
        ValueError: the file is missing, no .npz, damaged, or claims more than there is memory.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}")
    try:
        if not zipfile.is_zipfile(path):  # of what is none, NumPy says only that it may be unsafe to load
            raise ValueError("it is no zip archive")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # of damaged archives, zipfile and NumPy raise nearly anything
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} cannot be read as an .npz of plain arrays ({reason}); save it again") from error


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8, with the line ends it has."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON value, a line for each of its parts, so that two versions compare line by line."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def save_image(path: str | Path, image: Image.Image, **options: Any) -> None:
    """Write a Pillow image in the format of the name's suffix; ``options`` are those of ``Image.save``."""
    with atomic_write(path) as temporary:
        image.save(temporary, **options)
