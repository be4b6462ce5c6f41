"""Stacking by hand, against scikit-learn, and by what it is for: it finds the member that knows, and shows leakage."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annotations import unchecked
from numpy.testing import assert_allclose, assert_array_equal

from jaxseg import ensemble, models
from jaxseg.ensemble import Logistic

CLASSES, MEMBERS = 3, 2
SHAPE, CASES = (10, 16), 6  # 960 pixels of 6 features, as in the golden file: one program of fit_logistic serves all
PIXELS = CASES * SHAPE[0] * SHAPE[1]


def random_labels(*shape, seed=0):
    return np.random.default_rng(seed).integers(CLASSES, size=shape).astype(np.int32)


def probabilities_of(votes, *, sure=0.9):
    """`sure` for the class voted for, the rest for the others alike."""
    other = (1 - sure) / (CLASSES - 1)
    return np.where(votes[..., None] == np.arange(CLASSES), sure, other).astype(np.float32)


def random_probabilities(*shape, seed):
    return np.random.default_rng(seed).dirichlet(np.ones(CLASSES), size=shape).astype(np.float32)


def honest(labels, *, seed, right=0.7):
    """A member that gives the true class to this share of the pixels, on any case, and else a random one."""
    known = np.random.default_rng(seed).random(labels.shape) < right
    return probabilities_of(np.where(known, labels, random_labels(*labels.shape, seed=seed + 1)), sure=0.8)


def accuracy(logistic, features, labels):
    return float(np.mean(np.argmax(features @ np.asarray(logistic.kernel) + np.asarray(logistic.bias), -1) == labels))


@pytest.fixture(scope="module")
def recorded(golden):
    with np.load(golden / "stacking_logistic.npz") as file:
        return dict(file)


def test_features_by_hand():
    one, two = np.float32([[0.5, 0.25, 0.25]]), np.float32([[0.0, 1.0, 0.0]])
    low = np.log(1e-4)
    expected = [[2 * np.log(2) / 3, -np.log(2) / 3, -np.log(2) / 3, low / 3, -2 * low / 3, low / 3]]
    assert_allclose(ensemble.member_features([one, two]), expected, rtol=1e-5)
    assert_allclose(ensemble.member_features([two], floor=0.5), np.log(0.5) * np.float32([[1, -2, 1]]) / 3, rtol=1e-5)


def test_features_come_member_by_member_and_carry_no_constant():
    one, two = (random_probabilities(2, 4, 5, seed=seed) for seed in (1, 2))
    features = ensemble.member_features([one, two])
    assert isinstance(features, np.ndarray) and features.shape == (2, 4, 5, 6) and features.dtype == np.float32
    assert_array_equal(np.roll(features, 3, axis=-1), ensemble.member_features([two, one]))
    assert_allclose(features, ensemble.member_features([one / 2, two], floor=1e-6), atol=1e-5)
    on_device = jax.jit(lambda *members: ensemble.member_features(members))(one, two)
    assert isinstance(on_device, jax.Array)
    assert_allclose(on_device, features, atol=1e-5)
    assert_array_equal(ensemble.member_features([np.full((2, 3), 0.25, np.float32)]), np.zeros((2, 3)))


def test_members_that_do_not_fit_are_told():
    one = random_probabilities(4, seed=0)
    with pytest.raises(ValueError, match="at least one member, got none"):
        ensemble.member_features([])
    with pytest.raises(ValueError, match=r"one shape, got \(4, 3\) and \(3, 3\)"):
        ensemble.member_features([one, one[1:]])
    with pytest.raises(ValueError, match=r"floor should lie between 0 and 1, not 0\.0"):
        ensemble.member_features([one], floor=0.0)


def test_a_sample_is_stratified_and_its_weights_undo_that():
    labels = np.repeat(np.int16([0, 1, 2, -1]), (40, 9, 3, 8)).reshape(5, 12)
    features = np.stack([labels, np.arange(60).reshape(5, 12)], axis=-1).astype(np.float32)
    drawn = ensemble.sample(features, labels, per_class=5, seed=3)
    assert drawn.features.shape == (5 + 5 + 3, 2)
    assert_array_equal(drawn.features[:, 0], drawn.labels)  # a pixel keeps its label, and none is ignored
    assert len(np.unique(drawn.features[:, 1])) == 13
    assert_allclose(np.bincount(drawn.labels, drawn.weights), [40, 9, 3], rtol=1e-6)
    again, other = (ensemble.sample(features, labels, per_class=5, seed=seed) for seed in (3, 4))
    assert_array_equal(drawn.features, again.features)
    assert not np.array_equal(drawn.features, other.features)


def test_weighted_sums_are_right_on_average():
    labels, features = random_labels(60, seed=1), np.random.default_rng(2).normal(size=(60, 2)).astype(np.float32)
    draws = [ensemble.sample(features, labels, per_class=6, seed=seed) for seed in range(400)]
    sums = np.stack([drawn.weights @ drawn.features for drawn in draws])
    error = sums.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(sums.mean(axis=0) - features.sum(axis=0)) < 4 * error).all()


def test_a_case_without_counted_pixels_gives_none():
    drawn = ensemble.sample(np.ones((2, 3, 4), np.float32), np.full((2, 3), -1), per_class=5, seed=0)
    assert [len(part) for part in drawn] == [0, 0, 0]


def test_samples_that_cannot_be_are_told():
    features = np.ones((2, 3, 4), np.float32)
    with unchecked(), pytest.raises(ValueError, match=r"pixels of the features, \(2, 3\); got \(3, 2\)"):
        ensemble.sample(features, np.zeros((3, 2), int), per_class=5, seed=0)
    with pytest.raises(ValueError, match="per_class should be 1 or more, not 0"):
        ensemble.sample(features, np.zeros((2, 3), int), per_class=0, seed=0)
    with pytest.raises(ValueError, match="one is -2"):
        ensemble.sample(features, np.full((2, 3), -2), per_class=5, seed=0)


@pytest.mark.parametrize("name", ("weighted", "plain"))
def test_logistic_regression_is_that_of_scikit_learn(recorded, name):
    weights = recorded["weights"] if name == "weighted" else None
    options = {"num_classes": CLASSES, "l2": float(recorded[f"{name}_l2"]), "sample_weights": weights}
    found = ensemble.fit_logistic(recorded["features"], recorded["labels"], **options)
    bias = recorded[f"{name}_bias"]
    assert_allclose(found.kernel, recorded[f"{name}_kernel"], atol=3e-4)
    assert_allclose(found.bias, bias - bias.mean(), atol=3e-4)
    # From there on nothing is left to do, and without a step the fit is where it starts, standardised and back.
    for max_steps in (0, 500):
        again = ensemble.fit_logistic(
            recorded["features"], recorded["labels"], initial=found, max_steps=max_steps, **options
        )
        assert_allclose(again.kernel, found.kernel, atol=1e-4)
        assert_allclose(again.bias, found.bias, atol=1e-4)


def test_order_and_rows_of_no_weight_do_not_matter(recorded):
    features, labels = recorded["features"].copy(), recorded["labels"].copy()
    weights = np.where(np.arange(PIXELS) < 700, recorded["weights"], 0).astype(np.float32)
    one = ensemble.fit_logistic(features, labels, num_classes=CLASSES, l2=1e-2, sample_weights=weights)
    features[700:], labels[700:] = 9, 2
    order = np.random.default_rng(0).permutation(PIXELS)
    two = ensemble.fit_logistic(
        features[order], labels[order], num_classes=CLASSES, l2=1e-2, sample_weights=weights[order]
    )
    assert_allclose(one.kernel, two.kernel, atol=1e-4)
    assert np.abs(one.kernel - recorded["weighted_kernel"]).max() > 1e-3  # those rows did count before


def test_fits_that_cannot_be_are_told():
    rows, ids = np.ones((4, 2), np.float32), np.int32([0, 1, 2, 0])
    fit = functools.partial(ensemble.fit_logistic, num_classes=3)
    with pytest.raises(ValueError, match="got 0 rows, 0 labels"):
        fit(rows[:0], ids[:0])
    with pytest.raises(ValueError, match=r"from 0 to 2; they go from -1 to 2 .*leaves pixels of -1 out"):
        fit(rows, ids - np.int32([1, 0, 0, 0]))
    with pytest.raises(ValueError, match="they go from 0 to 3"):
        fit(rows, np.int32([0, 1, 2, 3]))
    with pytest.raises(ValueError, match="features should be finite"):
        fit(rows * np.float32(np.inf), ids)
    for weights in ([1, 1, -1, 1], [0, 0, 0, 0]):
        with pytest.raises(ValueError, match="non-negative, finite, and not all zero"):
            fit(rows, ids, sample_weights=np.float32(weights))
    with pytest.raises(ValueError, match=r"l2 should be 0 or more, not -1\.0"):
        fit(rows, ids, l2=-1.0)
    with pytest.raises(ValueError, match=r"initial should hold a kernel \(2, 3\)"):
        fit(rows, ids, initial=Logistic(np.zeros((3, 3), np.float32), np.zeros(3, np.float32)))


def test_shares_of_influence_by_hand():
    kernel = np.zeros((6, 3), np.float32)
    kernel[0], kernel[3] = [2, -1, -1], [2, -1, -1]
    even = np.ones(6, np.float32)
    assert_allclose(ensemble.member_weights(kernel, members=2, scale=even), [0.5, 0.5])
    # A feature that hardly varies has little say; a constant over classes, or over a member's inputs, has none.
    assert_allclose(ensemble.member_weights(kernel, members=2, scale=np.repeat([3.0, 1.0], 3)), [0.75, 0.25])
    kernel[:3] = [[4, 0, 1]] * 3
    assert_allclose(ensemble.member_weights(kernel, members=2, scale=even), [0, 1], atol=1e-7)
    assert_allclose(ensemble.member_weights(0 * kernel, members=3, scale=even), np.full(3, 1 / 3))
    with pytest.raises(ValueError, match="6 rows should divide evenly among the members; there are 4"):
        ensemble.member_weights(kernel, members=4, scale=even)
    with unchecked(), pytest.raises(ValueError, match="each of 6 features, not 5"):
        ensemble.member_weights(kernel, members=2, scale=even[:5])


def test_only_the_member_that_knows_has_weight():
    labels = random_labels(PIXELS)
    members = [honest(labels, seed=1), random_probabilities(PIXELS, seed=5)]
    for order, place in ((members, 0), (members[::-1], 1)):
        features = ensemble.member_features(order)
        found = ensemble.fit_logistic(features, labels, num_classes=CLASSES, l2=1e-2)
        shares = ensemble.member_weights(found.kernel, members=MEMBERS, scale=features.std(axis=0))
        assert shares[place] > 0.9 and shares.sum() == pytest.approx(1)


FOLDS = [((2, 3, 4, 5), (0, 1)), ((0, 1, 4, 5), (2, 3)), ((0, 1, 2, 3), (4, 5))]


def memorising_fit(labels):
    """Fits a member that knows the labels of its training cases by heart, and guesses on all others."""

    def fit(train):
        def predict(index):
            votes = labels[index] if index in train else random_labels(*SHAPE, seed=100 + index)
            return probabilities_of(votes)

        return predict

    return fit


def stack_of(memorised, labels):
    """Fits on an honest member beside the memorising one; returns the fit, its accuracy, the memoriser's share."""
    features = features_of(memorised, labels)
    found = ensemble.fit_logistic(features, labels.reshape(-1), num_classes=CLASSES, l2=1e-2)
    share = ensemble.member_weights(found.kernel, members=MEMBERS, scale=features.std(axis=0))[1]
    return found, accuracy(found, features, labels.reshape(-1)), share


