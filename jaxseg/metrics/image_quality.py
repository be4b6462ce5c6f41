"""How good made images are: against the true image, as a set against real ones, and as copies of the training set.

Host numpy, float64. Images are channels last, `(*S, C)`; features are `(n, F)` of any fixed network.
"""

from typing import NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, Integer, Real
from scipy.spatial.distance import cdist

from jaxseg.typing import UserError

Image = Real[np.ndarray, "*S C"]
Mask = Bool[np.ndarray, "*S"]
REACH = 3.5  # standard deviations that the window reaches from its centre; 1.5 gives the paper's 11 pixels
K1, K2 = 0.01, 0.03  # the paper's small constants, as shares of the data range
CHUNK = 1024  # rows of distances held at a time


class Neighbours(NamedTuple):
    """The nearest training image of every image.

    Attributes:
      row: its place in the training features.
      distance: the Euclidean distance to it, in the features' unit.
    """

    row: Integer[np.ndarray, " n"]
    distance: Float[np.ndarray, " n"]


def mean_absolute_error(predicted: Image, true: Image, *, mask: Mask | None = None) -> float:
    """Returns the mean of |predicted - true| over pixels and channels, in the images' unit.

    Args:
      predicted: the made image.
      true: the real one of the same shape.
      mask: True where a pixel counts; all count by default.

    Raises:
      UserError: shapes differ, or no pixel counts.
    """
    return float(np.mean(np.abs(_differences(predicted, true, mask))))


def peak_signal_to_noise(predicted: Image, true: Image, *, data_range: float, mask: Mask | None = None) -> float:
    """Returns 10 log10(data_range^2 / mean squared error) in decibels, over pixels and channels; inf if all equal.

    Args:
      predicted: the made image.
      true: the real one of the same shape.
      data_range: the largest difference that values can have: 255 for bytes, 2 for [-1, 1], a fixed number for a data
        set. One taken from each image makes cases incomparable.
      mask: True where a pixel counts; all count by default.

    Raises:
      UserError: shapes differ, no pixel counts, or the range is not positive.
    """
    _check_range(data_range)
    squared = np.mean(np.square(_differences(predicted, true, mask)))
    return float("inf") if squared == 0 else float(10 * np.log10(data_range**2 / squared))


def structural_similarity(
    predicted: Image, true: Image, *, data_range: float, sigma: float = 1.5, mask: Mask | None = None
) -> float:
    """Returns the mean structural similarity (SSIM), at most 1, of windows that lie wholly inside the image.

    Means, variances and the covariance are weighted by a Gaussian window that reaches 3.5 sigma (11 pixels along each
    axis at 1.5), variances divide by the sum of weights. 3D images have 3D windows in voxels. Channels are scored one
    by one and averaged. The values are those of `skimage.metrics.structural_similarity(gaussian_weights=True,
    sigma=1.5, use_sample_covariance=False)`. Source: Wang et al., IEEE TIP 13 (2004), sections III.B and III.C.

    Args:
      predicted: the made image, 2D or 3D.
      true: the real one of the same shape.
      data_range: as in `peak_signal_to_noise`.
      sigma: of the window, in pixels.
      mask: True at the centres of windows that count; all count by default. A window may reach outside the mask.

    Raises:
      UserError: shapes differ, an axis is shorter than the window, no window counts, or an option is not positive.
    """
    _check_range(data_range)
    _check_pair(predicted, true, mask)
    if not 0 < sigma < np.inf:
        raise UserError(f"The sigma of structural_similarity should be positive, not {sigma}.")
    reach = int(REACH * sigma + 0.5)
    size, spatial = 2 * reach + 1, predicted.shape[:-1]
    if min(spatial, default=0) < size:
        raise UserError(
            f"structural_similarity needs {size} pixels along each axis, and the image has {spatial}: score the slices "
            "of a thin volume one by one, or take a smaller sigma."
        )
    weights = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma))
    predicted, true = predicted.astype(np.float64), true.astype(np.float64)
    values = _similarity(predicted, true, weights / weights.sum(), (K1 * data_range) ** 2, (K2 * data_range) ** 2)
    if mask is not None:
        inside = mask[(slice(reach, -reach),) * mask.ndim]
        if not inside.any():
            raise UserError("The mask of structural_similarity holds no window that lies wholly inside the image.")
        values = values[inside]
    return float(values.mean())


