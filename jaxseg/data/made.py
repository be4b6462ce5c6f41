"""Pairs of an image that a generator makes and the label map it was made of; numpy on the host, pure of files.

Pair i is a function of (seed, i) alone: what is asked for later, or how many pairs, changes nothing about it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int16, Integer

from jaxseg.data import label_samplers
from jaxseg.typing import UserError

TRIES = 10  # images of one pair before the generator is said not to keep its labels
OF_LABEL, OF_STYLE = 1, 2  # what a stream of random numbers is for
Ids = Int16[np.ndarray, "*S"]  # class ids, IGNORE included
SampleFn = Callable[..., Any]  # (segmentation (1, *S, K), style (1, Z)) -> image (1, *S, C), normalised
DrawFn = Callable[..., "Drawn"]  # (number, *, seed) -> Drawn
ScoreFn = Callable[..., float | None]  # (normalised image (*S, C), Drawn) -> Dice; None: nothing to compare


class Drawn(NamedTuple):
    """A label map to make an image of.

    Attributes:
      label: class ids `(*S)`, IGNORE where there is none.
      source: what it comes from, for the record.
      spacing: millimetres along each axis, or None where that of the training cases holds.
    """

    label: Ids
    source: str
    spacing: tuple[float, ...] | None = None


class Pair(NamedTuple):
    """A made image and its label map.

    Attributes:
      name: of its files; the same in every command.
      image: `(*S, C)` from -1 to 1.
      drawn: the label map.
      dice: of a segmentation of the image against the label map, None where that was not measured.
      tries: images made until this one was kept.
    """

    name: str
    image: Float32[np.ndarray, "*S C"]
    drawn: Drawn
    dice: float | None
    tries: int


def name_of(number: int) -> str:
    """Returns the name of a pair. Six digits: four would read as nnU-Net's number of a channel."""
    return f"synthetic_{number:06d}"


def sampled(text: str, labels: Sequence[Integer[np.ndarray, "*S"]]) -> DrawFn:
    """Returns a function that draws new label maps out of given ones of one shape (`label_samplers.from_string`).

    Raises:
      UserError: the text does not parse or does not suit the maps.
    """
    draw = label_samplers.from_string(text, labels)

    def drawn(number: int, *, seed: int) -> Drawn:
        return Drawn(draw(seed=seed).astype(np.int16), text)

    return drawn


def given(read: Sequence[Callable[[], Drawn]]) -> DrawFn:
    """Returns a function that gives label maps in their order, and then from the first one again."""

    def drawn(number: int, *, seed: int) -> Drawn:
        return read[number % len(read)]()

    return drawn


def make_pairs(
    sample_fn: SampleFn,
    draw: DrawFn,
    *,
    count: int,
    seed: int,
    num_classes: int,
    style_features: int,
    divisor: Sequence[int],
    encode: Callable[[Any], Any],
    score: ScoreFn | None = None,
    min_dice: float = 0.0,
) -> Iterator[Pair]:
    """Yields pairs; an image that is blank, or whose score is below `min_dice`, is made anew, ten times at most.

    Each try takes other random numbers for the style and, where label maps are drawn, for the label map.

    Args:
      sample_fn: the generator.
      draw: gives the label maps.
      count: how many pairs.
      seed: 0 or more.
      num_classes: K, with background.
      style_features: Z, the length of the style; 0 where the generator takes none.
      divisor: what each axis that the generator sees must be divisible by; maps are padded to it and images cut back.
      encode: normalised intensities -> -1 to 1.
      score: how well an image keeps its label map.
      min_dice: the least score.

    Raises:
      UserError: a label map is too small for the generator, an image is not finite, or ten images of a pair were not
        good enough.
    """
    for number in range(count):
        worst: list[str] = []
        for attempt in range(TRIES):
            drawn = draw(number, seed=_number([seed, number, attempt, OF_LABEL]))
            style = np.random.default_rng([seed, number, attempt, OF_STYLE]).standard_normal((1, style_features))
            image = image_of(
                sample_fn,
                drawn.label,
                style.astype(np.float32),
                num_classes=num_classes,
                divisor=divisor,
                source=drawn.source,
            )
            encoded = np.asarray(encode(image), np.float32)
            if is_blank(encoded):
                worst.append("blank")
                continue
            dice = None if score is None else score(image, drawn)
            if dice is None or dice >= min_dice:
                yield Pair(name_of(number), encoded, drawn, dice, attempt + 1)
                break
            worst.append(f"{dice:.2f}")
        else:
            raise _not_good(name_of(number), worst, min_dice)