def features_of(memorised, labels):
    features = ensemble.member_features([honest(labels, seed=1), np.stack(memorised)])
    return features.reshape(-1, features.shape[-1])


def test_leakage_is_seen_in_fold_and_gone_out_of_fold():
    labels, unseen = random_labels(CASES, *SHAPE), random_labels(CASES, *SHAPE, seed=9)
    fit = memorising_fit(labels)
    final = fit(tuple(range(CASES)))
    leaking, leaking_score, leaking_share = stack_of([final(index) for index in range(CASES)], labels)
    clean, clean_score, clean_share = stack_of(ensemble.out_of_fold(fit, FOLDS, range(CASES)), labels)
    # On unseen cases (indices from 100 on) the memorising member, trained on all, guesses.
    features = features_of([final(100 + index) for index in range(CASES)], unseen)
    leaking_held_out, clean_held_out = (accuracy(fit, features, unseen.reshape(-1)) for fit in (leaking, clean))
    # Forty members that did nothing but guess had shares from 0.03 to 0.15 of such a fit.
    assert leaking_share > 0.7 and clean_share < 0.16
    assert leaking_score == 1 and leaking_held_out < 0.45  # a third by chance
    assert clean_held_out > 0.75 and abs(clean_score - clean_held_out) < 0.06  # the honest member: 0.7 + 0.3 / 3


