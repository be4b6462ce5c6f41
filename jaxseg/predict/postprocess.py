"""Clean label maps on the host: largest component, holes, small components, smoothing; 2D and 3D, class by class."""

import inspect
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage

from jaxseg import registry
from jaxseg.typing import UserError

Labels = Integer[np.ndarray, "*S"] | Bool[np.ndarray, "*S"]
# (axes, along how many of them a neighbour may differ) -> number of neighbours, as cc3d counts connectivity.
NEIGHBOURS: dict[tuple[int, int], Literal[4, 6, 8, 18, 26]] = {(2, 1): 4, (2, 2): 8, (3, 1): 6, (3, 2): 18, (3, 3): 26}
TABLE = {
    "keep_largest": "jaxseg.predict.postprocess:keep_largest",
    "fill_holes": "jaxseg.predict.postprocess:fill_holes",
    "remove_small": "jaxseg.predict.postprocess:remove_small",
    "smooth": "jaxseg.predict.postprocess:smooth",
}


def from_string(text: str) -> Callable[..., Labels]:
    """Returns the chain that a config names: "keep_largest|fill_holes|remove_small(min_voxels=20)", left to right.

    The chain is `(labels, *, spacing=None) -> labels`; the spacing reaches the steps that ask for it. An empty text
    changes nothing. Outside functions "package.module:function" of the same form work too.

    Raises:
      UserError: an unknown name, or an option that the function does not have.
    """
    steps = []
    for part in filter(None, (part.strip() for part in text.split("|"))):
        step = registry.build(part, TABLE, kind="post-processing")
        parameters = inspect.signature(step.func).parameters
        unknown = [name for name in step.keywords if name not in parameters]
        if unknown:
            known = ", ".join(list(parameters)[1:])
            raise UserError(f"The post-processing {part!r} has no option {unknown[0]!r}; it has {known}.")
        steps.append((step, "spacing" in parameters and "spacing" not in step.keywords))

    def chain(labels: Labels, *, spacing: Sequence[float] | None = None) -> Labels:
        for step, wants_spacing in steps:
            labels = step(labels, spacing=spacing) if wants_spacing else step(labels)
        return labels

    return chain


def argmax(probs: Float[np.ndarray, "*S K"]) -> Integer[np.ndarray, "*S"]:
    """Returns the most probable class id, int16; ties go to the lower id. Slab by slab: no int64 copy of the grid."""
    labels = np.empty(probs.shape[:-1], np.int16)
    for slab, slab_probs in zip(labels, probs):
        slab[...] = slab_probs.argmax(axis=-1)
    return labels


def softmax(logits: Float[np.ndarray, "*S K"]) -> Float[np.ndarray, "*S K"]:
    """Returns probabilities of exclusive classes from their logits."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def sigmoid(logits: Float[np.ndarray, "*S K"]) -> Float[np.ndarray, "*S K"]:
    """Returns probabilities of regions from their logits; written so that no exponential overflows."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1, small) / (1 + small)


def threshold(probs: Float[np.ndarray, "*S K"], level: float = 0.5) -> Bool[np.ndarray, "*S K"]:
    """Returns where each sigmoid output lies above `level`."""
    return probs > np.float32(level)