def _number(words: Sequence[int]) -> int:
    """Returns one number for a function that takes a single seed."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def image_of(
    sample_fn: SampleFn,
    label: Integer[np.ndarray, "*S"],
    style: Float32[np.ndarray, "1 Z"],
    *,
    num_classes: int,
    divisor: Sequence[int],
    source: str,
) -> Float32[np.ndarray, "*S C"]:
    """Returns the normalised image of one label map, padded to what the generator divides by and cut back.

    Args:
      sample_fn, num_classes, divisor: see `make_pairs`.
      label: class ids, IGNORE where there is none.
      style: for the generator.
      source: what the map comes from, for messages.

    Raises:
      UserError: the map is too small, or the image is not finite.
    """
    padded = pad(label, divisor)
    image = np.asarray(sample_fn(one_hot(padded, num_classes)[None], style), np.float32)[0]
    image = image[tuple(slice(size) for size in label.shape)]
    if not np.isfinite(image).all():
        raise UserError(
            f"The generator made an image of {source} that is not finite; take an earlier checkpoint, such as "
            "--set predict.checkpoint=1000."
        )
    return image


def _not_good(name: str, worst: Sequence[str], min_dice: float) -> UserError:
    if set(worst) == {"blank"}:
        return UserError(f"{name}: {TRIES} images in a row are blank; train the generator for longer.")
    return UserError(
        f"{name}: {TRIES} images in a row do not keep their labels (Dice {', '.join(worst)}); lower "
        f"synthesis.min_dice (now {min_dice:g}), or train the generator for longer."
    )


def is_blank(encoded: Float[np.ndarray, "*S C"]) -> bool:
    """Returns whether an image shows nothing in 8 bits; readers refuse such a file."""
    return all(len(np.unique(to_bytes(encoded[..., channel]))) == 1 for channel in range(encoded.shape[-1]))


def to_bytes(encoded: Float[np.ndarray, "..."]) -> np.ndarray:
    """Returns numbers from -1 to 1 as 0 to 255."""
    return np.rint((np.clip(encoded, -1, 1).astype(np.float64) + 1) / 2 * 255).astype(np.uint8)


def one_hot(label: Integer[np.ndarray, "*S"], num_classes: int) -> Float32[np.ndarray, "*S K"]:
    """Returns what a generator sees of a label map; all 0 where it says IGNORE."""
    return (label[..., None] == np.arange(num_classes)).astype(np.float32)


def pad(label: Integer[np.ndarray, "*S"], divisor: Sequence[int]) -> Integer[np.ndarray, "*T"]:
    """Returns the map with ends such that `divisor` divides each axis: a scan goes on there, so its edge is repeated.

    Raises:
      UserError: an axis is shorter than half of that, so that most of it would be made up.
    """
    check_size(label.shape, divisor, what="The label map")
    return np.pad(label, [(0, -size % step) for size, step in zip(label.shape, divisor)], mode="edge")


def check_size(shape: Sequence[int], divisor: Sequence[int], *, what: str) -> None:
    """Checks that a label map is not too small for the generator.

    Raises:
      UserError: it is.
    """
    if any(2 * size < step for size, step in zip(shape, divisor)):
        least = " x ".join(str(-(-step // 2)) for step in divisor)
        raise UserError(
            f"{what} is {' x '.join(map(str, shape))}, but the generator needs at least {least}; give larger ones."
        )


def to_one_shape(labels: Sequence[Integer[np.ndarray, "..."]]) -> list[Integer[np.ndarray, "*T"]]:
    """Returns maps of one shape as they are, others cut and padded with background around their middle to the median.

    Args:
      labels: one or more maps, class ids.
    """
    shapes = [label.shape for label in labels]
    if len(set(shapes)) == 1:
        return list(labels)
    target = np.median(shapes, axis=0).astype(int).tolist()
    return [_centred(label, target) for label in labels]


def _centred(label: Integer[np.ndarray, "*S"], target: Sequence[int]) -> Integer[np.ndarray, "*T"]:
    inside, around = [], []
    for size, wanted in zip(label.shape, target):
        cut, missing = max(size - wanted, 0), max(wanted - size, 0)
        inside.append(slice(cut // 2, cut // 2 + min(size, wanted)))
        around.append((missing // 2, missing - missing // 2))
    return np.pad(label[tuple(inside)], around)


def slices_with_foreground(label: Integer[np.ndarray, "D H W"]) -> list[int]:
    """Returns the places along the first axis where a class other than background lies."""
    return np.flatnonzero((label > 0).any(axis=(1, 2))).tolist()


def file_axes(order: Sequence[int] | None, *, ndim: int) -> tuple[int, ...]:
    """Returns the transposition that undoes the axis order of preprocessing (`Settings.axis_order`).

    Args:
      order: of the network's axes; None, or for another number of axes, leaves them.
      ndim: spatial axes.
    """
    if order is None or len(order) != ndim:
        return tuple(range(ndim))
    return tuple(int(axis) for axis in np.argsort(order))


def as_acquired(
    image: Float[np.ndarray, "*S C"], kinds: Sequence[str], statistics: Sequence[Mapping[str, float] | None] | None
) -> Float32[np.ndarray, "*S C"]:
    """Returns intensities that preprocessing would normalise to about those of `image`: "ct" and "rgb" go by absolute
    values; the other kinds look at each image by itself.

    Args:
      image: normalised.
      kinds, statistics: of `preprocess.Settings`.
    """
    found = np.array(image, np.float32)
    for channel, kind in enumerate(kinds):
        values = statistics[channel] if statistics else None
        if kind == "ct" and values is not None:
            found[..., channel] = found[..., channel] * values["std"] + values["mean"]
        elif kind == "rgb":
            found[..., channel] *= 255
    return found


def is_background(label: Ids) -> bool:
    """Returns whether a map holds no class but background."""
    return bool(not (label > 0).any())