def test_a_case_has_no_part_in_its_own_features():
    generator = np.random.default_rng(3)
    labels = random_labels(CASES, *SHAPE)
    images = labels + generator.normal(scale=0.5, size=labels.shape)

    def features_with(labels):
        def fit(train):
            means = [np.mean([images[i][labels[i] == k].mean() for i in train]) for k in range(CLASSES)]

            def predict(image):
                scores = np.exp(-np.square(image[..., None] - np.array(means)))
                return (scores / scores.sum(axis=-1, keepdims=True)).astype(np.float32)

            return predict

        return ensemble.member_features([np.stack(ensemble.out_of_fold(fit, FOLDS, list(images)))])

    shuffled = labels.copy()
    shuffled[2] = generator.permutation(labels[2].reshape(-1)).reshape(SHAPE)
    one, two = features_with(labels), features_with(shuffled)
    assert_array_equal(one[2], two[2])
    assert_array_equal(one[3], two[3])  # of the same fold
    assert all(np.abs(one[index] - two[index]).max() > 1e-3 for index in (0, 1, 4, 5))


@pytest.mark.parametrize(
    "folds, subjects, message",
    [
        (FOLDS[:2], None, r"out exactly once; they do not for \[4, 5\]"),
        ([*FOLDS, FOLDS[0]], None, r"out exactly once; they do not for \[0, 1\]"),
        ([*FOLDS[:2], ((0, 1), (4, 5, 6))], None, r"out exactly once; they do not for \[6\]"),
        ([*FOLDS[:2], ((0, 1, 4), (4, 5))], None, "Fold 2 trains on what it holds out: 4"),
        ([*FOLDS[:2], ((0, 7), (4, 5))], None, r"Fold 2 trains on \[7\]; the inputs go from 0 to 5"),
        ([*FOLDS[:2], ((), (4, 5))], None, "Fold 2 has nothing to train on"),
        (FOLDS, ("a", "a", "b", "b", "c", "a"), "Fold 0 trains on what it holds out: a"),
        (FOLDS, ("a", "a"), "one for each of 6 inputs, not 2"),
    ],
)
def test_folds_that_leak_or_miss_are_told(folds, subjects, message):
    def fit(train):
        raise AssertionError("nothing may be fitted")

    with pytest.raises(ValueError, match=message):
        ensemble.out_of_fold(fit, folds, range(CASES), subjects=subjects)


