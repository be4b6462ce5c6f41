"""Image quality against scikit-image, scipy and sums by hand; features against closed forms and laws."""

import numpy as np
import pytest
import scipy.linalg
import skimage.exposure
import skimage.metrics
from annotations import unchecked

from jaxseg import metrics
from jaxseg.typing import UserError

SHAPES = [(17, 14, 1), (15, 19, 3), (12, 14, 11, 2)]


def pair(shape, seed=0):
    """A smooth image with an offset, and a noisy copy."""
    draw = np.random.default_rng(seed)
    true = 3 + np.cumsum(draw.normal(size=shape), axis=0)
    return true + draw.normal(size=shape), true


def features(n, f, *, seed, shift=0.0):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(n, f)) @ draw.normal(size=(f, f)) + shift


def test_by_hand():
    true = np.array([[[0.0], [1.0], [2.0]], [[3.0], [4.0], [5.0]]])
    predicted = true + np.array([[[1.0], [0.0], [0.0]], [[0.0], [-3.0], [0.0]]])
    mask = np.array([[True, False, False], [False, True, True]])
    assert metrics.mean_absolute_error(predicted, true) == pytest.approx(4 / 6)
    assert metrics.mean_absolute_error(predicted, true, mask=mask) == pytest.approx(4 / 3)
    assert metrics.peak_signal_to_noise(predicted, true, data_range=10) == pytest.approx(10 * np.log10(100 / (10 / 6)))
    masked = metrics.peak_signal_to_noise(predicted, true, data_range=10, mask=mask)
    assert masked == pytest.approx(10 * np.log10(100 / (10 / 3)))
    assert metrics.peak_signal_to_noise(true, true, data_range=5) == np.inf


def test_bytes_do_not_wrap():
    low, high = np.full((3, 4, 1), 2, np.uint8), np.full((3, 4, 1), 250, np.uint8)
    assert metrics.mean_absolute_error(low, high) == 248
    assert metrics.peak_signal_to_noise(low, high, data_range=255) == pytest.approx(20 * np.log10(255 / 248))


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_skimage(shape):
    predicted, true = pair(shape)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}
    expected = skimage.metrics.structural_similarity(predicted, true, data_range=9, **options)
    assert 0.05 < expected < 0.97
    assert metrics.structural_similarity(predicted, true, data_range=9) == pytest.approx(expected, abs=1e-9)
    decibels = skimage.metrics.peak_signal_noise_ratio(true, predicted, data_range=9)
    assert metrics.peak_signal_to_noise(predicted, true, data_range=9) == pytest.approx(decibels, abs=1e-9)


def test_similarity_with_another_sigma():
    predicted, true = pair((17, 14, 2))
    options = {"gaussian_weights": True, "sigma": 0.8, "use_sample_covariance": False, "channel_axis": -1}
    expected = skimage.metrics.structural_similarity(predicted, true, data_range=9, **options)
    assert metrics.structural_similarity(predicted, true, data_range=9, sigma=0.8) == pytest.approx(expected, abs=1e-9)


def test_similarity_in_a_mask():
    predicted, true = pair((15, 19, 3))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}
    _, full = skimage.metrics.structural_similarity(predicted, true, data_range=9, full=True, **options)
    mask = np.random.default_rng(1).random((15, 19)) < 0.3
    inside = np.zeros_like(mask)
    inside[5:-5, 5:-5] = mask[5:-5, 5:-5]  # windows that lie inside the image
    got = metrics.structural_similarity(predicted, true, data_range=9, mask=mask)
    assert got == pytest.approx(full[inside].mean(), abs=1e-9)
    assert got != pytest.approx(metrics.structural_similarity(predicted, true, data_range=9), abs=1e-3)


def test_laws_of_similarity():
    predicted, true = pair((13, 16, 2))
    score = metrics.structural_similarity(predicted, true, data_range=9)
    assert metrics.structural_similarity(true, true, data_range=9) == pytest.approx(1)
    assert metrics.structural_similarity(true, predicted, data_range=9) == pytest.approx(score)
    turned = [image.swapaxes(0, 1)[:, ::-1] for image in (predicted, true)]
    assert metrics.structural_similarity(*turned, data_range=9) == pytest.approx(score)
    assert metrics.structural_similarity(2 * predicted, 2 * true, data_range=18) == pytest.approx(score)
    noisier = true + 2 * (predicted - true)
    assert metrics.structural_similarity(noisier, true, data_range=9) < score - 0.05


