"""Fixtures shared by every law."""

import pathlib

import pytest


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of development data beside the checkout; tests that need it are skipped where it is absent."""
    path = pathlib.Path(__file__).resolve().parents[2] / "shared"
    if not path.is_dir():
        pytest.skip("the development data folder ../shared is not here")
    return path