def test_subjects_that_stay_together_are_fine():
    def fit(train):
        return lambda text: (train, text)

    for subjects in (("a", "a", "b", "b", "c", "c"), ("",) * 6):
        found = ensemble.out_of_fold(fit, FOLDS, "uvwxyz", subjects=subjects)
        assert found[0] == ((2, 3, 4, 5), "u") and found[5] == ((0, 1, 2, 3), "z")


def applied(name, params, **fields):
    return functools.partial(models.create(name, num_classes=CLASSES, **fields).apply, {"params": params})


@pytest.mark.parametrize("shape", ((2, 4, 5), (1, 2, 3, 4)))
def test_the_network_logistic_is_the_fit(shape, recorded):
    logistic = Logistic(*(recorded[f"plain_{part}"].astype(np.float32) for part in ("kernel", "bias")))
    features = np.random.default_rng(0).normal(size=(*shape, 6)).astype(np.float32)
    ndim = len(shape) - 1
    logits, _ = applied("logistic", ensemble.as_params(logistic, ndim=ndim), ndim=ndim)(jnp.asarray(features))
    assert_allclose(logits, features @ logistic.kernel + logistic.bias, atol=1e-5)


def test_one_perfect_member_is_left_alone():
    labels = random_labels(CASES, *SHAPE)
    perfect, silent = probabilities_of(labels), np.full((*labels.shape, CLASSES), 1 / CLASSES, np.float32)
    features = ensemble.member_features([perfect, silent]).reshape(-1, 6)
    found = ensemble.fit_logistic(features, labels.reshape(-1), num_classes=CLASSES)
    assert_allclose(found.kernel[3:], 0, atol=1e-6)  # so the first three rows are the fit of one member
    alone = Logistic(found.kernel[:3], found.bias)
    probs = ensemble.stacked([lambda image: perfect], applied("logistic", ensemble.as_params(alone)))(
        labels[..., None] * 1.0
    )
    assert_array_equal(probs.argmax(axis=-1), perfect.argmax(axis=-1))


