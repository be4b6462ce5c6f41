"""nnU-Net's default augmentation of a batch: ours ("nnunet", one jitted program) and batchgeneratorsv2's transforms.

    python -m benchmarks.augmentation --peer=PYTHON_WITH_NNUNETV2

Both sides draw the same transforms with the same probabilities (jaxseg/data/augment/recipes.py; nnUNetTrainer's
get_training_transforms) for batches of the size that nnU-Net's loader reads. Which transforms a sample gets is drawn,
so a call is several batches with other random numbers. On a CPU both take one sample after another and skip what was
not drawn: ours within one jitted program, theirs in Python, as each of its worker processes does.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from absl import app

from benchmarks import augmentation_nnunet as peer
from benchmarks import compare

CASES = {
    "2D 12x512x512": {"patch": (512, 512), "batch": 12},
    "3D 9x40x56x40": {"patch": (40, 56, 40), "batch": 9},
    "3D 2x128x128x128": {"patch": (128, 128, 128), "batch": 2},
}
TINY = {"2D 2x32x32": {"patch": (32, 32), "batch": 2}, "3D 2x16x16x16": {"patch": (16, 16, 16), "batch": 2}}


def ours(patch: Sequence[int], batch: int, calls: int) -> Callable[[], None]:
    """Returns `calls` batches by `augment.from_string("nnunet")`, waited for one by one."""
    from jaxseg.data import augment

    raw = augment.raw_patch_size("nnunet", tuple(patch))
    image, label = peer.images_and_labels(raw, batch)
    apply = jax.jit(augment.from_string("nnunet", patch_size=tuple(patch)))
    data = {"image": image, "label": label, "index": np.arange(batch, dtype=np.int32)}
    keys = list(jax.random.split(jax.random.key(0), calls))

    def run():
        for key in keys:
            jax.block_until_ready(apply(key, data))

    return run


def rows(cases: dict, calls: int) -> list[compare.Row]:
    """One row a case."""
    result = []
    for name, case in cases.items():
        options = {**case, "calls": calls}
        sides = (
            compare.Side("ours", "benchmarks.augmentation:ours", options),
            compare.Side("nnU-Net", "benchmarks.augmentation_nnunet:theirs", options, peer=True),
        )
        result.append(compare.Row(f"{calls} batches {name}", sides))
    return result


def main(_) -> None:
    compare.table(rows(TINY, 2) if compare.TINY.value else rows(CASES, peer.CALLS))


if __name__ == "__main__":
    app.run(main)
