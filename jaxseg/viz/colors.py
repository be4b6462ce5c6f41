"""Fixed colours by class id, told apart by colour-blind readers and on grey images.

The first seven are the palette of Okabe and Ito (2008), without black and ordered so that neighbouring ids differ most.
"""

import colorsys

import numpy as np
from jaxtyping import Float, UInt8

BACKGROUND = (128, 128, 128)
PALETTE = (
    (86, 180, 233),  # sky blue
    (230, 159, 0),  # orange
    (0, 178, 128),  # bluish green, a little lighter than the original so that it shows on dark anatomy
    (222, 129, 178),  # reddish purple
    (240, 228, 66),  # yellow
    (224, 100, 20),  # vermilion
    (60, 130, 230),  # blue
)
_GOLDEN_RATIO = 0.618033988749895

Color = tuple[int, int, int]


def class_color(index: int) -> Color:
    """Returns the (red, green, blue) bytes of a class id; 0 is the background, later ids get spaced hues."""
    if index <= 0:
        return BACKGROUND
    if index <= len(PALETTE):
        return PALETTE[index - 1]
    hue = (index * _GOLDEN_RATIO) % 1.0
    value = 0.95 if index % 2 else 0.75
    red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.65, value))
    return red, green, blue


def hex_color(index: int) -> str:
    """Returns `class_color` as "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*class_color(index))


def lighter(color: Color, *, amount: float = 0.45) -> Color:
    """Mixes a colour with white: amount 0 leaves it, 1 is white."""
    red, green, blue = (round(channel + (255 - channel) * amount) for channel in color)
    return red, green, blue


def lighter_class(index: int) -> Color:
    """The tone of a class's prediction where the truth is drawn in `class_color`."""
    return lighter(class_color(index))


def heat(values: Float[np.ndarray, "*S"]) -> UInt8[np.ndarray, "*S 3"]:
    """Returns the colour of values from 0 (dark blue) over magenta to 1 (yellow): matplotlib's table "plasma".

    It grows brighter all the way, so that its order is kept on grey prints and by colour-blind readers.
    """
    import matplotlib

    return np.rint(255 * matplotlib.colormaps["plasma"](values.astype(np.float64))[..., :3]).astype(np.uint8)
