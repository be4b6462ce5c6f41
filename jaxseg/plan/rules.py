"""nnU-Net's rules: spacing, patch, batch and U-Net of a data set from its shapes and spacings alone.

Source: Isensee et al., Nature Methods 2021, and for the residual planners Isensee et al., MICCAI 2024; restated here.
The plans that nnU-Net published for seven data sets and three planners come out the same (tests/plan).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data import fingerprint

BASE_WIDTH, WIDEST = 32, {2: 512, 3: 320}  # channels of the first stage, and the most; doubled from stage to stage
START = {2: 2048**2, 3: 256**3}  # voxels of the patch that is shrunk until it fits
REFERENCE_BATCH = {2: 12, 3: 2}  # at which a planner's reference score was taken
SMALLEST_BATCH = 2
POOLED, POOLED_ALONE = 8, 12  # least pixels of an axis that is halved; and where no other is
LOW_RESOLUTION = 0.25  # a patch that shows less of the median volume calls for a low-resolution configuration
SPACING_STEP = 1.03


class Planner(NamedTuple):
    """A kind of U-Net and how much memory it may take, as a count of activations (see `memory_score`).

    Attributes:
      reference: by dimensions, the score of a batch of `REFERENCE_BATCH` that is known to fit.
      encoder: convolutions (residual: blocks) a stage of the encoder; the last entry repeats.
      decoder: convolutions a level of the decoder.
      residual: encoder of residual blocks behind a stem.
      coverage: the largest share of the data set's voxels that one batch may show.
    """

    reference: dict[int, float]
    encoder: tuple[int, ...] = (2,)
    decoder: int = 2
    residual: bool = False
    coverage: float = 0.05


def _residual(reference_2d: float, reference_3d: float) -> Planner:
    return Planner({2: reference_2d, 3: reference_3d}, (1, 3, 4, 6), 1, residual=True, coverage=1.0)


PLANNERS = {
    "plain": Planner({2: 85e6, 3: 560e6}),
    "resenc_m": _residual(135e6, 680e6),
    "resenc_l": _residual(380e6, 2.1e9),
    "resenc_xl": _residual(560e6, 3.6e9),
}


class Topology(NamedTuple):
    """Where a U-Net halves which axis.

    Attributes:
      strides: of each stage; the first has 1 everywhere.
      kernels: of each stage's convolutions.
      patch: rounded up so that it can be halved as often.
      divisor: what each axis of a patch must be divisible by.
    """

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    patch: tuple[int, ...]
    divisor: tuple[int, ...]


def rule_plan(
    *,
    shapes: Sequence[Sequence[int]],
    spacings: Sequence[Sequence[float]],
    num_classes: int,
    num_training: int,
    planner: str | Planner = "plain",
) -> dict[str, dict[str, Any]]:
    """Returns the configurations that suit a data set.

    Args:
      shapes: of each case in voxels, after cropping, (z, y, x) or (y, x).
      spacings: of each case in mm, alike.
      num_classes: with the background.
      num_training: cases.
      planner: "plain", or a residual encoder: "resenc_m" and "resenc_l" for GPUs of 8 and 24 GB, "resenc_xl" of 40 GB;
        or one of your own.

    Returns:
      "2d" (slices across the first axis), "3d_fullres" and, where a patch would show less than a quarter of a volume,
      "3d_lowres". Each has patch_size, batch_size, spacing, strides, kernel_sizes, features_per_stage, n_stages,
      batch_dice, median_image_size_in_voxels, largest_batch_voxels (what one batch may show at most) and
      transpose_forward: the order into which the axes are brought, the one of the largest spacing first. All values
      are in that order.

    Raises:
      ValueError: no cases, shapes and spacings that do not fit each other, or an unknown planner.
    """
    if isinstance(planner, str) and planner not in PLANNERS:
        raise ValueError(f"planner should be one of {', '.join(PLANNERS)}, not {planner!r}.")
    sizes, steps = np.asarray(shapes, np.float64), np.asarray(spacings, np.float64)
    if sizes.ndim != 2 or sizes.shape != steps.shape or not len(sizes) or sizes.shape[1] not in (2, 3):
        raise ValueError(
            f"shapes and spacings should have one row of 2 or 3 numbers a case; they are {sizes.shape}, {steps.shape}."
        )
    flat = sizes.shape[1] == 2
    target = np.array(fingerprint.target_spacing(spacings, shapes), np.float64)
    first = 0 if flat else int(np.argmax(target))
    order = [first, *(axis for axis in range(len(target)) if axis != first)]
    median = np.median(np.round(steps / target * sizes), axis=0)[order]
    target = target[order]
    voxels = float(np.prod(median) * num_training)
    chosen = PLANNERS[planner] if isinstance(planner, str) else planner

    def plan(spacing, shape, voxels) -> dict[str, Any]:
        found = _configuration(spacing, shape, voxels, num_classes=num_classes, planner=chosen)
        return {**found, "batch_dice": len(spacing) == 2, "transpose_forward": tuple(order)}

    plane = slice(0 if flat else 1, None)
    result = {"2d": plan(target[plane], median[plane], voxels)}
    if flat or median[0] == 1:
        return result
    result["3d_fullres"] = plan(target, median, voxels)
    low = _low_resolution(plan, target, median, result["3d_fullres"]["patch_size"], num_training)
    if low is not None:
        result["3d_fullres"]["batch_dice"] = True
        result["3d_lowres"] = low
    return result


def network_topology(spacing: Sequence[float] | np.ndarray, patch: Sequence[float] | np.ndarray) -> Topology:
    """Returns strides and kernels: axes are halved while they are long enough and their spacing is among the finest.

    Args:
      spacing: mm a voxel.
      patch: voxels.
    """
    steps, size = np.array(spacing, np.float64), np.array(patch, np.float64)
    halvings, kernel = np.zeros(len(steps), int), np.ones(len(steps), int)
    strides, kernels = [(1,) * len(steps)], []
    while True:
        long_enough = size >= POOLED
        if not long_enough.any():
            break
        chosen = long_enough & (steps < 2 * steps[long_enough].min())
        if chosen.sum() == 1 and size[chosen][0] < POOLED_ALONE:
            break
        kernel[steps < 2 * steps.min()] = 3
        kernels.append(tuple(map(int, kernel)))
        strides.append(tuple(2 if axis else 1 for axis in chosen))
        halvings += chosen
        steps[chosen] *= 2
        size[chosen] = np.ceil(size[chosen] / 2)
    divisor = 2**halvings
    rounded = np.ceil(np.asarray(patch, np.float64) / divisor).astype(int) * divisor
    return Topology(tuple(strides), (*kernels, (3,) * len(steps)), tuple(map(int, rounded)), tuple(map(int, divisor)))


def patches(spacing: Sequence[float] | np.ndarray, shape: Sequence[float] | np.ndarray) -> Iterator[Topology]:
    """Yields nnU-Net's patches from the largest downward: first the median volume, or `START` voxels of it.

    From one to the next the axis that shows most of the volume loses as much as its halvings ask for, as long as a
    second level is left.

    Args:
      spacing: mm a voxel.
      shape: of the median volume in voxels.
    """
    dimensions, aspect = len(spacing), 1 / np.asarray(spacing, np.float64)
    start = np.round(aspect * (START[dimensions] / aspect.prod()) ** (1 / dimensions))
    patch = np.minimum(start, shape)
    topology = network_topology(spacing, patch)
    yield topology
    while True:
        patch = np.array(topology.patch, np.float64)
        axis = int(np.argsort(patch / shape, kind="stable")[-1])
        trial = patch.copy()
        trial[axis] -= topology.divisor[axis]
        if trial[axis] <= 0:
            return
        patch[axis] -= network_topology(spacing, trial).divisor[axis]
        if patch[axis] <= 0:
            return
        topology = network_topology(spacing, patch)
        if len(topology.strides) == 1:
            return
        yield topology


def network(topology: Topology) -> dict[str, Any]:
    """Returns the entries of a configuration that follow from a patch."""
    stages = len(topology.strides)
    return {
        "patch_size": topology.patch,
        "strides": topology.strides,
        "kernel_sizes": topology.kernels,
        "features_per_stage": features_of(stages, len(topology.patch)),
        "n_stages": stages,
    }


def features_of(stages: int, dimensions: int) -> tuple[int, ...]:
    """Returns the channels of each stage."""
    return tuple(min(BASE_WIDTH * 2**stage, WIDEST[dimensions]) for stage in range(stages))


def memory_score(topology: Topology, *, num_classes: int, planner: Planner) -> float:
    """Returns how many activations the convolutions of a U-Net write for one patch: what stands for its memory."""
    features = features_of(len(topology.strides), len(topology.patch))
    size = np.array(topology.patch, np.float64)
    score = features[0] * size.prod() if planner.residual else 0.0
    skips, before = [], features[0]
    for stage, (stride, width) in enumerate(zip(topology.strides, features)):
        size = size / stride
        count = planner.encoder[min(stage, len(planner.encoder) - 1)]
        if planner.residual:
            count = 2 * count + (width != before or max(stride) > 1)  # the projection of the first block
        score += count * width * size.prod()
        skips.append(width * size.prod())
        before = width
    decoder = sum((planner.decoder + 1) * skip for skip in skips[:-1])  # the transposed convolution counts too
    return float(score + decoder + num_classes * np.prod(topology.patch))


def _configuration(
    spacing: np.ndarray, shape: np.ndarray, voxels: float, *, num_classes: int, planner: Planner
) -> dict[str, Any]:
    """Shrinks the patch until two of them fit, then fills the memory with the batch."""
    dimensions = len(spacing)
    reference, batch = planner.reference[dimensions], REFERENCE_BATCH[dimensions]
    for topology in patches(spacing, shape):
        score = memory_score(topology, num_classes=num_classes, planner=planner)
        if score / batch * 2 <= reference:
            break
    most = round(voxels * planner.coverage / np.prod(topology.patch, dtype=np.float64))
    return {
        "batch_size": int(max(min(round(reference / score * batch), most), SMALLEST_BATCH)),
        "spacing": tuple(map(float, spacing)),
        **network(topology),
        "median_image_size_in_voxels": tuple(map(float, shape)),
        "largest_batch_voxels": voxels * planner.coverage,
    }


def _low_resolution(plan, spacing: np.ndarray, median: np.ndarray, patch: Sequence[int], num_training: int):
    """Coarsens the volumes until a patch shows a quarter of one; None where that is hardly coarser, or not needed."""
    coarse, voxels, found = spacing.copy(), float(np.prod(median)), None
    while np.prod(patch, dtype=np.float64) / voxels < LOW_RESOLUTION:
        finer = coarse.max() / coarse > 2
        coarse[finer if finer.any() else slice(None)] *= SPACING_STEP
        voxels = float(np.prod(spacing / coarse * median))
        found = {**plan(coarse, np.round(spacing / coarse * median), voxels * num_training), "batch_dice": False}
        patch = found["patch_size"]
    return found if found is not None and np.prod(median) / voxels >= 2 else None