def _similarity(
    predicted: Image, true: Image, weights: Float[np.ndarray, " W"], first: float, second: float
) -> Float[np.ndarray, "*V C"]:
    """Returns the similarity of every window that lies inside."""
    mean_p, mean_t = _windows(predicted, weights), _windows(true, weights)
    square_p, square_t = mean_p * mean_p, mean_t * mean_t
    variance_p = _windows(predicted * predicted, weights) - square_p
    variance_t = _windows(true * true, weights) - square_t
    covariance = _windows(predicted * true, weights) - mean_p * mean_t
    above = (2 * mean_p * mean_t + first) * (2 * covariance + second)
    return above / ((square_p + square_t + first) * (variance_p + variance_t + second))


def _windows(image: Image, weights: Float[np.ndarray, " W"]) -> Float[np.ndarray, "*V C"]:
    reach = len(weights) // 2
    for axis in range(image.ndim - 1):
        image = scipy.ndimage.correlate1d(image, weights, axis=axis)
        image = image[(slice(None),) * axis + (slice(reach, -reach),)]
    return image


def _differences(predicted: Image, true: Image, mask: Mask | None) -> Float[np.ndarray, "..."]:
    _check_pair(predicted, true, mask)
    difference = predicted.astype(np.float64) - true.astype(np.float64)
    return difference if mask is None else difference[mask]


def _check_pair(predicted: Image, true: Image, mask: Mask | None) -> None:
    if predicted.shape != true.shape:
        raise UserError(f"The two images should have the same shape, not {predicted.shape} and {true.shape}.")
    if predicted.size == 0:
        raise UserError(f"The images should have pixels, but their shape is {predicted.shape}.")
    if mask is not None and mask.shape != true.shape[:-1]:
        raise UserError(f"The mask should have the image's shape {true.shape[:-1]}, not {mask.shape}.")
    if mask is not None and not mask.any():
        raise UserError("The mask should hold at least one pixel, and it is empty.")


def _check_range(data_range: float) -> None:
    if not 0 < data_range < np.inf:
        raise UserError(f"data_range should be a positive number, such as 255 or 2, not {data_range}.")


def histogram_matching(source: Image, reference: Real[np.ndarray, "*T C"]) -> Float[np.ndarray, "*S C"]:
    """Returns the source with its values mapped, rising, so that each channel's histogram becomes the reference's.

    A value goes to the reference's value of the same cumulative share, linear between. This is what translation between
    modalities must beat. The values are those of `skimage.exposure.match_histograms(channel_axis=-1)`. Source: Gonzalez
    and Woods, Digital Image Processing, section 3.3.

    Args:
      source: the image to map.
      reference: an image, or a stack of them, of as many channels.

    Raises:
      UserError: the channels differ, or one of the two has no pixels.
    """
    if source.shape[-1] != reference.shape[-1]:
        raise UserError(
            f"Source and reference need as many channels, not {source.shape[-1]} and {reference.shape[-1]}."
        )
    if not source.size or not reference.size:
        raise UserError(f"Source and reference should have pixels, but are {source.shape} and {reference.shape}.")
    matched = np.empty(source.shape, np.float64)
    for channel in range(source.shape[-1]):
        _, place, counts = np.unique(source[..., channel], return_inverse=True, return_counts=True)
        values, wanted = np.unique(reference[..., channel], return_counts=True)
        share = np.cumsum(counts) / counts.sum()
        mapped = np.interp(share, np.cumsum(wanted) / wanted.sum(), values)
        matched[..., channel] = mapped[place].reshape(source.shape[:-1])
    return matched


def frechet_distance(features_a: Real[np.ndarray, "n F"], features_b: Real[np.ndarray, "m F"]) -> float:
    """Returns the squared Frechet distance of two normal distributions fitted to the features.

    `|mean_a - mean_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2))` of unbiased covariances. With centred features X and Y,
    the last trace is the sum of the singular values of `X Y^T / sqrt((n - 1) (m - 1))`: no root of a matrix is taken,
    so that fewer images than features do no harm to the numbers. The estimate itself is biased upwards, the more the
    smaller n is: compare sets of the same size only. FID is this on features of the Inception network; of another
    network, name that one. Source: Heusel et al., NeurIPS 2017, equation 6.

    Args:
      features_a: one row an image, two or more.
      features_b: the same features of the other set.

    Raises:
      UserError: a set has fewer than two images, or the features differ in number or are not finite.
    """
    _check_features(features_a, features_b, at_least=2)
    a, b = features_a.astype(np.float64), features_b.astype(np.float64)
    shift = a.mean(axis=0) - b.mean(axis=0)
    first, second = _covariance_root(a), _covariance_root(b)
    shared = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    distance = shift @ shift + np.square(first).sum() + np.square(second).sum() - 2 * shared
    return max(float(distance), 0.0)  # rounding may leave equal sets a hair below 0


