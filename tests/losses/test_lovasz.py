from functools import partial

import jax
import numpy as np
import pytest
from scipy import special

from jaxseg import losses

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(size=(2, 5, 8, 4)).astype(np.float32)
LABELS = RNG.integers(0, 3, (2, 5, 8))  # class 3 is absent


def by_definition(errors, truth):
    """Sum over the sorted errors of the growth of the Jaccard set function."""
    order = np.argsort(-errors, kind="stable")
    total, before = 0.0, 0.0
    for count in range(1, len(order) + 1):
        wrong = np.zeros(len(order), bool)
        wrong[order[:count]] = True
        jaccard = 1 - (truth & ~wrong).sum() / (truth | wrong).sum()
        total += errors[order[count - 1]] * (jaccard - before)
        before = jaccard
    return total


@pytest.mark.parametrize("classes", ["present", "all"])
def test_equals_the_definition(classes):
    labels = LABELS.copy()
    labels[0, 2] = -1
    probs, expected = special.softmax(LOGITS.astype(np.float64), axis=-1), []
    for prob, label in zip(probs, labels):
        kept = label >= 0
        values = [
            by_definition(np.abs((label == k)[kept] - prob[kept, k]), (label == k)[kept])
            for k in range(4)
            if classes == "all" or (label == k).any()
        ]
        expected.append(np.mean(values))
    found = jax.jit(partial(losses.lovasz_softmax_loss, ignore_label=-1, classes=classes))(LOGITS, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_hard_predictions_give_one_minus_iou():
    guess = RNG.integers(0, 3, (2, 5, 8))
    found = jax.jit(losses.lovasz_softmax_loss)(60.0 * np.eye(4, dtype=np.float32)[guess], LABELS)
    iou = [
        np.mean([((g == k) & (t == k)).sum() / ((g == k) | (t == k)).sum() for k in range(3)])
        for g, t in zip(guess, LABELS)
    ]
    np.testing.assert_allclose(found, 1 - np.array(iou), rtol=1e-5)


def test_unknown_class_choice_is_refused():
    with pytest.raises(ValueError, match="'present' or 'all'"):
        losses.lovasz_softmax_loss(LOGITS, LABELS, classes="some")
