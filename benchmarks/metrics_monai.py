"""MONAI's side of benchmarks/metrics.py, and what all sides share."""

import os
from collections.abc import Callable, Sequence

import numpy as np

SPACING, TOLERANCE, CLASSES = (2.0, 0.8, 0.8), 2.0, 3


def _smooth(shape: Sequence[int], seed: int, sigma: float) -> np.ndarray:
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape).astype(np.float32), sigma)
    return smooth / smooth.std()


def organs(shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns two masks of an organ: an ellipsoid over half of every axis, and it shifted by two voxels, both rough."""
    masks = []
    for number, shift in enumerate((2, 0)):
        axes = [(np.arange(n) - n / 2 - shift) / (n / 4) for n in shape]
        radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
        masks.append(radius + 0.05 * _smooth(shape, number, 2.0) < 1)
    return masks[0], masks[1]


def lesions(shape: Sequence[int]) -> np.ndarray:
    """Returns a mask of many small blobs."""
    return _smooth(shape, 2, 1.5) > 1.5


def label_maps(shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns two label maps, int16: organ 1 with lesions 2."""
    pred, true = organs(shape)
    maps = [organ.astype(np.int16) for organ in (pred, true)]
    for number, labels in enumerate(maps):
        labels[(labels == 1) & (_smooth(shape, 2, 1.5) > 1.5 + 0.1 * number)] = 2
    return maps[0], maps[1]


def theirs(what: str, shape: Sequence[int]) -> Callable[[], np.ndarray]:
    """Returns one call of MONAI's function; the conversion to one-hot tensors, which they want, is in the call."""
    import torch
    from monai import metrics
    from monai.networks.utils import one_hot

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if what == "Dice":
        pred, true = (torch.from_numpy(labels)[None, None] for labels in label_maps(shape))

        def dice():
            hot = [one_hot(labels, CLASSES) for labels in (pred, true)]
            return metrics.compute_dice(*hot, include_background=False)[0].numpy()

        return dice
    pred, true = (torch.from_numpy(mask)[None, None] for mask in organs(shape))
    options = {"include_background": True, "spacing": SPACING}
    if what == "HD95":
        return lambda: metrics.compute_hausdorff_distance(pred, true, percentile=95, **options)[0].numpy()
    return lambda: metrics.compute_surface_dice(pred, true, class_thresholds=[TOLERANCE], **options)[0].numpy()
