"""Overlap of label maps on device: one additive table of counts, and ratios taken from it at the end.

Background is class 0 and is left out of every result. Pixels whose label (in either map) is outside `0..K-1`, such as
IGNORE, are not counted. What a ratio is where a side is empty stands in the table of `jaxseg.metrics`.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

Counts = Integer[Array | np.ndarray, "*N K K"]
Ratios = Float[Array | np.ndarray, "*N K-1"]


def confusion(
    pred: Integer[Array | np.ndarray, "*S"], true: Integer[Array | np.ndarray, "*S"], *, num_classes: int
) -> Integer[Array, "{num_classes} {num_classes}"]:
    """Returns how often class `row` of the truth was called class `column`, int32, safe under jit and vmap.

    Tables of different pixels, batches or devices add up (`psum`); int32 holds 2e9 pixels, so sum over a data set on
    the host. Source: methods.md, section 12.

    Args:
      pred: predicted class ids.
      true: true class ids, or IGNORE where a pixel may not count.
      num_classes: K, with background.
    """
    pred, true = jnp.asarray(pred).reshape(-1), jnp.asarray(true).reshape(-1)
    if pred.shape != true.shape:
        raise ValueError(f"pred and true should have as many pixels each, not {pred.size} and {true.size}.")
    pred, true = pred.astype(jnp.int32), true.astype(jnp.int32)
    counted = (pred >= 0) & (pred < num_classes) & (true >= 0) & (true < num_classes)
    pred, true = jnp.where(counted, pred, num_classes), jnp.where(counted, true, num_classes)
    # A scatter is fast on a CPU and serial on accelerators, which have matrix units for 8-bit integers.
    return jax.lax.platform_dependent(
        pred, true, cpu=_count_by_scatter(num_classes), default=_count_by_product(num_classes)
    )


def _count_by_scatter(num_classes: int) -> Callable[[Array, Array], Array]:
    side = num_classes + 1  # the last row and column hold the pixels that do not count

    def count(pred: Integer[Array, " N"], true: Integer[Array, " N"]) -> Integer[Array, "K K"]:
        table = jnp.zeros((side, side), jnp.int32).at[true, pred].add(1)
        return table[:num_classes, :num_classes]

    return count


def _count_by_product(num_classes: int) -> Callable[[Array, Array], Array]:
    def count(pred: Integer[Array, " N"], true: Integer[Array, " N"]) -> Integer[Array, "K K"]:
        rows = jax.nn.one_hot(true, num_classes, dtype=jnp.int8, axis=0)  # (K, N); all zero where not counted
        columns = jax.nn.one_hot(pred, num_classes, dtype=jnp.int8, axis=0)
        return jnp.einsum("in,jn->ij", rows, columns, preferred_element_type=jnp.int32)

    return count


def region_confusion(
    pred: Bool[Array | np.ndarray, "*S R"],
    true: Bool[Array | np.ndarray, "*S R"],
    *,
    counted: Bool[Array | np.ndarray, "*S"] | None = None,
) -> Integer[Array, "R 2 2"]:
    """Returns one 2 x 2 table for each of R overlapping regions (sigmoid heads); the `counts_to_*` functions take it.

    Args:
      pred: is the pixel predicted to lie in the region?
      true: does it?
      counted: False where a pixel may not count; all count by default.
    """
    if pred.shape != true.shape:
        raise ValueError(f"pred and true should have the same shape, not {pred.shape} and {true.shape}.")
    keep = jnp.ones(pred.shape[:-1], bool) if counted is None else jnp.asarray(counted, bool)
    pred, true = jnp.asarray(pred, bool), jnp.asarray(true, bool)
    axes = tuple(range(pred.ndim - 1))

    def count(condition: Bool[Array, "*S R"]) -> Integer[Array, " R"]:
        return jnp.sum(condition & keep[..., None], axis=axes, dtype=jnp.int32)

    cells = [count(~true & ~pred), count(~true & pred), count(true & ~pred), count(true & pred)]
    return jnp.stack(cells, axis=-1).reshape(-1, 2, 2)


def _parts(counts: Counts) -> tuple[ModuleType, Any, Any, Any, Any]:
    """Returns numpy or jax.numpy, and (true positive, false positive, false negative, true negative) of each class."""
    library = np if isinstance(counts, np.ndarray) else jnp
    counts = counts.astype(np.float64 if library is np else jnp.float32)
    right = library.diagonal(counts, axis1=-2, axis2=-1)
    wrongly, missed = counts.sum(axis=-2) - right, counts.sum(axis=-1) - right
    rest = counts.sum(axis=(-2, -1))[..., None] - right - wrongly - missed
    return library, *(part[..., 1:] for part in (right, wrongly, missed, rest))


def _ratio(library: ModuleType, above: Any, below: Any, present: Any, *, otherwise: float = 0.0) -> Any:
    """Returns above / below, `otherwise` where below is 0, NaN where the class is absent from both maps."""
    value = library.where(below > 0, above / library.where(below > 0, below, 1), otherwise)
    return library.where(present > 0, value, np.nan)


def counts_to_dice(counts: Counts) -> Ratios:
    """Returns 2 TP / (2 TP + FP + FN) of each class but background; numpy counts give float64, others float32."""
    library, right, wrongly, missed, _ = _parts(counts)
    present = right + wrongly + missed
    return _ratio(library, 2 * right, right + present, present)


def counts_to_iou(counts: Counts) -> Ratios:
    """Returns TP / (TP + FP + FN), the Jaccard index, of each class but background."""
    library, right, wrongly, missed, _ = _parts(counts)
    present = right + wrongly + missed
    return _ratio(library, right, present, present)


def counts_to_precision(counts: Counts) -> Ratios:
    """Returns TP / (TP + FP), the positive predictive value, of each class but background."""
    library, right, wrongly, missed, _ = _parts(counts)
    return _ratio(library, right, right + wrongly, right + wrongly + missed)


def counts_to_recall(counts: Counts) -> Ratios:
    """Returns TP / (TP + FN), the sensitivity, of each class but background."""
    library, right, wrongly, missed, _ = _parts(counts)
    return _ratio(library, right, right + missed, right + wrongly + missed)


def counts_to_specificity(counts: Counts) -> Ratios:
    """Returns TN / (TN + FP) of each class but background; 1 where the class fills the truth."""
    library, right, wrongly, missed, rest = _parts(counts)
    return _ratio(library, rest, rest + wrongly, right + wrongly + missed, otherwise=1.0)


def counts_to_accuracy(counts: Counts) -> Ratios:
    """Returns (TP + TN) / all of each class but background, the class against the rest."""
    library, right, wrongly, missed, rest = _parts(counts)
    present = right + wrongly + missed
    return _ratio(library, right + rest, present + rest, present)


def dice(
    pred: Integer[Array | np.ndarray, "*S"], true: Integer[Array | np.ndarray, "*S"], *, num_classes: int
) -> Float[Array, "{num_classes}-1"]:
    """Returns the Dice coefficient of each class but background, all pixels pooled; vmap it for one value a case.

    NaN where the class is absent from both maps, 0 where it is absent from one. Source: Dice, Ecology 26 (1945).
    """
    return jnp.asarray(counts_to_dice(confusion(pred, true, num_classes=num_classes)))


def iou(
    pred: Integer[Array | np.ndarray, "*S"], true: Integer[Array | np.ndarray, "*S"], *, num_classes: int
) -> Float[Array, "{num_classes}-1"]:
    """Returns intersection over union of each class but background; empty sides as in `dice`."""
    return jnp.asarray(counts_to_iou(confusion(pred, true, num_classes=num_classes)))


def precision(
    pred: Integer[Array | np.ndarray, "*S"], true: Integer[Array | np.ndarray, "*S"], *, num_classes: int
) -> Float[Array, "{num_classes}-1"]:
    """Returns the share of predicted pixels that are right, of each class but background; empty sides as in `dice`."""
    return jnp.asarray(counts_to_precision(confusion(pred, true, num_classes=num_classes)))


def recall(
    pred: Integer[Array | np.ndarray, "*S"], true: Integer[Array | np.ndarray, "*S"], *, num_classes: int
) -> Float[Array, "{num_classes}-1"]:
    """Returns the share of true pixels that were found, of each class but background; empty sides as in `dice`."""
    return jnp.asarray(counts_to_recall(confusion(pred, true, num_classes=num_classes)))


def specificity(
    pred: Integer[Array | np.ndarray, "*S"], true: Integer[Array | np.ndarray, "*S"], *, num_classes: int
) -> Float[Array, "{num_classes}-1"]:
    """Returns the share of other pixels not called the class, of each class but background; NaN if absent from both."""
    return jnp.asarray(counts_to_specificity(confusion(pred, true, num_classes=num_classes)))
