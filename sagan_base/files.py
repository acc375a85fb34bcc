"""Files that are either whole or absent: write beside the target, then rename. Everything here is written by these.

``write_text``, ``write_json`` and ``save_image`` for what people read; ``atomic_write`` for what a library writes.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

T = TypeVar("T")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success it replaces ``path``, on failure it is removed.

    The folder is created where missing. The bytes are flushed to disk before the rename, so that after a
    crash of the machine the name points at the old file or the new one, never at a part of it.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
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


def kept(path: Path, read: Callable[[Path], T], make: Callable[[], None]) -> T:
    """What ``read`` finds in a cache's file, which ``make`` writes where it is missing; a damaged one is made again."""
    if path.exists():
        try:
            return read(path)
        except Exception as error:  # every format has errors of its own, and none of them must stay for ever
            print(f"note: {path} is damaged ({type(error).__name__}) and is made again", file=sys.stderr)
    make()
    return read(path)


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