def test_stacked_is_the_same_under_jit_and_by_numpy():
    def soft(image):
        return jax.nn.softmax(image * jnp.arange(3.0), axis=-1)

    def sharp(image):
        return jax.nn.softmax(jnp.sin(9 * image) * jnp.float32([3, -9, 6]), axis=-1)

    generator = np.random.default_rng(4)
    logistic = Logistic(*(generator.normal(size=size).astype(np.float32) for size in ((6, 3), 3)))
    image = generator.normal(size=(2, 4, 5, 1)).astype(np.float32)
    predict = ensemble.stacked([soft, sharp], applied("logistic", ensemble.as_params(logistic)), floor=1e-2)
    members = [np.clip(np.asarray(member(image), np.float64), 1e-2, None) for member in (soft, sharp)]
    logs = [np.log(member) - np.log(member).mean(axis=-1, keepdims=True) for member in members]
    scores = np.exp(np.concatenate(logs, axis=-1) @ logistic.kernel + logistic.bias)
    assert_allclose(predict(image), scores / scores.sum(axis=-1, keepdims=True), atol=1e-5)
    assert_allclose(jax.jit(predict)(image), predict(image), atol=1e-6)
    with pytest.raises(ValueError, match="at least one predictor, got none"):
        ensemble.stacked([], applied("logistic", ensemble.as_params(logistic)))


@pytest.fixture(scope="module")
def crops():
    """Left and right halves, of which one noisy member gives most pixels right: neighbours tell more than a pixel."""
    labels = np.zeros((CASES, *SHAPE), np.int32)
    for number in range(CASES):
        labels[number, :, 5 + number :] = 1
    members = [honest(labels, seed=1), random_probabilities(*labels.shape, seed=5)]
    features = ensemble.member_features(members)
    return features, labels, ensemble.fit_logistic(features.reshape(-1, 6), labels.reshape(-1), num_classes=CLASSES)


def right(params, features, labels):
    logits, _ = applied("stacking_conv", params, features=4)(jnp.asarray(features))
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


FIT_CONV = {"num_classes": CLASSES, "ndim": 2, "features": 4}


def test_the_convolution_begins_as_the_logistic_fit_and_learns_from_neighbours(crops):
    features, labels, logistic = crops
    fit = functools.partial(ensemble.fit_conv, jax.random.key(0), features, labels, steps=100, **FIT_CONV)
    start = fit(learning_rate=0.0)
    logits, aux = applied("stacking_conv", start, features=4)(jnp.asarray(features))
    assert_allclose(logits, features @ np.asarray(logistic.kernel) + np.asarray(logistic.bias), atol=1e-4)
    assert_array_equal(logits, aux["logistic"])
    assert right(fit(learning_rate=3e-2), features, labels) > right(start, features, labels) + 0.05


def test_ignored_pixels_teach_nothing(crops):
    features, labels, logistic = crops
    ignored = labels.copy()
    ignored[4:] = -1
    other = features.copy()
    other[4:] = 7
    options = {"steps": 100, "initial": logistic, **FIT_CONV}
    one, two, all_count = (
        ensemble.fit_conv(jax.random.key(0), *given, **options)
        for given in ((features, ignored), (other, ignored), (features, labels))
    )
    jax.tree.map(functools.partial(assert_allclose, atol=1e-5), one, two)
    assert np.abs(one["head"]["kernel"] - all_count["head"]["kernel"]).max() > 1e-3


def test_crops_that_do_not_fit_are_told(crops):
    features, labels, _ = crops
    with pytest.raises(ValueError, match=r"ndim=3 takes crops \(n, \*P, F\) of 5 axes"):
        ensemble.fit_conv(jax.random.key(0), features, labels, num_classes=CLASSES, ndim=3)
    with pytest.raises(ValueError, match="got 0 rows"):
        ensemble.fit_conv(jax.random.key(0), features, np.full_like(labels, -1), **FIT_CONV)
