"""The benchmarks are scripts that import each other from their own folder."""

import importlib

import pytest


@pytest.fixture(scope="module")
def benchmark(request, repository):
    """The script that the test module is named after: test_masks.py tests benchmarks/masks.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "benchmarks"))
        yield importlib.import_module(request.path.stem.removeprefix("test_"))
