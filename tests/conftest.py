"""Fixtures shared by all rooms: golden values, real data, and a small persistent compilation cache."""

import importlib.util
import os
import pathlib

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """The folder of reference values recorded from independent implementations."""
    return GOLDEN


@pytest.fixture(scope="session")
def seeded():
    """The module that fills a network's parameters and inputs from their names."""
    spec = importlib.util.spec_from_file_location("seeded_weights", GOLDEN / "seeded_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def data_root() -> pathlib.Path:
    """The real data; the environment variable JAXSEG_DATA names the folder."""
    root = os.environ.get("JAXSEG_DATA")
    if not root:
        pytest.skip("JAXSEG_DATA is not set")
    return pathlib.Path(root)
