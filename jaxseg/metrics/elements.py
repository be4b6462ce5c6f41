"""Surface elements of a mask: how much surface lies in each 2 x 2 (x 2) neighbourhood of voxels.

The marching-cubes surface (Lorensen and Cline, 1987) runs through the middles of the edges whose two ends differ. The
tables are computed here, once a spacing. Three choices fix them, and reproduce DeepMind's recorded distances:
where a face of the cube is a chequerboard, the surface cuts off the corners of the rarer kind; a neighbourhood and its
complement have the same surface; an outline is split into the triangles that, in cubic voxels, have the largest area.
"""

import functools
import itertools
import math

import numpy as np
from jaxtyping import Bool, Float, UInt8

Edge = tuple[int, int]  # two corners of the cube


def element_codes(mask: Bool[np.ndarray, "*S"]) -> UInt8[np.ndarray, "*T"]:
    """Returns for each neighbourhood which of its corners are set: bit n is corner n, the last axis counting fastest.

    One neighbourhood is centred on every grid point between voxels, the mask's outer corners included: `T = S + 1`.
    """
    padded = np.pad(mask, 1)
    codes = np.zeros([size + 1 for size in mask.shape], np.uint8)
    for bit, corner in enumerate(itertools.product((0, 1), repeat=mask.ndim)):
        window = padded[tuple(slice(start, start + size + 1) for start, size in zip(corner, mask.shape))]
        codes |= window.astype(np.uint8) << bit
    return codes


@functools.lru_cache(maxsize=64)
def element_weights(spacing_mm: tuple[float, ...]) -> Float[np.ndarray, " codes"]:
    """Returns the length in mm (2D, 16 codes) or area in mm^2 (3D, 256 codes) inside a neighbourhood, by code."""
    if len(spacing_mm) == 2:
        weights = np.array([_length(code, spacing_mm) for code in range(16)])
    else:
        weights = np.array([_area(code, spacing_mm) for code in range(256)])
    weights.setflags(write=False)  # every caller shares it
    return weights


def _bits(code: int, number: int) -> list[bool]:
    """Returns which corners are of the rarer kind: a neighbourhood and its complement have the same surface."""
    bits = [bool(code >> bit & 1) for bit in range(number)]
    return bits if 2 * sum(bits) <= number else [not bit for bit in bits]


def _length(code: int, spacing: tuple[float, ...]) -> float:
    bits = _bits(code, 4)
    diagonal = math.hypot(*spacing) / 2  # cuts off one corner
    if sum(bits) == 2 and bits[0] != bits[3]:  # two neighbours: a straight line along the axis on which they lie
        return spacing[1] if bits[0] == bits[1] else spacing[0]
    return sum(bits) * diagonal


def _area(code: int, spacing: tuple[float, ...]) -> float:
    corners = np.array(list(itertools.product((0, 1), repeat=3)))
    area = 0.0
    for outline in _outlines(_bits(code, 8)):
        points = np.array([corners[list(edge)].mean(axis=0) for edge in outline])
        areas = [_triangle_areas(points[list(split)]).sum() for split in _triangulations(len(points))]
        best = _triangulations(len(points))[int(np.argmax(np.round(areas, 9)))]  # rounding: equals go to the first
        area += _triangle_areas(points[list(best)] * spacing).sum()
    return float(area)


def _triangle_areas(points: Float[np.ndarray, "triangles 3 3"]) -> Float[np.ndarray, " triangles"]:
    normals = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    return np.linalg.norm(normals, axis=-1) / 2


@functools.cache
def _triangulations(number: int) -> list[tuple[tuple[int, int, int], ...]]:
    """Returns every way to split a polygon of `number` points into triangles."""

    def split(first: int, last: int) -> list[tuple]:
        if last - first < 2:
            return [()]
        return [
            (*left, (first, middle, last), *right)
            for middle in range(first + 1, last)
            for left in split(first, middle)
            for right in split(middle, last)
        ]

    return split(0, number - 1)


@functools.cache
def _faces() -> list[list[int]]:
    """Returns the corners of each of the cube's six faces, in the order of a walk around it."""
    around = ((0, 0), (0, 1), (1, 1), (1, 0))
    weights = (4, 2, 1)  # of the axes in a corner's number
    faces = []
    for axis, side in itertools.product(range(3), (0, 1)):
        first, second = (weight for other, weight in enumerate(weights) if other != axis)
        faces.append([side * weights[axis] + u * first + v * second for u, v in around])
    return faces


def _outlines(bits: list[bool]) -> list[list[Edge]]:
    """Returns the closed polygons of the surface, each as the cut edges it passes; every cut edge lies on two faces."""
    neighbours: dict[Edge, list[Edge]] = {}
    for face in _faces():
        sides = [(face[turn], face[(turn + 1) % 4]) for turn in range(4)]
        edges = [(min(side), max(side)) for side in sides]
        cut = [edge for edge in edges if bits[edge[0]] != bits[edge[1]]]
        if len(cut) == 4:  # a chequerboard: join the two edges that meet at a set corner
            cut = cut if bits[face[1]] else cut[1:] + cut[:1]
        for one, other in zip(cut[::2], cut[1::2]):
            neighbours.setdefault(one, []).append(other)
            neighbours.setdefault(other, []).append(one)
    outlines = []
    while neighbours:
        outline = [min(neighbours)]
        while outline[-1] in neighbours:
            ahead = [edge for edge in neighbours.pop(outline[-1]) if edge in neighbours]
            outline.extend(ahead[:1])
        outlines.append(outline)
    return outlines
