"""Objects of rectangles, for tests of instances."""

import numpy as np

from jaxseg.ops import run_length
from jaxseg.typing import Instances


def square(top, left, height, width, shape):
    """Returns a mask `shape` that is set in one rectangle."""
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def objects(*masks, labels=None, scores=None, crowd=None):
    """Returns the masks as objects, of class 1 and score 1 unless told else."""
    count = len(masks)
    return Instances(
        tuple(run_length.encode(mask) for mask in masks),
        np.ones(count, np.int32) if labels is None else np.array(labels, np.int32),
        np.ones(count, np.float32) if scores is None else np.array(scores, np.float32),
        np.zeros(count, bool) if crowd is None else np.array(crowd),
    )