@pytest.mark.parametrize("integers", [False, True])
def test_histograms_equal_skimage(integers):
    draw = np.random.default_rng(0)
    source, reference = draw.normal(size=(9, 7, 2)) * 40, draw.gamma(2, 30, size=(6, 11, 5, 2))
    if integers:  # ties, and gaps in the reference's values
        source, reference = source.clip(0).astype(np.uint8), (reference // 16 * 16).clip(0, 240).astype(np.uint8)
    got = metrics.histogram_matching(source, reference)
    expected = skimage.exposure.match_histograms(source, reference.reshape(-1, 5, 2), channel_axis=-1)
    if integers:  # skimage gives the source's type back
        expected = expected.astype(np.float64)
        np.testing.assert_array_equal(got.astype(np.uint8), expected)
    else:
        np.testing.assert_allclose(got, expected, atol=1e-12)
    for channel in range(2):
        order = np.argsort(source[..., channel], axis=None, kind="stable")
        assert (np.diff(got[..., channel].ravel()[order]) >= 0).all()


def test_histogram_of_itself():
    image = np.random.default_rng(0).normal(size=(5, 4, 3))
    np.testing.assert_allclose(metrics.histogram_matching(image, image), image, atol=1e-12)
    shuffled = np.random.default_rng(1).permutation(image.reshape(-1, 3)).reshape(4, 5, 3)
    np.testing.assert_allclose(metrics.histogram_matching(image * 7 - 2, shuffled), image, atol=1e-12)


def reference_frechet(a, b):
    """The paper's formula with scipy's matrix square root."""
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second).real
    shift = a.mean(axis=0) - b.mean(axis=0)
    return shift @ shift + np.trace(first + second - 2 * root)


def test_frechet_equals_matrix_root():
    a, b = features(40, 5, seed=0), features(31, 5, seed=1, shift=0.7)
    expected = reference_frechet(a, b)
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-7)
    assert metrics.frechet_distance(b, a) == pytest.approx(expected, rel=1e-7)


def test_frechet_of_one_feature():
    a, b = features(8, 1, seed=0), features(9, 1, seed=1, shift=3)
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert metrics.frechet_distance(a, b) == pytest.approx(expected)


def test_frechet_with_fewer_images_than_features():
    a, b = features(4, 9, seed=0), features(6, 9, seed=1)
    # A small multiple of the identity makes the products regular, so that scipy's root is sound.
    first, second = (np.cov(x, rowvar=False) + 1e-9 * np.eye(9) for x in (a, b))
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    shift = a.mean(axis=0) - b.mean(axis=0)
    expected = shift @ shift + np.trace(first) + np.trace(second) - 2 * shared
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    turn = np.linalg.qr(features(9, 9, seed=2))[0]
    assert metrics.frechet_distance(a @ turn + 4, b @ turn + 4) == pytest.approx(metrics.frechet_distance(a, b))


def test_frechet_of_a_shift():
    a = features(20, 3, seed=0)
    assert metrics.frechet_distance(a, a + np.array([1.0, 2.0, 2.0])) == pytest.approx(9)


def test_kernel_distance_by_loops():
    a, b = features(6, 4, seed=0), features(5, 4, seed=1, shift=0.5)

    def kernel(x, y):
        return (sum(p * q for p, q in zip(x, y)) / 4 + 1) ** 3

    first = [kernel(a[i], a[j]) for i in range(6) for j in range(6) if i != j]
    second = [kernel(b[i], b[j]) for i in range(5) for j in range(5) if i != j]
    expected = np.mean(first) + np.mean(second) - 2 * np.mean([kernel(x, y) for x in a for y in b])
    assert metrics.kernel_distance(a, b) == pytest.approx(expected)
    assert metrics.kernel_distance(b[::-1], a) == pytest.approx(expected)


