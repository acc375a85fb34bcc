"""Shared fixtures: the authors' reference data, where it lies beside the checkout."""

import gc
import os
import signal
from pathlib import Path

# The tests' tensors are tiny: a second thread costs more than it gives, and on a busy machine very much more.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

# Without a GPU, kernels run in Triton's interpreter; it asks once, when it is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A job in the background ignores Ctrl-C and one of nohup SIGHUP, and so would the commands that tests start and signal.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

REPOSITORY = Path(__file__).resolve().parents[1]

# A busy machine is not a bug: an example may take as long as it needs.
settings.register_profile("ylg", deadline=None)
settings.load_profile("ylg")


def pytest_collection_finish() -> None:
    """What was imported is no garbage: to look through it again and again took a third of some tests' time."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu(request):
    """Whatever the machine has, what compares bits or single steps compares those of a CPU; ylg's tests use the GPU."""
    if request.path.parent.name == "ylg":
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")  # for the commands that tests start
        yield


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """The part of the authors' reference data that every clone has; see its README.md."""
    return REPOSITORY / "tests" / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of all reference data beside the checkout; tests that need it are skipped where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("no ../shared/golden beside the checkout: the authors' reference data is not here")
    return folder
