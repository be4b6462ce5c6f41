"""Sets of features by hand-sized truth and by law."""

import numpy as np
import pytest
from annotations import unchecked

from jaxseg import evaluate, metrics
from jaxseg.evaluate.set_quality import reachable
from jaxseg.typing import UserError


def features(n, *, seed, shift=0.0, f=3):
    return np.random.default_rng(seed).normal(size=(n, f)) + shift


def test_by_hand():
    """Training images one unit apart; made ones beside two of them, a copy of the third."""
    train = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    made = np.array([[0.0, 0.5], [2.0, 0.25], [1.0, 0.0], [0.0, 2.0]])
    real = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [1.0, 3.0]])
    found = evaluate.compare_sets(real, made, train, pairs=3)
    assert found["memorisation"] == pytest.approx(0.375)
    assert (found["memorisation_lowest"], found["memorisation_real"]) == (0.0, 1.0)
    assert found["nearest"] == [
        {"made": 2, "train": 1, "distance": 0.0, "ratio": 0.0},
        {"made": 1, "train": 2, "distance": 0.25, "ratio": 0.25},
        {"made": 0, "train": 0, "distance": 0.5, "ratio": 0.5},
    ]
    assert (found["n_real"], found["n_made"], found["n_train"]) == (4, 4, 3)
    # Means (0.75, 0.6875) and (1, 1.5); the figures themselves have tests of their own.
    assert found["frechet"] == metrics.frechet_distance(made, real)
    assert found["frechet"] >= 0.25**2 + 0.8125**2
    assert found["kernel"] == metrics.kernel_distance(made, real)


def test_reachable_of_one_feature_by_hand():
    """Real values 0, 1, 2, 3 have three halvings; in one dimension the distance is the means' and the spreads'."""
    real, made = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([[10.0], [12.0]])
    spread = np.sqrt(0.5)
    by_half = {
        (0, 1): 2.0**2, (2, 3): 2.0**2,  # means 0.5 and 2.5, equal spreads
        (0, 2): 1.0, (1, 3): 1.0,
        (0, 3): (3 * spread - spread) ** 2, (1, 2): (3 * spread - spread) ** 2,  # means are equal
    }  # fmt: skip
    found = reachable(real, made, splits=4000)
    assert found["n"] == 2
    assert found["frechet"] == pytest.approx(np.mean(list(by_half.values())), rel=0.05)
    to_made = {half: (11 - np.mean(half)) ** 2 + ((half[1] - half[0]) * spread - 2 * spread) ** 2 for half in by_half}
    assert found["frechet_made"] == pytest.approx(np.mean(list(to_made.values())), rel=0.02)


def test_a_perfect_generator_reaches_what_is_reachable_and_a_shifted_one_does_not():
    real, train = features(200, seed=0), features(150, seed=1)
    perfect = evaluate.compare_sets(real, features(200, seed=2), train)
    shifted = evaluate.compare_sets(real, features(200, seed=3, shift=1.0), train)
    best = perfect["reachable"]
    assert best["n"] == 100 and best["frechet_made"] < 2.5 * best["frechet"]
    assert shifted["reachable"]["frechet_made"] > 20 * best["frechet"]
    assert shifted["reachable"]["frechet"] == best["frechet"], "of the real images alone"
    assert abs(best["kernel"]) < 0.3 < shifted["kernel"]
    assert perfect["frechet"] < best["frechet_made"], "the more images, the smaller: only equal numbers compare"


def test_fewer_made_images_set_the_size_of_every_side():
    found = reachable(features(20, seed=0), features(4, seed=1))
    assert found["n"] == 4


def test_the_same_seed_gives_the_same_numbers():
    real, made = features(21, seed=0), features(30, seed=1)
    assert reachable(real, made, seed=5) == reachable(real, made, seed=5)
    assert reachable(real, made, seed=5) != reachable(real, made, seed=6)
    assert reachable(real, made)["n"] == 10


def test_copies_are_found():
    train = features(30, seed=1)
    found = evaluate.compare_sets(features(10, seed=0), train[[7, 3]] + 1e-6, train)
    assert found["memorisation"] < 1e-4 and {pair["train"] for pair in found["nearest"]} == {3, 7}


def test_the_table_has_every_figure_beside_its_n():
    found = evaluate.compare_sets(features(12, seed=0), features(9, seed=2), features(8, seed=1))
    text = evaluate.set_table(found)
    assert "9 and 12 images" in text and "of 6 images a side" in text
    for value in (found["frechet"], found["kernel"], found["reachable"]["frechet_made"], found["memorisation"]):
        assert f"{value:.4g}" in text


@pytest.mark.parametrize(
    ("real", "made", "train", "words"),
    [
        (3, 5, 5, "4 images or more, and there are 3"),
        (6, 1, 5, "2 or more images"),
        (6, 5, 1, "two or more images"),
    ],
)
def test_too_few_images_are_named(real, made, train, words):
    with pytest.raises(UserError, match=words):
        evaluate.compare_sets(features(real, seed=0), features(made, seed=1), features(train, seed=2))


def test_other_features_are_refused():
    with unchecked(), pytest.raises(UserError, match="as many features"):
        evaluate.compare_sets(features(6, seed=0), features(6, seed=1, f=4), features(6, seed=2))
    with pytest.raises(UserError, match="once or more"):
        reachable(features(6, seed=0), features(6, seed=1), splits=0)