def test_kernel_distance_is_unbiased():
    draw = np.random.default_rng(0)
    same = [metrics.kernel_distance(*draw.normal(size=(2, 5, 3))) for _ in range(400)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(400)
    assert min(same) < 0
    apart = [metrics.kernel_distance(draw.normal(size=(5, 3)), draw.normal(size=(5, 3)) + 1) for _ in range(50)]
    assert np.mean(apart) > 1


def test_nearest_neighbours():
    training = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    row, distance = metrics.nearest_neighbours(np.array([[3.0, 4.0], [0.0, -2.0]]), training)
    np.testing.assert_array_equal(row, [1, 0])
    np.testing.assert_array_equal(distance, [0, 2])
    row, distance = metrics.nearest_neighbours(training, training, leave_one_out=True)
    np.testing.assert_array_equal(row, [2, 2, 0])
    np.testing.assert_allclose(distance, [1, np.sqrt(18), 1])


def test_neighbours_in_chunks(monkeypatch):
    a, b = features(11, 3, seed=0), features(7, 3, seed=1)
    whole, others = metrics.nearest_neighbours(a, b), metrics.nearest_neighbours(a, a, leave_one_out=True)
    monkeypatch.setattr("jaxseg.metrics.image_quality.CHUNK", 4)
    for got, expected in [
        (metrics.nearest_neighbours(a, b), whole),
        (metrics.nearest_neighbours(a, a, leave_one_out=True), others),
    ]:
        np.testing.assert_array_equal(got.row, expected.row)
        np.testing.assert_array_equal(got.distance, expected.distance)


def test_memorisation():
    draw = np.random.default_rng(0)
    training, fresh = draw.normal(size=(60, 4)), draw.normal(size=(50, 4))
    copies = training[:5] + 1e-3 * draw.normal(size=(5, 4))
    assert 0.7 < np.median(metrics.memorisation_ratio(fresh, training)) < 1.4
    assert metrics.memorisation_ratio(copies, training).max() < 0.01
    np.testing.assert_array_equal(metrics.memorisation_ratio(training[:3], training), 0)
    by_hand = metrics.memorisation_ratio(np.array([[5.0]]), np.array([[0.0], [2.0], [4.0]]))
    np.testing.assert_allclose(by_hand, [0.5])


IMAGE, FEATURES = np.zeros((12, 13, 1)), np.ones((3, 4))


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: metrics.mean_absolute_error(IMAGE, IMAGE[1:]), "same shape"),
        (lambda: metrics.mean_absolute_error(IMAGE[:0], IMAGE[:0]), "should have pixels"),
        (lambda: metrics.mean_absolute_error(IMAGE, IMAGE, mask=np.zeros((12, 13), bool)), "it is empty"),
        (lambda: metrics.mean_absolute_error(IMAGE, IMAGE, mask=np.ones((13, 12), bool)), "image's shape"),
        (lambda: metrics.peak_signal_to_noise(IMAGE, IMAGE, data_range=0), "positive number"),
        (lambda: metrics.structural_similarity(IMAGE, IMAGE, data_range=np.nan), "positive number"),
        (lambda: metrics.structural_similarity(IMAGE, IMAGE, data_range=1, sigma=0), "sigma"),
        (lambda: metrics.structural_similarity(IMAGE[:9], IMAGE[:9], data_range=1), "needs 11 pixels"),
        (
            lambda: metrics.structural_similarity(IMAGE, IMAGE, data_range=1, mask=np.eye(12, 13, 9, dtype=bool)),
            "no window",
        ),
        (lambda: metrics.histogram_matching(IMAGE, np.zeros((4, 2))), "as many channels"),
        (lambda: metrics.histogram_matching(IMAGE[:0], IMAGE), "should have pixels"),
        (lambda: metrics.frechet_distance(FEATURES[:1], FEATURES), "2 or more images"),
        (lambda: metrics.frechet_distance(FEATURES, FEATURES[:, 1:]), "as many features"),
        (lambda: metrics.kernel_distance(FEATURES * np.nan, FEATURES), "finite"),
        (lambda: metrics.nearest_neighbours(FEATURES, FEATURES[:0]), "1 or more images"),
        (lambda: metrics.nearest_neighbours(FEATURES[:2], FEATURES, leave_one_out=True), "against itself"),
        (lambda: metrics.memorisation_ratio(FEATURES, FEATURES), "copies out"),
    ],
)
def test_bad_input(call, says):
    with unchecked(), pytest.raises(UserError, match=says):
        call()


def test_in_the_table():
    score = metrics.from_string("structural_similarity(data_range=2.0)")
    assert score(*pair((12, 13, 1))) == metrics.structural_similarity(*pair((12, 13, 1)), data_range=2)
    assert metrics.from_string("frechet_distance")(FEATURES, FEATURES) == 0
