"""Outlines of a mask along the edges of its pixels, so that filling them gives the mask back exactly."""

import numpy as np
from jaxtyping import Bool, Float


def outlines(mask: Bool[np.ndarray, "H W"]) -> list[Float[np.ndarray, "N 2"]]:
    """Returns closed polygons around the pixels of a mask, each by its corners `(row, column)`; the last one joins the
    first.

    Pixel centres have whole coordinates, so corners end in .5 and no centre lies on a polygon: a pixel is in the mask
    exactly where an odd number of polygons surrounds its centre. Outer rims run with the mask on their right, as seen
    with rows downwards, holes the other way round. Pixels that only touch at a corner belong to polygons of their own.
    """
    tops, lefts = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not tops.size:
        return []
    start = np.array([tops[0], lefts[0]])
    inner = np.pad(mask[tops[0] : tops[-1] + 1, lefts[0] : lefts[-1] + 1], 1)
    edges = _edges(inner)
    ahead = set(edges)
    return [_follow(ahead, first, width=inner.shape[1]) + start - 1.5 for first in edges if first in ahead]


def _edges(mask: np.ndarray) -> list[tuple[int, int]]:
    """Returns the sides of the mask (corner where one starts, direction), row by row, the mask on their right.

    Corner (r, c) is the upper left one of pixel (r, c) and has the number r W + c. Directions: 0 right, 1 down, 2 left,
    3 up.
    """
    width, found = mask.shape[1], []
    above, left = np.roll(mask, 1, axis=0), np.roll(mask, 1, axis=1)
    rows, columns = np.nonzero(mask & ~above)  # upper side of a pixel: to the right
    found.append((rows * width + columns, 0))
    rows, columns = np.nonzero(left & ~mask)  # right side: down
    found.append((rows * width + columns, 1))
    rows, columns = np.nonzero(above & ~mask)  # lower side: to the left
    found.append((rows * width + columns + 1, 2))
    rows, columns = np.nonzero(mask & ~left)  # left side: up
    found.append(((rows + 1) * width + columns, 3))
    return sorted((corner, direction) for corners, direction in found for corner in corners.tolist())


def _follow(ahead: set[tuple[int, int]], first: tuple[int, int], *, width: int) -> np.ndarray:
    """Takes the polygon that begins with an edge out of the edges; returns the corners at which it turns.

    `first`, the first edge of all that are left, begins at a turn: its corner is the topmost, and there the leftmost.
    """
    steps = [row * width + column for row, column in ((0, 1), (1, 0), (0, -1), (-1, 0))]
    turns: list[int] = []
    here, before = first, -1
    while True:
        ahead.remove(here)
        corner, direction = here
        if direction != before:
            turns.append(corner)
        corner, before = corner + steps[direction], direction
        # Right turn first: where two pixels touch at a corner, that keeps them apart.
        choices = [(corner, (direction + turn) % 4) for turn in (1, 0, 3)]
        here = next(choice for choice in choices if choice in ahead or choice == first)
        if here == first:
            return np.array([divmod(turn, width) for turn in turns], np.float64)
