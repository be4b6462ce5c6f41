"""The game of two players by hand: losses at zero, when they count, what is judged, and whose gradient goes where."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rivals

from jaxseg.tasks import players
from jaxseg.tasks.players import Pair, Rules

KEY = jax.random.key(3)
TWO = math.log(2.0)


def images(count=2, *, size=(4, 6), channels=1, seed=0):
    return jax.random.normal(jax.random.key(seed), (count, *size, channels))


def pair(count=2, **options):
    return Pair(images(count, **options), images(count, seed=1), None, jnp.arange(count))


def constant(real, made, *, size=(2, 3)):
    return Pair(jnp.full((1, *size, 1), real), jnp.full((1, *size, 1), made), None, jnp.arange(1))


def judging(judge, given, rules, *, count=1):
    variables = judge.init(KEY, given.real)
    return players.discriminator_loss(judge, variables, given, KEY, rules, count=jnp.int32(count))


def making(judge, given, rules, *, count=1):
    variables = judge.init(KEY, given.real)
    return players.adversarial_loss(judge, variables, given, KEY, rules, count=jnp.int32(count))


@pytest.mark.parametrize(
    ("loss", "judged", "fooled", "real", "fake"),
    [
        ("hinge", 2.0, 0.0, 0.0, 0.0),
        ("least_squares", 0.5, 1.0, 0.0, 1.0),  # its middle is 1/2: all is taken for made
        ("logistic", TWO, TWO, 0.0, 0.0),
        ("relativistic", TWO, TWO, 0.0, 0.0),
    ],
)
@pytest.mark.parametrize("scales", [1, 2])
def test_a_judge_that_says_zero(loss, judged, fooled, real, fake, scales):
    judge = rivals.Judge(weight=0.0, scales=scales)
    value, figures, updated = judging(judge, pair(), Rules(loss=loss))
    assert float(value) == float(figures["loss/discriminator"]) == pytest.approx(judged)
    assert (float(figures["accuracy/real"]), float(figures["accuracy/fake"])) == (real, fake)
    assert float(updated["spectral"]["calls"]) == 1
    value, figures = making(judge, pair(), Rules(loss=loss))
    assert float(value) == float(figures["loss/adversarial"]) == pytest.approx(fooled)


def test_accuracies_are_shares_of_patches():
    real = jnp.array([0.2, 0.6, -1.0, 0.4, 0.7, 2.0]).reshape(1, 2, 3, 1)
    given = Pair(real, real - 0.3, None, jnp.arange(1))  # made: -0.1, 0.3, -1.3, 0.1, 0.4, 1.7
    for loss, right, wrong in (("hinge", 5, 2), ("logistic", 5, 2), ("least_squares", 3, 5)):
        _, figures, _ = judging(rivals.Judge(), given, Rules(loss=loss))
        assert float(figures["accuracy/real"]) == pytest.approx(right / 6)
        assert float(figures["accuracy/fake"]) == pytest.approx(wrong / 6)
    # against the other half's mean: real ones above 0.1833, made ones below 0.4833
    _, figures, _ = judging(rivals.Judge(), given, Rules(loss="relativistic"))
    assert float(figures["accuracy/real"]) == pytest.approx(5 / 6)
    assert float(figures["accuracy/fake"]) == pytest.approx(5 / 6)


@pytest.mark.parametrize("start", [0, 1, 3])
def test_the_adversarial_part_counts_after_so_many_lessons(start):
    given = constant(1.0, -0.5)  # hinge: fooled 0.5; features: 1.5 apart
    rules = Rules(weight=3.0, start=start, feature_matching=10.0)
    for count in range(5):
        value, figures = making(rivals.Judge(), given, rules, count=count)
        assert float(value) == pytest.approx(3 * 0.5 + 10 * 1.5 if count > start else 0.0)
        assert float(figures["loss/adversarial"]) == 0.5 and float(figures["loss/feature_matching"]) == 1.5


def test_nothing_matches_features_that_are_not_asked_for():
    value, figures = making(rivals.Judge(), constant(1.0, -0.5), Rules())
    assert float(value) == 0.5 and set(figures) == {"loss/adversarial"}


@pytest.mark.parametrize("condition", [False, True])
def test_the_penalty_is_sixteen_times_as_heavy_every_sixteenth_time(condition):
    given = pair()
    channels = 1
    if condition:
        given, channels = given._replace(condition=images(seed=5, channels=2)), 3
    judge, rules = rivals.Judge(weight=4.0), Rules(loss="logistic", gradient_penalty=0.5)
    plain, *_ = judging(judge, given, rules._replace(gradient_penalty=0.0))
    learn = jax.jit(lambda count: judging(judge, given, rules, count=count)[:2])
    # the answer is the mean over 24 pixels of 4 times the mean over channels; the gradient by the image alone counts
    heavy = 16 * 0.5 / 2 * 24 * (4 / 24 / channels) ** 2
    for count in (0, 1, 15, 16, 17, 32):
        value, figures = learn(count)
        expected = heavy if count % 16 == 0 else 0.0
        assert float(figures["loss/gradient_penalty"]) == pytest.approx(expected)
        assert float(value - plain) == pytest.approx(expected, abs=1e-5)
        assert float(figures["loss/discriminator"]) == pytest.approx(float(plain))


def test_no_gradient_of_the_judge_reaches_what_was_made():
    judge, given = rivals.Judge(), pair()
    rules = Rules(loss="relativistic", gradient_penalty=1.0, augment=BRIGHTER)

    @jax.jit
    def gradients(real, made):
        lesson = jax.grad(lambda *both: judging(judge, Pair(*both, None, given.places), rules, count=16)[0], (0, 1))
        return lesson(real, made), jax.grad(lambda made: making(judge, given._replace(made=made), rules)[0])(made)

    (real, made), own = gradients(given.real, given.made)
    assert not np.any(real) and not np.any(made)
    assert np.all(np.asarray(own) != 0)


BRIGHTER = {"brightness": 0.5, "translation": 0.0, "cutout": 0.0}
MOVED = {"brightness": 0.0, "translation": 0.25, "cutout": 0.3}


def shown(given, augment):
    """What the judge is shown of (real, made) images."""
    judge = rivals.Judge()

    @jax.jit
    def look(given):
        judged = players.judge(judge, judge.init(KEY, given.real), given, KEY, Rules(augment=augment), train=False)
        return judged.real_features[0][0], judged.made_features[0][0]

    return tuple(map(np.asarray, look(given)))


def test_both_halves_are_augmented_by_draws_of_their_own():
    same = images()
    given = Pair(same, same, None, jnp.arange(2))
    for half in shown(given, {}):
        np.testing.assert_array_equal(half, same)
    moved = np.stack([half - same for half in shown(given, BRIGHTER)]).reshape(4, -1)
    np.testing.assert_allclose(moved, np.broadcast_to(moved[:, :1], moved.shape), atol=1e-6)  # one number an image
    assert len(np.unique(np.round(moved[:, 0], 4))) == 4 and np.abs(moved).max() <= 0.5


def test_a_condition_is_moved_and_cut_as_its_image_but_not_brightened():
    same = images(3, size=(8, 12)) + 5.0  # nowhere 0
    given = Pair(same, same, same, jnp.arange(3))
    real, made = shown(given, MOVED | {"brightness": 0.5})
    assert not np.array_equal(real[..., 0], made[..., 0])  # the halves' draws differ
    for half in (real, made):
        blank = half[..., 0] == 0
        np.testing.assert_array_equal(blank, half[..., 1] == 0)
        assert 0.05 < blank.mean() < 0.8
        for cut, (condition, image) in zip(blank, np.moveaxis(half, -1, 1)):
            shift = (image - condition)[~cut]
            np.testing.assert_allclose(shift, shift[0], atol=1e-5)
            assert 1e-4 < abs(shift[0]) <= 0.5


def test_a_draw_depends_on_the_place_and_not_on_the_batch():
    given = pair(4)
    whole = shown(given, MOVED | {"brightness": 0.5})
    part = shown(Pair(given.real[2:], given.made[2:], None, given.places[2:]), MOVED | {"brightness": 0.5})
    for half, rows in zip(part, whole):
        np.testing.assert_array_equal(half, rows[2:])
    vectors = players.per_sample(KEY, jnp.arange(4), 5)
    np.testing.assert_array_equal(players.per_sample(KEY, jnp.array([2, 0]), 5), vectors[jnp.array([2, 0])])
    assert vectors.shape == (4, 5) and len(np.unique(vectors)) == 20
    assert players.per_sample(KEY, jnp.arange(4), 0).shape == (4, 0)


def test_diversity_is_spread_over_spread():
    base = jnp.array([0.0, 2.0]).reshape(2, 1, 1, 1) * jnp.ones((2, 2, 3, 1))
    assert float(players.diversity(base * 0.25, base)["diversity"]) == pytest.approx(0.25)
    assert float(players.diversity(base * 0, base)["diversity"]) == 0.0
    assert np.isfinite(players.diversity(base, base * 0)["diversity"])
    assert players.diversity(base[:1], base[:1]) == {}


def test_every_array_counts_alike_in_a_mean_of_trees():
    made = {"a": jnp.zeros((1, 1)), "b": jnp.zeros((10, 10))}
    true = {"a": jnp.full((1, 1), -4.0), "b": jnp.ones((10, 10))}
    assert float(players.mean_absolute(made, true)) == 2.5


@pytest.mark.parametrize(("rules", "rows"), [({}, 2), ({"loss": "relativistic"}, 4), ({"feature_matching": 1.0}, 4)])
def test_real_images_are_judged_for_the_maker_only_where_they_are_compared_with(rules, rows):
    """And what the judge says of made ones is the same either way, with the same draws."""
    draw = np.random.default_rng(0)
    real, made = (jnp.asarray(draw.normal(size=(2, 6, 4, 1)), jnp.float32) for _ in range(2))
    pair, judge = Pair(real, made, None, jnp.arange(2)), rivals.Judge()
    options = {"train": False}
    own = judge.init(KEY, real)
    game = Rules(**rules, augment=BRIGHTER)
    players.adversarial_loss(judge, own, pair, KEY, game, count=jnp.int32(1))
    assert len(judge.shown[-1]) == rows
    whole, part = (players.judge(judge, own, pair, KEY, game, alone=alone, **options) for alone in (False, True))
    np.testing.assert_array_equal(whole.made[0], part.made[0])
    assert len(part.real[0]) == 0
