"""Decode many picture files once, into a compact memory-mapped array that later runs open at once.

Threads do the work: Pillow releases the interpreter's lock while it decodes and resamples, every thread writes its
own rows of the shared array, and nothing has to be pickled or forked. A killed run goes on where it stopped:
each finished chunk of files is marked in a small file beside the array.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from sagan_base.data_sources.listing import Listing
from sagan_base.data_sources.pictures import RESIZE_RULE, quiet_decoding, read_square
from sagan_base.files import CACHE, atomic_write, kept, writable_folder, write_json
from sagan_base.typed import from_dict, read_json

SMALL_FILES, SMALL_BYTES = 2000, 64 << 20  # up to both, decoding takes a second or two, so nothing is kept
CHUNK = 256  # files a thread takes at a time, and what a kill can cost


@dataclass(frozen=True)
class Facts:
    """What is kept beside pixels: their hex SHA-256, and whether the channels of every picture are equal."""

    digest: str
    is_grey: bool


@dataclass(frozen=True)
class Decoded:
    """Pictures of one size: uint8 [N, channels, resolution, resolution]."""

    pixels: np.ndarray
    facts: Facts


def decode(listing: Listing, resolution: int, channels: int, cache: Path, progress: bool = True) -> Decoded:
    """The listing's pictures in memory where they are few, and memory-mapped from ``cache`` otherwise.

    The kept file's name holds a hash of the paths, sizes, modification times and labels, of the size and of the resize
    rule, so a changed folder is decoded anew. Several processes may call this at once: one decodes, the others wait.

    Raises:
        ValueError: a file is no readable image.
    """
    shape = (len(listing.files), channels, resolution, resolution)
    states = [_state(file) for file in listing.files]
    if len(states) <= SMALL_FILES and sum(state.st_size for state in states) <= SMALL_BYTES:
        pixels = np.empty(shape, np.uint8)
        _decode_rows(listing, pixels, np.zeros(_num_chunks(listing), np.uint8), progress=False)
        return Decoded(pixels, _examine(pixels))
    name = f"{listing.root.name[:40]}-{resolution}x{resolution}x{channels}-{_key(listing, states, shape)}"
    path = cache / "images" / f"{name}.npy"
    beside = path.with_suffix(".json")
    writable_folder(CACHE, path.parent)
    with FileLock(f"{path}.lock"):
        pixels = kept(
            path, lambda path: _unchanged(path, beside, shape), lambda: _decode_into(path, listing, shape, progress)
        )
        facts = kept(
            beside,
            lambda path: from_dict(Facts, read_json(path)),
            lambda: write_json(beside, asdict(_examine(pixels))),
        )
    return Decoded(pixels, facts)


def _unchanged(path: Path, beside: Path, shape: tuple[int, ...]) -> np.memmap:
    """The kept pixels; where somebody wrote them after their facts, only if these are still true."""
    # Copy-on-write: torch wants a writable array, and nothing it writes reaches the file.
    pixels = _mapped(path, "c", shape)
    if beside.is_file() and beside.stat().st_mtime_ns < path.stat().st_mtime_ns:
        if _examine(pixels) != from_dict(Facts, read_json(beside)):
            beside.unlink()
            raise ValueError(f"{path} does not hold what was decoded")
        os.utime(beside)
    return pixels


def _mapped(path: Path, mode: str, shape: tuple[int, ...]) -> np.memmap:
    pixels = np.lib.format.open_memmap(path, mode)
    if (pixels.shape, pixels.dtype) != (shape, np.uint8):
        raise ValueError(f"{path} holds {pixels.dtype} {pixels.shape}, not {shape}")
    return pixels


def _decode_into(path: Path, listing: Listing, shape: tuple[int, ...], progress: bool) -> None:
    unfinished, marks = path.with_suffix(".unfinished.npy"), path.with_suffix(".finished_chunks")

    def begin() -> None:
        with atomic_write(unfinished) as temporary:
            np.lib.format.open_memmap(temporary, "w+", np.uint8, shape).flush()
        with atomic_write(marks) as temporary:
            temporary.write_bytes(bytes(_num_chunks(listing)))

    if not marks.is_file() or marks.stat().st_size != _num_chunks(listing):
        begin()
    pixels = kept(unfinished, lambda path: _mapped(path, "r+", shape), begin)
    _decode_rows(listing, pixels, np.memmap(marks, np.uint8, "r+"), progress)
    pixels.flush()
    os.replace(unfinished, path)
    marks.unlink()


def _decode_rows(listing: Listing, pixels: np.ndarray, finished: np.ndarray, progress: bool) -> None:
    """Fill the rows of every chunk that is not yet marked in ``finished``, and mark it."""

    def decode_chunk(chunk: int) -> int:
        rows = range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(listing.files)))
        for row in rows:
            pixels[row] = read_square(listing.files[row], pixels.shape[-1], pixels.shape[1])
        if isinstance(pixels, np.memmap):
            pixels.flush()  # the mark must not reach the disk before what it promises
        finished[chunk] = 1
        return len(rows)

    missing = np.flatnonzero(finished == 0).tolist()
    done = len(listing.files) - len(missing) * CHUNK
    with (
        quiet_decoding(),
        tqdm(
            total=len(listing.files), initial=max(0, done), unit="image", desc="decoding", disable=not progress
        ) as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        jobs = [pool.submit(decode_chunk, chunk) for chunk in missing]
        try:
            for job in as_completed(jobs):
                bar.update(job.result())
        finally:
            pool.shutdown(cancel_futures=True)


def _num_chunks(listing: Listing) -> int:
    return -(-len(listing.files) // CHUNK)


def _examine(pixels: np.ndarray) -> Facts:
    digest, is_grey = hashlib.sha256(), True
    for start in range(0, len(pixels), CHUNK):
        part = pixels[start : start + CHUNK]
        digest.update(part)
        is_grey = is_grey and bool((part == part[:, :1]).all())
    return Facts(digest.hexdigest(), is_grey)


def _state(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as error:
        reason = "it is a link to nothing" if file.is_symlink() else error.strerror
        raise ValueError(f"{file} cannot be read ({reason}); remove it, or put the image there") from None


def _key(listing: Listing, states: list[os.stat_result], shape: tuple[int, ...]) -> str:
    digest = hashlib.sha256(json.dumps([shape, RESIZE_RULE, listing.class_names]).encode())
    for file, state, label in zip(listing.files, states, listing.labels, strict=True):
        digest.update(f"{file.relative_to(listing.root)}\0{state.st_size}\0{state.st_mtime_ns}\0{label}\n".encode())
    return digest.hexdigest()[:16]
