"""Binary masks as COCO run lengths on the host: hundreds of large masks an image in a few kilobytes (pycocotools)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

RunLength = dict[str, Any]  # {"size": [H, W], "counts": bytes}


def encode(mask: Bool[np.ndarray, "H W"]) -> RunLength:
    """Returns the run-length encoding of a mask."""
    from pycocotools import mask as coco

    return coco.encode(np.asfortranarray(mask, np.uint8))


def decode(encoded: RunLength) -> Bool[np.ndarray, "H W"]:
    """The inverse of `encode`."""
    from pycocotools import mask as coco

    return coco.decode(encoded).astype(bool)


def areas(encoded: Sequence[RunLength]) -> Float[np.ndarray, " N"]:
    """Returns the pixels of each mask."""
    from pycocotools import mask as coco

    # one by one: pycocotools 2.0.11 under numpy 2 refuses 256 masks at a time
    return np.array([float(coco.area(mask)) for mask in encoded], np.float64)


def boxes(encoded: Sequence[RunLength]) -> Float[np.ndarray, "N 4"]:
    """Returns the bounding box of each mask as xyxy, both ends of a pixel included; zeros for an empty mask."""
    from pycocotools import mask as coco

    if not len(encoded):
        return np.zeros((0, 4))
    found = np.asarray(coco.toBbox(list(encoded)), np.float64).reshape(-1, 4)
    return np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)


def overlaps(
    pred: Sequence[RunLength], true: Sequence[RunLength], *, crowd: Bool[np.ndarray, " G"] | None = None
) -> Float[np.ndarray, "D G"]:
    """Returns intersection over union of every pair of masks; over a crowd, the share of the predicted mask inside.

    Args:
      pred, true: masks of one image.
      crowd: which of the true ones are crowds; None: none.
    """
    from pycocotools import mask as coco

    if not len(pred) or not len(true):
        return np.zeros((len(pred), len(true)))
    flags = np.zeros(len(true), np.uint8) if crowd is None else np.asarray(crowd, np.uint8)
    return np.asarray(coco.iou(list(pred), list(true), flags.tolist()), np.float64)
