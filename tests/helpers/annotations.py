"""The annotations of jaxseg are checked in the tests (see conftest.py); some tests want to see what comes without."""

import contextlib
from collections.abc import Iterator

import jaxtyping


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Switches the check off, for a call that is wrong on purpose: its own sentence, which users get, should come."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
