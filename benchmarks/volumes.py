"""Preparing a case, resampling it, and exporting a prediction to the grid of the file: ours and nnU-Net's.

    python -m benchmarks.volumes --peer=PYTHON_WITH_NNUNETV2

A synthetic volume of 128x256x256 voxels of 1.5x0.8x0.8 mm (thick slices: 40x256x256 of 5x0.8x0.8 mm) with a margin of
zeros, brought to 1x1x1 mm (3x1x1 mm). Prepare: crop, z-score, order 3, of the image alone, against
DefaultPreprocessor.run_case_npy. Resampling: order 3, and labels of three classes by order 1, against
resample_data_or_seg_to_shape. Export: logits to labels, order 1, with 3 and with 20 classes, against
convert_predicted_logits_to_segmentation_with_correct_shape. Each side gets its own layout: channels last, first.
"""

from collections.abc import Callable, Sequence

import numpy as np
from absl import app

from benchmarks import compare
from benchmarks import volumes_nnunet as peer

CASES = {
    "128x256x256": {"shape": (128, 256, 256), "spacing": (1.5, 0.8, 0.8), "target": (1.0, 1.0, 1.0)},
    "40x256x256, thick": {"shape": (40, 256, 256), "spacing": (5.0, 0.8, 0.8), "target": (3.0, 1.0, 1.0)},
}
TINY = {
    "16x32x32": {"shape": (16, 32, 32), "spacing": (1.5, 0.8, 0.8), "target": (1.0, 1.0, 1.0)},
    "8x32x32, thick": {"shape": (8, 32, 32), "spacing": (5.0, 0.8, 0.8), "target": (3.0, 1.0, 1.0)},
}


def prepare(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> Callable[[], np.ndarray]:
    """Returns one call of `preprocess.forward`."""
    from jaxseg.data import preprocess
    from jaxseg.typing import Volume

    volume = Volume(peer.image(shape)[..., None], tuple(spacing), np.diag([*spacing[::-1], 1.0]))
    settings = preprocess.Settings(spacing=tuple(target), normalize=("zscore",), orientation="keep")
    return lambda: preprocess.forward(volume, settings)[0]


def resample(
    shape: Sequence[int], spacing: Sequence[float], target: Sequence[float], labels: bool
) -> Callable[[], np.ndarray]:
    """Returns one call of `resample.resize` or `resize_labels`."""
    from jaxseg.data import resample as rooms

    size = rooms.new_shape(shape, spacing, target)
    if labels:
        array, orders = peer.label_map(shape), rooms.axis_orders(spacing, target, order=1)
        return lambda: rooms.resize_labels(array, size, orders)
    array, orders = peer.image(shape)[..., None], rooms.axis_orders(spacing, target, order=3)
    return lambda: rooms.resize(array, size, orders)


def export(
    shape: Sequence[int], spacing: Sequence[float], target: Sequence[float], classes: int
) -> Callable[[], np.ndarray]:
    """Returns one call of `preprocess.invert`."""
    from jaxseg.data import preprocess
    from jaxseg.data import resample as rooms

    size = rooms.new_shape(shape, spacing, target)
    record = {
        "shape": list(shape), "axes": [0, 1, 2], "flips": [False] * 3, "box": [[0, length] for length in shape],
        "spacing": list(spacing), "target_spacing": list(target), "new_shape": list(size),
    }  # fmt: skip
    logits = np.ascontiguousarray(np.moveaxis(peer.logits(size, classes), 0, -1))
    return lambda: preprocess.invert(logits, record)


def rows(cases: dict) -> list[compare.Row]:
    """One row a case and kind of work."""
    result = []

    def add(name: str, function: str, options: dict, tolerance: float) -> None:
        sides = (
            compare.Side("ours", f"benchmarks.volumes:{function}", options),
            compare.Side("nnU-Net", f"benchmarks.volumes_nnunet:{function}", options, peer=True),
        )
        result.append(compare.Row(name, sides, tolerance))

    for name, case in cases.items():
        add(f"prepare {name}", "prepare", case, 1e-3)
        add(f"resampling, order 3, {name}", "resample", {**case, "labels": False}, 1e-3)
        add(f"resampling, labels, {name}", "resample", {**case, "labels": True}, 0.0)
        for classes in (3, 20):
            add(f"export, {classes} classes, {name}", "export", {**case, "classes": classes}, 0.0)
    return result


def main(_) -> None:
    compare.table(rows(TINY if compare.TINY.value else CASES))


if __name__ == "__main__":
    app.run(main)