def region_classes(regions: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Returns the class id that each region writes: its first one, as `DataSet.regions` has it.

    Raises:
      UserError: two regions write the same class, so that the earlier could never be seen.
    """
    written = tuple(region[0] for region in regions)
    if len(set(written)) != len(written):
        raise UserError(f"Each region should write a class of its own (its first id), but the regions are {regions}.")
    return written


def regions_to_labels(masks: Bool[np.ndarray, "*S K"], regions: Sequence[Sequence[int]]) -> Integer[np.ndarray, "*S"]:
    """Returns class ids, int16, from region masks: painted in order, later regions over earlier ones (nnU-Net).

    Raises:
      UserError: see `region_classes`.
      ValueError: not one mask for each region.
    """
    if masks.shape[-1] != len(regions):
        raise ValueError(f"{len(regions)} regions need as many masks, got {masks.shape[-1]}.")
    labels = np.zeros(masks.shape[:-1], np.int16)
    for index, label in enumerate(region_classes(regions)):
        labels[masks[..., index]] = label
    return labels


def keep_largest(
    labels: Labels, *, classes: Sequence[int] | None = None, together: bool = False, connectivity: int | None = None
) -> Labels:
    """Returns the labels with only the largest component of each class; the others become background.

    Args:
      labels: class ids, 0 background (negative ones are left alone), or a mask.
      classes: the ids to treat; None treats all above 0.
      together: take the classes as one foreground and keep its largest component.
      connectivity: 1 joins voxels by faces; None or the number of axes also by corners (as nnU-Net does).

    Raises:
      ValueError: labels that are not integers, or a connectivity that the axes do not have.

    Source: Isensee et al., nnU-Net, Nature Methods 2021, post-processing.
    """
    components, sizes, owners = _components(labels, classes, together, connectivity)
    largest: dict[int, int] = {}
    for component in range(1, len(sizes)):
        best = largest.setdefault(int(owners[component]), component)
        if sizes[component] > sizes[best]:
            largest[int(owners[component])] = component
    keep = np.zeros(len(sizes), bool)
    keep[[0, *largest.values()]] = True
    return _drop(labels, components, keep)


def remove_small(
    labels: Labels,
    *,
    min_voxels: float | None = None,
    min_mm3: float | None = None,
    spacing: Sequence[float] | None = None,
    classes: Sequence[int] | None = None,
    connectivity: int | None = None,
) -> Labels:
    """Returns the labels without components smaller than a size; a component of exactly that size stays.

    Args:
      labels: class ids, 0 background (negative ones are left alone), or a mask.
      min_voxels: the size in voxels; give this or `min_mm3`.
      min_mm3: the size in cubic millimetres (square millimetres in 2D); needs `spacing`.
      spacing: millimetres along each axis.
      classes: the ids to treat; None treats all above 0.
      connectivity: see `keep_largest`.

    Raises:
      UserError: not exactly one size, or `min_mm3` without spacing.
      ValueError: see `keep_largest`.
    """
    if (min_voxels is None) == (min_mm3 is None):
        raise UserError("remove_small needs one size: min_voxels=... or min_mm3=....")
    if min_mm3 is not None:
        if spacing is None or len(spacing) != labels.ndim:
            raise UserError(f"remove_small(min_mm3=...) needs the spacing of {labels.ndim} axes, got {spacing}.")
        # The small number keeps rounding of the spacing from removing a component of exactly this size.
        min_voxels = min_mm3 / float(np.prod(spacing)) * (1 - 1e-6)
    components, sizes, _ = _components(labels, classes, False, connectivity)
    keep = sizes >= min_voxels
    keep[:1] = True
    return _drop(labels, components, keep)


def fill_holes(labels: Labels, *, classes: Sequence[int] | None = None) -> Labels:
    """Returns the labels with the background that a class encloses given to that class.

    A hole is joined by faces and does not reach the border of the image (`scipy.ndimage.binary_fill_holes`). Only
    background changes; background within several nested classes goes to the innermost.

    Args:
      labels: class ids, 0 background, or a mask.
      classes: the ids to treat; None treats all above 0.

    Raises:
      ValueError: labels that are not integers.
    """
    whole = _as_integers(labels)
    filled = whole.copy()
    smallest = np.full(labels.shape, np.iinfo(np.int32).max, np.int32)  # the smallest hole that each voxel lies in
    treated = {int(label) for label in (_present(whole) if classes is None else classes)}
    for label, box in enumerate(ndimage.find_objects(np.maximum(whole, 0)), start=1):
        if box is None or label not in treated:
            continue
        # Outside its bounding box a class encloses nothing.
        hole_sizes = _hole_sizes(whole[box] == label)
        here = (hole_sizes > 0) & (hole_sizes < smallest[box]) & (whole[box] == 0)
        filled[box][here] = label
        smallest[box][here] = hole_sizes[here]
    return filled.astype(labels.dtype)


def smooth(
    labels: Labels,
    *,
    method: str = "majority",
    radius: int = 1,
    sigma: float = 1.0,
    classes: Sequence[int] | None = None,
) -> Labels:
    """Returns the labels after a vote of each voxel's neighbourhood; ties go to the lower id.

    Args:
      labels: class ids, 0 background, or a mask.
      method: "majority" counts votes in a cube of `2 radius + 1`; "gaussian" weighs them with `sigma`.
      radius: voxels.
      sigma: voxels.
      classes: the ids that may grow and shrink against the background; all other voxels stay. None takes all above 0.

    Raises:
      UserError: another method, or a radius or sigma that is not positive.
      ValueError: labels that are not integers.
    """
    if method not in ("majority", "gaussian"):
        raise UserError(f'smooth has the methods "majority" and "gaussian", got {method!r}.')
    if radius < 1 or sigma <= 0:
        raise UserError(f"smooth needs radius >= 1 and sigma > 0, got {radius} and {sigma}.")
    whole = _as_integers(labels)
    candidates = [0, *sorted(int(label) for label in (_present(whole) if classes is None else classes))]
    best, smoothed = np.full(labels.shape, -1, np.float32), whole.copy()
    free = np.isin(whole, candidates)
    for label in candidates:
        member = (whole == label).astype(np.float32)
        if method == "majority":
            votes = _box_votes(member, radius)
        else:
            votes = ndimage.gaussian_filter(member, sigma, mode="nearest")
        wins = free & (votes > best)
        smoothed[wins] = label
        best[wins] = votes[wins]
    return smoothed.astype(labels.dtype)


def _box_votes(member: np.ndarray, radius: int) -> np.ndarray:
    """Counts the members in a cube around each voxel: whole numbers, so equal counts compare equal."""
    for axis in range(member.ndim):
        member = ndimage.correlate1d(member, np.ones(2 * radius + 1, np.float32), axis=axis, mode="nearest")
    return member


def _as_integers(labels: Labels) -> np.ndarray:
    """The labels as signed integers that can be indexed and compared."""
    if labels.dtype == bool:
        return labels.astype(np.int16)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"Labels should be integers or a mask, got {labels.dtype}.")
    return labels if np.issubdtype(labels.dtype, np.signedinteger) else labels.astype(np.int32)


def _present(labels: np.ndarray) -> list[int]:
    """The ids above 0, slab by slab."""
    found: set[int] = set()
    for slab in labels:
        found.update(np.unique(slab).tolist())
    return sorted(label for label in found if label > 0)


def _connect(whole: np.ndarray, connectivity: int | None) -> np.ndarray:
    """Numbers the components, each of one class; 0 stays 0."""
    import cc3d

    axes = whole.ndim
    connectivity = axes if connectivity is None else connectivity
    neighbours = NEIGHBOURS.get((axes, connectivity))
    if neighbours is None:
        raise ValueError(f"connectivity should be 1 to {axes} for 2 or 3 axes, got {connectivity} for {axes}.")
    return cc3d.connected_components(np.ascontiguousarray(whole), connectivity=neighbours)


def _components(
    labels: Labels, classes: Sequence[int] | None, together: bool, connectivity: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the components of the treated classes, and the voxels and the class of each; entry 0 is the rest."""
    whole = _as_integers(labels)
    treated = whole > 0 if classes is None else np.isin(whole, [label for label in classes if label != 0])
    whole = treated.astype(np.uint8) if together else np.where(treated, whole, whole.dtype.type(0))
    components = _connect(whole, connectivity)
    count = int(components.max(initial=0)) + 1
    sizes, owners = np.zeros(count, np.int64), np.zeros(count, np.int32)
    for slab, slab_labels in zip(components, whole):
        sizes += np.bincount(slab.ravel(), minlength=count)
        owners[slab] = slab_labels
    return components, sizes, owners


def _drop(labels: Labels, components: np.ndarray, keep: Bool[np.ndarray, "n"]) -> Labels:
    """The labels with the components that are not kept set to background, slab by slab."""
    cleaned = labels.copy()
    for slab, slab_components in zip(cleaned, components):
        slab[~keep[slab_components]] = 0
    return cleaned


def _hole_sizes(mask: Bool[np.ndarray, "*S"]) -> Integer[np.ndarray, "*S"]:
    """The size of the hole that each voxel lies in, in voxels; 0 outside of holes."""
    components = _connect((~mask).astype(np.uint8), 1)
    sizes = np.zeros(int(components.max(initial=0)) + 1, np.int32)
    for slab in components:
        sizes += np.bincount(slab.ravel(), minlength=len(sizes)).astype(np.int32)
    sizes[0] = 0
    for axis in range(mask.ndim):
        for end in (0, -1):
            sizes[np.unique(np.take(components, end, axis=axis))] = 0
    held = np.empty(mask.shape, np.int32)
    for slab, slab_components in zip(held, components):
        slab[...] = sizes[slab_components]
    return held