def _covariance_root(features: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "r F"]:
    """Returns R of at most F rows with R^T R the unbiased covariance."""
    centred = features - features.mean(axis=0)
    return np.linalg.qr(centred, mode="r") / np.sqrt(len(features) - 1)


def kernel_distance(features_a: Real[np.ndarray, "n F"], features_b: Real[np.ndarray, "m F"]) -> float:
    """Returns the unbiased squared maximum mean discrepancy with the kernel `(x . y / F + 1)^3` (KID).

    Its expectation does not depend on the number of images, which suits small sets; it may come out below 0. All pairs
    are taken, where the paper averages over subsets of 1000. Source: Binkowski et al., ICLR 2018, section 4.

    Args:
      features_a: one row an image, two or more.
      features_b: the same features of the other set.

    Raises:
      UserError: as `frechet_distance`.
    """
    _check_features(features_a, features_b, at_least=2)
    a, b = features_a.astype(np.float64), features_b.astype(np.float64)
    within = _mean_of_pairs(_kernel(a, a)) + _mean_of_pairs(_kernel(b, b))
    return float(within - 2 * _kernel(a, b).mean())


def _kernel(a: Float[np.ndarray, "n F"], b: Float[np.ndarray, "m F"]) -> Float[np.ndarray, "n m"]:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mean_of_pairs(kernel: Float[np.ndarray, "n n"]) -> float:
    """Returns the mean over pairs of different rows."""
    n = len(kernel)
    return (kernel.sum() - np.trace(kernel)) / (n * (n - 1))


def nearest_neighbours(
    features: Real[np.ndarray, "n F"], training_features: Real[np.ndarray, "m F"], *, leave_one_out: bool = False
) -> Neighbours:
    """Returns each row's nearest row of the training set, the first one where several are as near.

    Args:
      features: one row an image.
      training_features: the same features of the training images.
      leave_one_out: `features` are the training images themselves: row i must not find itself.

    Raises:
      UserError: the features differ in number or are not finite, a set is empty, or rows cannot be left out.
    """
    _check_features(features, training_features, at_least=1)
    if leave_one_out and (features.shape != training_features.shape or len(features) < 2):
        raise UserError(
            "leave_one_out is for a training set of two or more images against itself, "
            f"not for {len(features)} against {len(training_features)}."
        )
    nearest, distance = [], []
    for start in range(0, len(features), CHUNK):
        # Differences are squared, not expanded into products: a copy is then at distance 0 and not at a rounding error.
        table = cdist(features[start : start + CHUNK], training_features)
        rows = np.arange(len(table))
        if leave_one_out:
            table[rows, rows + start] = np.inf
        nearest.append(table.argmin(axis=1))
        distance.append(table[rows, nearest[-1]])
    return Neighbours(np.concatenate(nearest), np.concatenate(distance))


def memorisation_ratio(
    features: Real[np.ndarray, "n F"], training_features: Real[np.ndarray, "m F"]
) -> Float[np.ndarray, " n"]:
    """Returns how near each made image is to the training set, where 1 is as near as another patient.

    The distance to the nearest training image is divided by the median distance of a training image to the nearest of
    the others. Values far below 1 are copies; look at the pairs that `nearest_neighbours` names.

    Args:
      features: one row a made image.
      training_features: the same features of the training images, two or more.

    Raises:
      UserError: as `nearest_neighbours`, or half of the training images are copies of one another.
    """
    found = nearest_neighbours(features, training_features).distance
    usual = float(np.median(nearest_neighbours(training_features, training_features, leave_one_out=True).distance))
    if usual == 0:
        raise UserError("Half of the training images have a copy among the others: leave copies out first.")
    return found / usual


def _check_features(a: Real[np.ndarray, "n F"], b: Real[np.ndarray, "m F"], *, at_least: int) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.shape[1] == 0:
        raise UserError(f"Both sets should be (images, features) of as many features, not {a.shape} and {b.shape}.")
    if min(len(a), len(b)) < at_least:
        raise UserError(f"Each set should have {at_least} or more images; they have {len(a)} and {len(b)}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise UserError("Features should be finite numbers, and some are NaN or infinite.")
