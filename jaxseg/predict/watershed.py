"""Objects from pixels by watershed, flat images only: from a network's inside and border classes, or from grey values.

Inside, border and background as three exclusive classes, with watershed to follow, were the usual way to nuclei in the
2018 Data Science Bowl (Caicedo et al., Nature Methods 2019).
"""

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

from jaxseg.ops import run_length
from jaxseg.typing import Instances, UserError


def watershed_instances(
    probabilities: Float[np.ndarray, "H W K"],
    *,
    inside: int = 1,
    border: int = 2,
    threshold: float = 0.5,
    seed_threshold: float = 0.5,
    landscape: str = "probability",
    min_size: int = 10,
    label: int = 1,
) -> Instances:
    """Returns the objects of a flat image whose inside and border are told apart.

    Each connected piece of certain inside is a seed, and the seeds flood the foreground, inside and border together,
    from its most probable or its innermost pixels on. Foreground that no seed reaches is dropped.

    Args:
      probabilities: of the classes, one of them the inside and one the border of objects.
      inside: id of the inside.
      border: id of the border.
      threshold: where inside + border lies above it, is foreground.
      seed_threshold: where the inside lies above it, are seeds; pieces that meet only at corners are two.
      landscape: what the water rises in: "probability" of the foreground, or "distance" to the background, which cuts
        touching objects at their waist where the network is sure of the foreground everywhere.
      min_size: pixels that an object has at least.
      label: the class id that all objects get.

    Returns:
      Objects that do not overlap; the score is the mean probability of foreground over the object.

    Raises:
      UserError: class ids that the probabilities do not have, or twice the same; another landscape.
    """
    from scipy import ndimage
    from skimage.segmentation import watershed

    count = probabilities.shape[-1]
    if not (0 <= inside < count and 0 <= border < count) or inside == border:
        raise UserError(
            f"watershed needs two different classes of the {count} there are for inside and border, got {inside} and "
            f"{border}; train with background, inside and border as the classes 0, 1 and 2."
        )
    if landscape not in ("probability", "distance"):
        raise UserError(f'watershed has the landscapes "probability" and "distance", got {landscape!r}.')
    certain = probabilities[..., inside]
    foreground = certain + probabilities[..., border]
    mask = foreground > threshold
    # by faces alone: a border one pixel thin that runs along a diagonal parts its sides only so
    seeds, _ = ndimage.label((certain > seed_threshold) & mask)
    height = foreground if landscape == "probability" else ndimage.distance_transform_edt(mask)
    return _instances(watershed(-height, seeds, mask=mask), foreground, min_size=min_size, label=label)


def otsu_watershed(
    image: Shaped[np.ndarray, "H W C"],
    *,
    min_size: int = 20,
    smoothing_sigma: float = 1.0,
    min_distance: int = 5,
    dark_objects: bool | None = None,
    label: int = 1,
) -> Instances:
    """Returns the objects of a flat image without any learning: the baseline that a network has to beat.

    The mean of the channels is smoothed and cut in two (Otsu 1979). Holes are filled, and objects that touch are cut
    where their distance to the background is least.

    Args:
      image: intensities.
      min_size: pixels that an object has at least.
      smoothing_sigma: of the Gaussian that smooths grey values and distances, in pixels; 0 leaves them.
      min_distance: pixels that the centres of two objects are apart, at least.
      dark_objects: whether objects are darker than the background; None: the side of the threshold that most pixels at
        the image's border belong to is background.
      label: the class id that all objects get.

    Returns:
      Objects that do not overlap, all with score 1, since nothing tells good from bad ones here.
    """
    from scipy import ndimage
    from skimage.segmentation import watershed

    grey = ndimage.gaussian_filter(image.astype(np.float64).mean(axis=-1), smoothing_sigma)
    mask = ndimage.binary_fill_holes(_foreground(grey, dark_objects))
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), smoothing_sigma)
    labels = watershed(-distance, _peaks(distance, mask, min_distance), mask=mask)
    return _instances(labels, np.ones(mask.shape), min_size=min_size, label=label)


def _foreground(grey: Float[np.ndarray, "H W"], dark_objects: bool | None) -> Bool[np.ndarray, "H W"]:
    """The side of Otsu's threshold that the objects are on (None: not most of the border); nothing if all is equal."""
    from skimage.filters import threshold_otsu

    if np.ptp(grey) <= 1e-9 * np.abs(grey).max():  # constant, but for rounding in the smoothing
        return np.zeros(grey.shape, bool)
    bright = grey > threshold_otsu(grey)
    if dark_objects is None:
        rim = np.ones(grey.shape, bool)
        rim[1:-1, 1:-1] = False
        dark_objects = bool(bright[rim].mean() > 0.5)
    return ~bright if dark_objects else bright


def _peaks(
    distance: Float[np.ndarray, "H W"], mask: Bool[np.ndarray, "H W"], min_distance: int
) -> Integer[np.ndarray, "H W"]:
    """Numbers the peaks of the distance, one or more in each connected piece; a ridge of equal height is one peak."""
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.morphology import local_maxima

    pieces, count = ndimage.label(mask)
    peaks = np.zeros(mask.shape, bool)
    if not count:
        return peaks.astype(np.int32)
    distance = np.round(distance, 3)  # smoothing leaves ridges level but for rounding
    places = peak_local_max(distance, min_distance=min_distance, labels=pieces, exclude_border=False)
    peaks[tuple(places.T)] = True
    bare = np.setdiff1d(np.arange(1, count + 1), pieces[peaks])  # pieces too flat to have a peak
    for place in ndimage.maximum_position(distance, pieces, bare):
        peaks[place] = True
    ridges, _ = ndimage.label((local_maxima(distance) & mask) | peaks, np.ones((3, 3)))
    return np.where(np.isin(ridges, ridges[peaks]), ridges, 0)


def _instances(
    labels: Integer[np.ndarray, "H W"], probability: Float[np.ndarray, "H W"], *, min_size: int, label: int
) -> Instances:
    """Turns numbered pixels into objects, without those below a size."""
    sizes = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), weights=probability.ravel())
    kept = [number for number in range(1, len(sizes)) if sizes[number] >= max(1, min_size)]
    flat = np.asfortranarray(labels)
    masks = tuple(run_length.encode(flat == number) for number in kept)
    scores = np.clip(sums[kept] / sizes[kept], 0, 1) if kept else np.zeros(0)  # sums of probabilities may pass 1 a bit
    count = len(kept)
    return Instances(masks, np.full(count, label, np.int32), scores.astype(np.float32), np.zeros(count, bool))
