"""Annotations are checked in every test (conftest.py): calls that only they can catch are refused."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
from annotations import unchecked
from jaxtyping import TypeCheckError

from jaxseg import losses, metrics
from jaxseg.losses import targets
from jaxseg.models import layers

SCORES, IDS = np.zeros((2, 4, 6, 3), np.float32), np.zeros((2, 4, 6), np.int32)
# Each of these runs to its end without the check, and its value means nothing.
MISTAKES = {
    "a loss of one pixel, without a batch": lambda: losses.dice_loss(SCORES[0, 0, 0], IDS[0, 0, 0, ...]),
    "a loss of a mask for logits": lambda: losses.dice_loss(SCORES > 0, IDS),
    "weights that are broadcast over another axis": lambda: targets.weighted_mean(
        jnp.asarray(SCORES[..., 0]), jnp.ones((2, 4, 1))
    ),
    "a transposed label map": lambda: metrics.dice(IDS[0], IDS[0].T, num_classes=3),
    "truth of another rank": lambda: metrics.roc_area(SCORES[0, ..., 0], (IDS[0] > 0).ravel()),
    "a fraction for a number of channels": lambda: layers.Conv(features=8.5, kernel=(3, 3)),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_what_only_annotations_catch(mistake):
    with pytest.raises(TypeCheckError):
        mistake()
    with unchecked():
        mistake()


def test_the_check_covers_every_module():
    """None was imported before the hook, in this worker either."""
    loaders = {name: type(module.__loader__).__name__ for name, module in sys.modules.items() if "jaxseg." in name}
    assert set(loaders.values()) == {"_JaxtypingLoader"}, loaders
