"""Decode many picture files once, into a compact memory-mapped array that later runs open at once.

Threads do the work: Pillow releases the interpreter's lock while it decodes and resamples, every thread writes its
own rows of the shared array, and nothing has to be pickled or forked. A killed run goes on where it stopped:
each finished chunk of files is marked in a small file beside the array.
"""

import hashlib
import json
import os
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from sagan_base.atomic import atomic_write
from sagan_base.data_sources.folder import Listing
from sagan_base.data_sources.pictures import RESIZE_RULE, quiet_decoding, read_square

SMALL = 2000  # fewer files than this are decoded in a second or two, so nothing is kept
CHUNK = 256  # files a thread takes at a time, and what a kill can cost


def decode(listing: Listing, resolution: int, channels: int, cache: Path, progress: bool = True) -> np.ndarray:
    """The listing's pictures as uint8 [N, channels, resolution, resolution], memory-mapped from ``cache``.

    The file's name holds a hash of the paths, sizes, modification times and labels, of the size and of the resize
    rule, so a changed folder is decoded anew. Several processes may call this at once: one decodes, the others wait.

    Raises:
        ValueError: a file is no readable image.
    """
    shape = (len(listing.files), channels, resolution, resolution)
    if len(listing.files) < SMALL:
        pixels = np.empty(shape, np.uint8)
        with quiet_decoding():
            for target, file in zip(pixels, listing.files, strict=True):
                target[:] = read_square(file, resolution, channels)
        return pixels
    path = cache / "images" / f"{listing.root.name}-{resolution}x{resolution}x{channels}-{_key(listing, shape)}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            _decode_into(path, listing, shape, progress)
    # Copy-on-write: torch wants a writable array, and nothing it writes reaches the file.
    return np.load(path, mmap_mode="c")


def _decode_into(path: Path, listing: Listing, shape: tuple[int, ...], progress: bool) -> None:
    unfinished, marks = path.with_suffix(".unfinished.npy"), path.with_suffix(".finished_chunks")
    chunks = range(0, len(listing.files), CHUNK)
    if not (unfinished.exists() and marks.exists() and marks.stat().st_size == len(chunks)):
        with atomic_write(unfinished) as temporary:
            np.lib.format.open_memmap(temporary, "w+", np.uint8, shape).flush()
        with atomic_write(marks) as temporary:
            temporary.write_bytes(bytes(len(chunks)))
    pixels = np.lib.format.open_memmap(unfinished, "r+")
    finished = np.memmap(marks, np.uint8, "r+")
    missing = [i for i in range(len(chunks)) if not finished[i]]

    def decode_chunk(i: int) -> int:
        rows = range(chunks[i], min(chunks[i] + CHUNK, len(listing.files)))
        for row in rows:
            pixels[row] = read_square(listing.files[row], shape[-1], shape[1])
        finished[i] = 1
        return len(rows)

    done = len(listing.files) - sum(min(CHUNK, len(listing.files) - chunks[i]) for i in missing)
    with (
        quiet_decoding(),
        tqdm(total=len(listing.files), initial=done, unit="image", desc="decoding", disable=not progress) as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        jobs = [pool.submit(decode_chunk, i) for i in missing]
        for job in jobs:
            job.add_done_callback(lambda job: bar.update(0 if job.cancelled() or job.exception() else job.result()))
        try:
            wait(jobs, return_when=FIRST_EXCEPTION)
        finally:
            pool.shutdown(cancel_futures=True)
        for job in jobs:
            if not job.cancelled():
                job.result()
    pixels.flush()
    os.replace(unfinished, path)
    marks.unlink()


def _key(listing: Listing, shape: tuple[int, ...]) -> str:
    digest = hashlib.sha256(json.dumps([shape, RESIZE_RULE, listing.class_names]).encode())
    for file, label in zip(listing.files, listing.labels, strict=True):
        state = file.stat()
        digest.update(f"{file.relative_to(listing.root)}\0{state.st_size}\0{state.st_mtime_ns}\0{label}\n".encode())
    return digest.hexdigest()[:16]
