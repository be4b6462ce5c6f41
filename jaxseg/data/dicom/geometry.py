"""Slices to one grid: sorted along their normal, evenly spaced, with an affine in RAS+ millimetres."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxseg.data.dicom.headers import Slice
from jaxseg.data.volume import identity_affine
from jaxseg.typing import UserError

SAME_MM = 0.01  # positions nearer than this along the normal are one
UNEVEN = 0.1  # share of the slice distance by which a slice may lie off the even grid
SHIFTED = 0.25  # share of a pixel by which a slice may lie off the straight line of the others, in its plane
TILT_MM = 0.1  # first and last slice may lie so far off their normal before that is a tilt
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def normal(orientation: Sequence[float]) -> Float[np.ndarray, "3"]:
    """Returns the unit normal of a slice, LPS: along a row times along a column."""
    across = np.cross(orientation[:3], orientation[3:])
    return across / np.linalg.norm(across)


def planes(slices: Sequence[Slice], *, path: Any) -> list[list[Slice]]:
    """Returns slices in the order of their positions along the normal; those at one position are together.

    Args:
      slices: of one orientation.
      path: for messages.

    Raises:
      UserError: there is no position, orientation or pixel spacing.
    """
    first = slices[0]
    if first.position is None:
        return [[one] for one in slices]
    if first.orientation is None or not np.linalg.norm(np.cross(first.orientation[:3], first.orientation[3:])) > 0.9:
        raise UserError(
            f"{path} should say how its slices are turned, but ImageOrientationPatient is "
            f"{first.orientation}; export the series again."
        )
    across = normal(first.orientation)
    heights = np.array([np.dot(one.position or (), across) for one in slices])
    result: list[list[Slice]] = []
    last = -math.inf
    for place in np.argsort(heights, kind="stable"):
        if heights[place] - last > SAME_MM:
            result.append([])
            last = heights[place]
        result[-1].append(slices[place])
    return result


def affine(slices: Sequence[Slice], *, path: Any) -> Float[np.ndarray, "4 4"]:
    """Returns the affine that takes `(z, y, x)` indices to millimetres, RAS+.

    Slices that are shifted against each other by the same step (a tilted gantry) give an affine with a shear. A picture
    without a place in the patient lies upright, as other pictures do. A single slice is as thick as its header says.

    Args:
      slices: one a plane, in order (see `planes`).
      path: for messages.

    Raises:
      UserError: slices are missing (the gaps are named), uneven, or shifted against each other; or there is no spacing.
    """
    first = slices[0]
    if first.position is None or first.orientation is None:
        return identity_affine(3) @ np.diag([1.0, *(first.spacing or (1.0, 1.0)), 1.0])
    if first.spacing is None or min(first.spacing) <= 0:
        raise UserError(
            f"{path} should say how far its pixels lie apart, but PixelSpacing is {first.spacing}; export it again."
        )
    rows = np.array(first.orientation[:3]) / np.linalg.norm(first.orientation[:3])
    columns = np.array(first.orientation[3:]) / np.linalg.norm(first.orientation[3:])
    step = _step(np.array([one.position for one in slices]), first, path)
    result = np.eye(4)
    result[:3, 0], result[:3, 1], result[:3, 2] = step, columns * first.spacing[0], rows * first.spacing[1]
    result[:3, 3] = first.position
    return LPS_TO_RAS @ result


def tilt(slices: Sequence[Slice]) -> float:
    """Returns the angle in radians between the normal and the line through the first pixels; 0 for what has none."""
    first, last = slices[0], slices[-1]
    if len(slices) < 2 or first.position is None or last.position is None or first.orientation is None:
        return 0.0
    whole, across = np.subtract(last.position, first.position), normal(first.orientation)
    height = float(whole @ across)
    aside = float(np.linalg.norm(whole - height * across))
    return math.atan2(aside, abs(height)) if aside > TILT_MM else 0.0


def _step(positions: Float[np.ndarray, "N 3"], first: Slice, path: Any) -> Float[np.ndarray, "3"]:
    """Returns the vector from slice to slice, LPS."""
    across = normal(first.orientation or ())
    if len(positions) == 1:
        return across * (first.thickness or 1.0)
    heights = positions @ across
    _check_even(heights, path)
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    line = positions[0] + np.arange(len(positions))[:, None] * step
    aside = positions - line
    aside -= np.outer(aside @ across, across)
    apart = float(np.linalg.norm(aside, axis=1).max())
    if apart > SHIFTED * min(first.spacing or (1.0,)):
        raise UserError(
            f"{path} should be a stack, but its slices are shifted in their plane by up to {apart:.3g} mm; "
            "resample the series onto one grid."
        )
    flat = step - (step @ across) * across
    if np.linalg.norm(flat) * (len(positions) - 1) <= TILT_MM:
        return across * (step @ across)
    if np.linalg.norm(flat) > abs(step @ across):
        angle = math.degrees(math.atan2(np.linalg.norm(flat), step @ across))
        raise UserError(
            f"{path} should be a stack, but its slices lie {angle:.0f} degrees off their normal; "
            "resample the series onto one grid."
        )
    return step


def _check_even(heights: Float[np.ndarray, "N"], path: Any) -> None:
    """Refuses gaps and uneven distances."""
    steps = np.diff(heights)
    usual = float(np.median(steps))
    gaps = [place for place, length in enumerate(steps) if length > 1.5 * usual]
    if gaps:
        listed = ", ".join(f"from {heights[place]:.5g} to {heights[place + 1]:.5g} mm" for place in gaps[:5])
        raise UserError(
            f"{path} lacks slices: most lie {usual:.4g} mm apart, but there {'is' if len(gaps) == 1 else 'are'} "
            f"{len(gaps)} wider gap(s), {listed} along the normal; add the missing files, or split the series there."
        )
    even = np.linspace(heights[0], heights[-1], len(heights))
    if np.abs(heights - even).max() > UNEVEN * usual:
        raise UserError(
            f"{path} should have evenly spaced slices, but they lie {steps.min():.4g} to {steps.max():.4g} mm apart; "
            "resample the series onto one grid."
        )
