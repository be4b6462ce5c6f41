"""nnU-Net's side of benchmarks/volumes.py, and what both sides share."""

import functools
import os
import types
from collections.abc import Callable, Sequence

import numpy as np

MARGIN = 4  # voxels of zeros on every side


def image(shape: Sequence[int]) -> np.ndarray:
    """Returns smooth noise `(*S)` of CT's range with a margin of zeros."""
    from scipy import ndimage

    noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    inner = tuple(slice(min(MARGIN, n // 4), n - min(MARGIN, n // 4)) for n in shape)
    result = np.zeros(shape, np.float32)
    result[inner] = 1000 * ndimage.gaussian_filter(noise, 1.5)[inner]
    return result


def label_map(shape: Sequence[int]) -> np.ndarray:
    """Returns three classes `(*S)` in blobs."""
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=shape), 4)
    return np.digitize(smooth / smooth.std(), [0.5, 1.5]).astype(np.int16)


def logits(shape: Sequence[int], classes: int) -> np.ndarray:
    """Returns smooth noise `(K, *S)`."""
    from scipy import ndimage

    draw = np.random.default_rng(2)
    maps = [ndimage.gaussian_filter(draw.normal(size=shape).astype(np.float32), 3) for _ in range(classes)]
    return np.stack(maps) * np.float32(100)


def prepare(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> Callable[[], np.ndarray]:
    """Returns one call of DefaultPreprocessor.run_case_npy without labels."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    data, (plans, configuration) = image(shape)[None], _managers(target)
    worker = DefaultPreprocessor(verbose=False)

    def run():
        found, _, _ = worker.run_case_npy(data, None, {"spacing": list(spacing)}, plans, configuration, {})
        return np.moveaxis(found, 0, -1)

    return run


def resample(
    shape: Sequence[int], spacing: Sequence[float], target: Sequence[float], labels: bool
) -> Callable[[], np.ndarray]:
    """Returns one call of resample_data_or_seg_to_shape with the arguments of its plans."""
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

    configuration = _managers(target)[1]
    size = compute_new_shape(shape, spacing, target)
    if labels:
        array = label_map(shape)[None]
        return lambda: configuration.resampling_fn_seg(array, size, spacing, target)[0]
    array = image(shape)[None]
    return lambda: np.moveaxis(configuration.resampling_fn_data(array, size, spacing, target), 0, -1)


def export(
    shape: Sequence[int], spacing: Sequence[float], target: Sequence[float], classes: int
) -> Callable[[], np.ndarray]:
    """Returns one call of convert_predicted_logits_to_segmentation_with_correct_shape."""
    import torch
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    plans, configuration = _managers(target)
    manager = LabelManager({"background": 0, **{f"class {i}": i for i in range(1, classes)}}, None)
    properties = {
        "spacing": list(spacing),
        "shape_before_cropping": tuple(shape),
        "shape_after_cropping_and_before_resampling": tuple(shape),
        "bbox_used_for_cropping": [[0, length] for length in shape],
    }
    values = torch.from_numpy(logits(compute_new_shape(shape, spacing, target), classes))
    threads = len(os.sched_getaffinity(0))
    return lambda: convert_predicted_logits_to_segmentation_with_correct_shape(
        values, plans, configuration, manager, properties, num_threads_torch=threads
    )


def _managers(target: Sequence[float]):
    """Returns what of PlansManager and ConfigurationManager is asked for, filled as its default planner does."""
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    def resampling(is_seg: bool, order: int):
        return functools.partial(
            resample_data_or_seg_to_shape, is_seg=is_seg, order=order, order_z=0, force_separate_z=None
        )

    plans = types.SimpleNamespace(
        transpose_forward=[0, 1, 2],
        transpose_backward=[0, 1, 2],
        foreground_intensity_properties_per_channel={"0": {}},
    )
    configuration = types.SimpleNamespace(
        spacing=list(target),
        normalization_schemes=["ZScoreNormalization"],
        use_mask_for_norm=[False],
        resampling_fn_data=resampling(False, 3),
        resampling_fn_seg=resampling(True, 1),
        resampling_fn_probabilities=resampling(False, 1),
    )
    return plans, configuration
