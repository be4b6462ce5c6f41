"""Fixtures shared by all rooms: golden values, real data, and a small persistent compilation cache."""

import importlib.util
import os
import pathlib

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
# Most of the time goes into compiling what runs once: LLVM's optimisations are left out, in the commands that tests
# start as well. `JAX_DISABLE_MOST_OPTIMIZATIONS=0` has them, as users do; so have the tests on real data in CI.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0":
    # The older way to make machine code of an operation, and one piece of code a program: a quarter of the time.
    quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    if quick not in os.environ.get("XLA_FLAGS", ""):  # a worker has it from the process that started it
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}".strip()
# Every annotation of jaxseg, shapes included, is checked while the tests run. Each xdist worker loads this file before
# any test imports jaxseg; commands that a test starts as processes of their own run unchecked, as users run them.
# As in type checkers an int may stand for a float. Of a sequence the first item is checked: the same one in every run.
TYPECHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True, is_random=False))"
install_import_hook("jaxseg", TYPECHECKER)
GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """The folder of reference values recorded from independent implementations."""
    return GOLDEN


@pytest.fixture(scope="session")
def seeded():
    """The module that fills a network's parameters and inputs from their names."""
    return _golden_module("seeded_weights")


@pytest.fixture(scope="session")
def made():
    """The script that made the golden folders of nnU-Net; its plans and images need no PyTorch."""
    return _golden_module("make_nnunet_folder")


def _golden_module(name: str):
    spec = importlib.util.spec_from_file_location(name, GOLDEN / f"{name}.py")
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
