"""Means of weights, soups and paths between networks, on trees small enough to work out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import ensemble


def tree(seed, *, steps=7):
    generator = np.random.default_rng(seed)
    return {
        "conv": {"kernel": jnp.asarray(generator.normal(size=(2, 3)), jnp.float32)},
        "norm": {"half": jnp.asarray(generator.normal(size=4), jnp.bfloat16), "steps": jnp.int32(steps)},
    }


def points(*values):
    return [{"at": jnp.asarray(value, jnp.float32)} for value in values]


def assert_trees_close(found, expected, rtol=1e-6):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(np.asarray(one, np.float64), np.asarray(other, np.float64), rtol=rtol, atol=1e-7)


def test_mean_by_hand():
    trees = [{"a": jnp.array([1.0, 2.0]), "b": (jnp.array(3.0),)}, {"a": jnp.array([5.0, 8.0]), "b": (jnp.array(7.0),)}]
    assert_trees_close(ensemble.average_weights(trees), {"a": jnp.array([3.0, 5.0]), "b": (jnp.array(5.0),)})
    weighted = ensemble.average_weights(trees, shares=[3, 1])
    assert_trees_close(weighted, {"a": jnp.array([2.0, 3.5]), "b": (jnp.array(4.0),)})


def test_dtypes_are_kept_and_sums_are_float32():
    # In bfloat16 256 + 1 is 256: summed in it, these would come to 256 / 4 = 64.
    halves = [{"a": jnp.asarray([value], jnp.bfloat16)} for value in (256.0, 1.0, 1.0, 1.0)]
    mean = ensemble.average_weights(halves)["a"]
    assert mean.dtype == jnp.bfloat16 and float(mean[0]) == float(jnp.bfloat16(259 / 4)) != 64.0
    thirds = [{"a": jnp.asarray(value, jnp.bfloat16)} for value in (190.0, 2.0, 2.0)]
    assert float(ensemble.average_weights(thirds)["a"]) == 64.5  # 65 if 190 / 3 were rounded to bfloat16 before
    found = ensemble.average_weights([tree(0), tree(1)])
    assert found["norm"]["steps"].dtype == jnp.int32 and int(found["norm"]["steps"]) == 7


def test_laws_of_the_mean():
    one, two, three = tree(0), tree(1), tree(2)
    assert_trees_close(ensemble.average_weights([one]), one, rtol=0)
    assert_trees_close(ensemble.average_weights([one, two, three], shares=[0, 1, 0]), two, rtol=0)
    assert_trees_close(ensemble.average_weights([one, two, two]), ensemble.average_weights([one, two], shares=[1, 2]))
    mean = ensemble.average_weights([one, two, three])["conv"]["kernel"]
    expected = np.mean([np.asarray(each["conv"]["kernel"], np.float64) for each in (one, two, three)], axis=0)
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-7)
    compiled = jax.jit(lambda first, second: ensemble.average_weights([first, second]))(one, two)
    assert_trees_close(compiled, ensemble.average_weights([one, two]), rtol=1e-5)


def test_running_mean_equals_the_mean():
    trees = [tree(seed) for seed in range(5)]
    running, add = ensemble.start_running(trees[0]), jax.jit(ensemble.update_running)
    assert running.mean["norm"]["half"].dtype == jnp.float32
    for each in trees[1:]:
        running = add(running, each)
    assert int(running.number) == 5 and int(running.mean["norm"]["steps"]) == 7
    expected = ensemble.average_weights(trees)
    found = ensemble.finish_running(running, trees[0])
    np.testing.assert_allclose(found["conv"]["kernel"], expected["conv"]["kernel"], rtol=1e-5, atol=1e-6)
    assert_trees_close(found["norm"], expected["norm"], rtol=2**-8)  # one unit in the last place of bfloat16


@pytest.mark.parametrize(
    "other, message",
    [
        ({"conv": tree(1)["conv"]}, "'norm/half' is in tree 0, not in 1"),
        ({**tree(1), "head": jnp.ones(2)}, "'head' is in tree 1, not in 0"),
        ({**tree(1), "conv": {"kernel": jnp.ones((3, 2))}}, r"'conv/kernel' .* \(2, 3\) in tree 0, \(3, 2\) in 1"),
        ({**tree(1), "conv": {"kernel": jnp.ones((2, 3), int)}}, "'conv/kernel' .* float32 in tree 0, int32 in 1"),
        (tree(1, steps=8), "'norm/steps' holds integers"),
    ],
)
def test_the_first_odd_leaf_is_named(other, message):
    def never(_):
        raise AssertionError("A score was asked for before the trees were checked.")

    for call in (
        lambda: ensemble.average_weights([tree(0), other]),
        lambda: ensemble.update_running(ensemble.start_running(tree(0)), other),
        lambda: ensemble.finish_running(ensemble.start_running(tree(0)), other),
        lambda: ensemble.greedy_soup(never, [tree(0), other]),
        lambda: ensemble.interpolation_path(never, tree(0), other),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_equal_names_in_other_containers_are_told():
    with pytest.raises(ValueError, match="same containers"):
        ensemble.average_weights([{"a": (jnp.ones(2),)}, {"a": [jnp.ones(2)]}])


@pytest.mark.parametrize("shares", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")]])
def test_bad_shares_are_told(shares):
    with pytest.raises(ValueError, match="shares should be 2 non-negative"):
        ensemble.average_weights(points(0.0, 1.0), shares=shares)
    with pytest.raises(ValueError, match="at least one tree"):
        ensemble.average_weights([])


def scorer(target):
    """A score that falls with the distance from a target, and the list of the places where it was asked for."""
    asked = []

    def score(at):
        asked.append(float(at["at"]))
        return -abs(float(at["at"]) - target)

    return score, asked


def test_greedy_soup_by_hand():
    score, asked = scorer(0.0)
    trees = points(6.0, -2.0, 1.0, 4.0)
    found = ensemble.greedy_soup(score, trees)
    # Best first: 1, then -2 (mean -0.5, better), 4 (mean 1, worse), 6 (mean 5 / 3, worse).
    assert found.chosen == (2, 1) and float(found.tree["at"]) == -0.5
    assert found.own == (-6.0, -2.0, -1.0, -4.0)
    assert found.scores == (pytest.approx(-5 / 3), -0.5, -1.0, -1.0)
    np.testing.assert_allclose(asked, [6, -2, 1, 4, -0.5, 1, 5 / 3], rtol=1e-6)
    assert_trees_close(found.tree, ensemble.average_weights([trees[place] for place in found.chosen]))


def test_an_ingredient_that_changes_nothing_stays():
    score, _ = scorer(0.0)
    assert ensemble.greedy_soup(score, points(2.0, 2.0, 5.0)).chosen == (0, 1)


def test_greedy_soup_in_a_given_order():
    score, asked = scorer(0.0)
    found = ensemble.greedy_soup(score, points(6.0, -2.0, 1.0, 4.0), order=[0, 3, 1])
    assert found.chosen == (0, 3, 1) and asked == [6.0, 5.0, pytest.approx(8 / 3)]
    assert np.isnan(found.scores[2]) and np.isnan(found.own[1:]).all() and found.own[0] == -6.0
    for order in ([0, 0], [4], [-1], []):
        with pytest.raises(ValueError, match="order should hold places from 0 to 3"):
            ensemble.greedy_soup(score, points(6.0, -2.0, 1.0, 4.0), order=order)


def test_scores_that_are_no_numbers_are_never_chosen():
    def score(at):  # beyond 3 training diverged; means below 1 do too
        return float("nan") if not 1 <= float(at["at"]) <= 3 else float(at["at"])

    trees = points(9.0, 1.0, 3.0, 5.0)
    found = ensemble.greedy_soup(score, trees)
    assert found.chosen == (2,) and float(found.tree["at"]) == 3.0
    assert np.isnan(found.scores[0]) and np.isnan(found.scores[3]) and found.scores[1] == 2.0
    assert ensemble.greedy_soup(score, trees, order=[0, 1, 3]).chosen == (1, 3)
    assert ensemble.greedy_soup(score, trees, order=[2, 0]).chosen == (2,)  # their mean, 6, is no number
    with pytest.raises(ValueError, match="No tree has a score"):
        ensemble.greedy_soup(score, points(9.0, 5.0))


def test_path_by_hand():
    first, second = points(0.0, 4.0)
    score = {0.0: 1.0, 1.0: 0.5, 2.0: 0.4, 3.0: 0.75, 4.0: 0.6}
    found = ensemble.interpolation_path(lambda at: score[float(at["at"])], first, second)
    np.testing.assert_allclose(found.positions, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(found.scores, [1.0, 0.5, 0.4, 0.75, 0.6])
    assert found.barrier == pytest.approx(0.8 - 0.4)  # below the line from 1.0 to 0.6, not below their mean


def test_barrier_is_no_less_than_zero_and_tells_of_nan():
    first, second = points(0.0, 4.0)
    hill, valley = (lambda at: -((float(at["at"]) - 2) ** 2)), (lambda at: (float(at["at"]) - 2) ** 2)
    assert ensemble.interpolation_path(hill, first, second).barrier == 0.0
    assert ensemble.interpolation_path(valley, first, second, points=3).barrier == 4.0
    assert ensemble.interpolation_path(valley, first, second, points=2).barrier == 0.0
    assert ensemble.interpolation_path(valley, second, first).barrier == 4.0
    for odd in (0, 2, 4):
        scores = iter([1.0] * odd + [np.nan] + [1.0] * (4 - odd))
        assert np.isnan(ensemble.interpolation_path(lambda _, scores=scores: next(scores), first, second).barrier)
    assert np.isnan(ensemble.interpolation_path(lambda _: np.nan, first, second, points=2).barrier)
    with pytest.raises(ValueError, match="points should be 2 or more"):
        ensemble.interpolation_path(hill, first, second, points=1)
