"""Shared fixtures: the authors' reference data, where it lies beside the checkout."""

from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

# A busy machine is not a bug: an example may take as long as it needs.
settings.register_profile("ylg", deadline=None)
settings.load_profile("ylg")


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout; tests that need it are skipped where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("no ../shared/golden beside the checkout: the authors' reference data is not here")
    return folder
