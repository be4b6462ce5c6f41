"""nnU-Net's side of benchmarks/augmentation.py, and what both sides share."""

import os
from collections.abc import Callable, Sequence

import numpy as np

CALLS = 10


def images_and_labels(size: Sequence[int], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns noise `(B, *S, 1)` and blocks of three classes `(B, *S)`."""
    draw = np.random.default_rng(0)
    image = draw.normal(size=(batch, *size, 1)).astype(np.float32)
    coarse = draw.integers(0, 3, (batch, *(-(-length // 8) for length in size)))
    for axis in range(1, coarse.ndim):
        coarse = coarse.repeat(8, axis)
    return image, np.ascontiguousarray(coarse[(slice(None), *map(slice, size))]).astype(np.int16)


def theirs(patch: Sequence[int], batch: int, calls: int) -> Callable[[], None]:
    """Returns `calls` batches by the transforms of nnUNetTrainer."""
    import torch
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    np.random.seed(0)
    # The rules of configure_rotation_dummyDA_mirroring_and_inital_patch_size for patches that are not flat.
    angle = np.pi if len(patch) == 2 else np.pi / 6
    assert max(patch) / min(patch) <= 1.5
    raw = get_patch_size(list(patch), *[(-angle, angle)] * 3, (0.85, 1.25))
    image, label = images_and_labels(raw, batch)
    images = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 1)))
    labels = torch.from_numpy(label[:, None])
    transform = nnUNetTrainer.get_training_transforms(
        np.array(patch), (-angle, angle), None, tuple(range(len(patch))), False, use_mask_for_norm=[False]
    )

    def run():
        for _ in range(calls):
            done = [transform(image=x.clone(), segmentation=y.clone()) for x, y in zip(images, labels)]
            torch.stack([sample["image"] for sample in done])
            torch.stack([sample["segmentation"] for sample in done])

    return run
