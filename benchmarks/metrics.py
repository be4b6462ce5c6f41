"""Metrics of a case of 128x256x256 voxels: ours, a plain scipy formulation, and MONAI's functions.

    python -m benchmarks.metrics --peer=PYTHON_WITH_MONAI

Two masks of an organ (one large blob, the prediction shifted and roughened) and of many lesions. HD95 and surface Dice
in mm; connected components with diagonal neighbours; Dice of three classes. "scipy" is what one writes by hand:
binary_erosion for surfaces, distance_transform_edt over the whole volume, ndimage.label. It runs in our Python. The
surface Dice of MONAI (DeepMind's idea) weighs voxels alike, as ours by default.
"""

from collections.abc import Callable, Sequence

import numpy as np
from absl import app

from benchmarks import compare
from benchmarks import metrics_monai as peer

SHAPE, TINY = (128, 256, 256), (12, 20, 16)


def ours(what: str, shape: Sequence[int]) -> Callable[[], np.ndarray]:
    """Returns one call of `metrics.hausdorff95`, `surface_dice`, `lesion.components` or of Dice from `confusion`."""
    from jaxseg import metrics
    from jaxseg.metrics import lesion

    if what == "Dice":
        import jax

        pred, true = peer.label_maps(shape)
        count = jax.jit(lambda pred, true: metrics.dice(pred, true, num_classes=peer.CLASSES))
        return lambda: np.asarray(count(pred, true))
    if what == "components":
        mask = peer.lesions(shape)
        return lambda: lesion.components(mask)[0]
    pred, true = peer.organs(shape)
    if what == "HD95":
        return lambda: np.array([metrics.hausdorff95(pred, true, peer.SPACING)])
    return lambda: np.array([metrics.surface_dice(pred, true, peer.SPACING, tolerance_mm=peer.TOLERANCE)])


def device_components(shape: Sequence[int]) -> Callable[[], np.ndarray]:
    """Returns one call of `ops.connected_components`, made for accelerators, on the CPU."""
    import jax

    from jaxseg import ops

    mask = jax.numpy.asarray(peer.lesions(shape))
    return lambda: np.asarray(ops.connected_components(mask, connectivity=3))


def by_scipy(what: str, shape: Sequence[int]) -> Callable[[], np.ndarray]:
    """Returns one call of the plain formulation with scipy and numpy."""
    from scipy import ndimage

    if what == "Dice":
        pred, true = peer.label_maps(shape)

        def dice():
            classes = range(1, peer.CLASSES)
            sizes = [((pred == k).sum(), (true == k).sum(), ((pred == k) & (true == k)).sum()) for k in classes]
            return np.array([2 * both / (a + b) for a, b, both in sizes])

        return dice
    if what == "components":
        mask = peer.lesions(shape)
        return lambda: ndimage.label(mask, np.ones((3, 3, 3)))[0]
    pred, true = peer.organs(shape)

    def distances():
        surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (pred, true)]
        maps = [ndimage.distance_transform_edt(~surface, sampling=peer.SPACING) for surface in surfaces]
        return maps[1][surfaces[0]], maps[0][surfaces[1]]

    if what == "HD95":
        return lambda: np.array([max(np.percentile(side, 95) for side in distances())])
    return lambda: np.array([np.mean(np.concatenate(distances()) <= peer.TOLERANCE)])


def rows(shape: Sequence[int]) -> list[compare.Row]:
    """One row a metric."""
    result = []
    for what in ("HD95", "surface Dice", "components", "Dice"):
        options = {"what": what, "shape": shape}
        third = compare.Side("MONAI", "benchmarks.metrics_monai:theirs", options, peer=True)
        if what == "components":
            third = compare.Side("ours, for accelerators", "benchmarks.metrics:device_components", {"shape": shape})
        sides = (
            compare.Side("ours", "benchmarks.metrics:ours", options),
            compare.Side("scipy", "benchmarks.metrics:by_scipy", options),
            third,
        )
        result.append(compare.Row(what, sides, tolerance=1e-3))
    return result


def main(_) -> None:
    compare.table(rows(TINY if compare.TINY.value else SHAPE))


if __name__ == "__main__":
    app.run(main)
