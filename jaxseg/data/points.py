"""Points of a file on the grid that a network sees."""

from collections.abc import Sequence

from jaxseg.data.preprocess import Record


def forward_point(point: Sequence[int], record: Record) -> tuple[int, ...]:
    """Returns the voxel of the network's grid that holds a voxel of the file.

    What lies in the margin that was cut off goes to the nearest voxel.

    Args:
      point: index into the file's array, `(z, y, x)` or `(y, x)`.
      record: of the image, as `preprocess.forward` gives it.

    Raises:
      ValueError: the point has another number of axes, or lies outside the image.
    """
    shape = record["shape"]
    if len(point) != len(shape) or not all(0 <= place < size for place, size in zip(point, shape)):
        raise ValueError(f"A point of an image of {tuple(shape)} should lie within it, got {tuple(point)}.")
    found = []
    for axis, flip, (start, stop), size in zip(record["axes"], record["flips"], record["box"], record["new_shape"]):
        turned = shape[axis] - 1 - point[axis] if flip else point[axis]
        inside = min(max(turned, start), stop - 1) - start
        found.append(int((inside + 0.5) * size / (stop - start)))
    return tuple(found)
