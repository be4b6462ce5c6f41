"""An episode as one picture: the mask after every step, what each step gained, and what was done to gain it."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer, Shaped, UInt8

from jaxseg import metrics
from jaxseg.typing import IGNORE
from jaxseg.viz import overlay
from jaxseg.viz.images import _resized
from jaxseg.viz.panels import FAINT, GAP, INK, PAPER, _font, _row, _shorten, _stack, legend
from jaxseg.viz.planes import focus_slices

WIDTH = 1180  # pixels: the width of a report
LOSS, GAIN = (222, 129, 178), (0, 178, 128)  # of rewards: reddish purple and bluish green of Okabe and Ito
LOWER, RAISE = ((112, 42, 30), (255, 150, 118)), ((26, 74, 130), (122, 198, 255))  # of actions, the weakest first
OTHER = ((62, 66, 72), (208, 212, 216))
INSIDE, OUTSIDE = (40, 120, 220), (213, 84, 20)  # of clicks
_SHARE = 99  # per cent of the rewards that are not 0 whose colours are not cut
_NARROWEST, _WIDEST = 150, 300  # pixels of one picture's place
_LINE = 18  # pixels of a line of text

Picture = UInt8[np.ndarray, "_ _ 3"]
Click = tuple[int, Sequence[int], bool]  # (step, index of the pixel, whether it belongs to what is sought)


class _Frame(NamedTuple):
    """Where pictures go: `cut` takes what is shown of a map, (height, width) is the size of its picture in pixels."""

    cut: Callable[[np.ndarray], np.ndarray]
    truth: np.ndarray
    size: tuple[int, int]
    cell: int
    columns: int

    @property
    def across(self) -> int:
        return self.columns * (self.cell + GAP) - GAP


def episode(
    image: Shaped[np.ndarray, "*S C"],
    masks: Integer[np.ndarray, "n *S"],
    truth: Integer[np.ndarray, "*S"],
    *,
    rewards: Float[np.ndarray, "T ..."] | None = None,
    actions: Integer[np.ndarray, "T *S"] | Sequence[str] | None = None,
    action_names: Sequence[str] = (),
    clicks: Sequence[Click] | None = None,
    captions: Sequence[str] | None = None,
    classes: Sequence[str] = (),
    place: int | None = None,
    spacing_mm: Sequence[float] | None = None,
    reward_limit: float | None = None,
    title: str = "",
    width: int = WIDTH,
) -> bytes:
    """Draws the image with the truth, the mask at the start and after each of T steps, and rewards and actions below.

    The truth is a solid line in the colour of its class, the mask a dashed one in a lighter tone. Steps that do not fit
    beside each other go on below.

    Args:
      image: intensities `(H, W, C)` or `(D, H, W, C)`; of a volume one slice is shown.
      masks: class ids before the first step and after each, T + 1 of them.
      truth: class ids; IGNORE counts for nothing and is darkened.
      rewards: of each step; of every pixel `(T, *S)`, drawn as a map, or of the whole image `(T,)`, written below it.
      actions: of each step; of every pixel `(T, *S)`, places in `action_names`, or one name a step of the whole image.
      action_names: those that begin with - are drawn red, with + blue, others grey; the later, the brighter.
      clicks: drawn on the mask after their step, and smaller on those that follow.
      captions: above each mask; "start", "step 1", ... by default.
      classes: names by id, background first, for the legend.
      place: the slice of a volume's first axis; by default the one where the first mask is most wrong.
      spacing_mm: in array order; None: square pixels.
      reward_limit: reward of the brightest colour; by default 99 % of those that are not 0 stay below.
      title: of the whole picture, such as the case's name.
      width: of the picture, pixels.

    Returns:
      The picture as PNG. Figures are of the whole case, also where one slice of it is shown.

    Raises:
      ValueError: shapes or numbers of steps do not fit, an action has no name, or a click or slice lies outside.
    """
    _check(image, masks, truth, rewards, actions, action_names, captions, clicks)
    steps, flat = len(masks) - 1, truth.ndim == 2
    if not flat and place is None:
        place = focus_slices(truth.shape, true=truth, pred=masks[0], focus="error")[0]
    frame = _frame(truth, place, spacing_mm, steps + 2, width)
    dice = dice_of(masks, truth, num_classes=len(classes) or None)
    pictures = _pictures(image, masks, frame, [] if clicks is None else _shown(clicks, place))
    named = None if isinstance(actions, np.ndarray) else actions
    means = None if rewards is None else _mean_rewards(rewards, truth)
    by_image = means if rewards is not None and rewards.ndim == 1 else None
    rows = [_top(pictures, frame, dice, captions, named, by_image)]
    if rewards is not None and rewards.ndim > 1 and steps:
        limit = reward_limit or reward_scale(rewards)
        maps = [_resized(reward_colors(frame.cut(step), limit), frame.size) for step in rewards]
        key = _reward_key(limit, 2 * frame.cell + GAP, frame.size[0])
        rows.append(_below(key, maps, frame, [f"mean {mean:+.4f}" for mean in means or ()]))
    if isinstance(actions, np.ndarray) and steps:
        table = action_colors(action_names)
        key = _action_key(action_names, 2 * frame.cell + GAP, frame.size[0])
        maps = [overlay._resize(table[frame.cut(step)], frame.size, nearest=True) for step in actions]
        rows.append(_below(key, maps, frame, ()))
    note = "" if flat else f"slice {int(place or 0) + 1} of {len(truth)}; figures of the whole volume"
    heading = "   ".join(part for part in (title, note) if part)
    lines = ["truth", "mask", *(["not scored"] if (frame.truth == IGNORE).any() else [])]
    plate = legend(_entries(classes, dice), width=frame.across, title=heading, lines=lines)
    keys = [_click_key(frame.across)] if clicks else []
    return overlay.png_bytes(_stack([*_blocks(rows, frame), plate, *keys], width=frame.across))


def _check(image, masks, truth, rewards, actions, action_names, captions, clicks) -> None:
    """Says what does not fit, before anything is drawn."""
    steps, shape = len(masks) - 1, truth.shape
    if steps < 0 or image.ndim not in (3, 4) or image.shape[:-1] != shape or masks.shape[1:] != shape:
        raise ValueError(
            "image, masks and truth should be (*S, C), (T + 1, *S) and (*S) of a picture or a volume, they are "
            f"{image.shape}, {masks.shape} and {shape}."
        )
    if rewards is not None and rewards.shape not in ((steps,), (steps, *shape)):
        raise ValueError(f"rewards should be {(steps, *shape)} or {(steps,)}, they are {rewards.shape}.")
    if isinstance(actions, np.ndarray):
        if actions.shape != (steps, *shape):
            raise ValueError(f"actions should be {(steps, *shape)}, they are {actions.shape}.")
        if actions.size and not 0 <= actions.min() <= actions.max() < len(action_names):
            reach = f"{actions.min()} to {actions.max()}"
            raise ValueError(f"actions should be places in the {len(action_names)} action_names, they are {reach}.")
    for name, given, count in (("actions", actions, steps), ("captions", captions, steps + 1)):
        if given is not None and len(given) != count:
            raise ValueError(f"{name} should have {count} entries for {steps} steps, they have {len(given)}.")
    for step, where, _ in clicks or ():
        inside = len(where) == len(shape) and all(0 <= index < size for index, size in zip(where, shape))
        if not inside or not 0 <= step <= steps:
            raise ValueError(f"A click should lie in {shape}, at a step up to {steps}, not at {where}, step {step}.")


def dice_of(
    masks: Integer[np.ndarray, "n *S"], truth: Integer[np.ndarray, "*S"], *, num_classes: int | None = None
) -> Float[np.ndarray, "n K"]:
    """Returns the Dice of each mask and foreground class, NaN where neither has it; as many as are found by default."""
    found = num_classes or 1 + max(1, int(masks.max()), int(truth[truth != IGNORE].max(initial=0)))
    counts = [np.asarray(metrics.confusion(mask, truth, num_classes=found)) for mask in masks]
    return np.asarray(metrics.counts_to_dice(np.stack(counts)))


def reward_scale(rewards: Float[np.ndarray, "T *S"]) -> float:
    """Returns the reward of the brightest colour, which 99 % of those that are not 0 stay below; 1 where all are 0."""
    sizes = np.abs(rewards[np.isfinite(rewards) & (rewards != 0)])
    return float(np.percentile(sizes, _SHARE)) if sizes.size else 1.0


def reward_colors(rewards: Float[np.ndarray, "H W"], limit: float) -> Picture:
    """Returns the colours of rewards: 0 the paper's, +limit and more `GAIN`, -limit and less `LOSS`, linear between."""
    share = np.clip(np.nan_to_num(rewards.astype(np.float64)) / limit, -1, 1)[..., None]
    paper = np.asarray(PAPER, np.float64)
    mixed = paper + np.abs(share) * (np.where(share < 0, LOSS, GAIN) - paper)
    return np.rint(mixed).astype(np.uint8)


def action_colors(names: Sequence[str]) -> UInt8[np.ndarray, "A 3"]:
    """Returns a colour an action: red where the name begins with -, blue with +, else grey; the later, the brighter."""
    kinds = [name[:1] if name[:1] in ("-", "+") else "" for name in names]
    table = np.zeros((len(names), 3), np.uint8)
    for kind, (dark, bright) in {"-": LOWER, "+": RAISE, "": OTHER}.items():
        places = [place for place, own in enumerate(kinds) if own == kind]
        for order, place in enumerate(places):
            share = order / (len(places) - 1) if len(places) > 1 else float(kind != "")
            table[place] = [round(a + (b - a) * share) for a, b in zip(dark, bright)]
    return table


def _mean_rewards(rewards: np.ndarray, truth: np.ndarray) -> list[float]:
    """Each step's mean over the pixels that are scored; of whole images as they are."""
    per_step = rewards if rewards.ndim == 1 else rewards[:, truth != IGNORE].mean(axis=1)
    return [float(value) for value in per_step]


def _frame(truth: np.ndarray, place: int | None, spacing_mm, count: int, width: int) -> _Frame:
    """Finds the columns that fit beside each other, evenly filled, and the size of a picture."""
    if place is not None and not (truth.ndim == 3 and 0 <= place < len(truth)):
        raise ValueError(f"place should be a slice of a volume, {place} is none of {truth.shape}.")
    flat = truth if place is None else truth[place]
    fit = max(2, (width - GAP) // (_NARROWEST + GAP))
    columns = -(-count // -(-count // fit))
    cell = min((width - GAP) // columns - GAP, _WIDEST)
    steps = (1.0, 1.0) if spacing_mm is None else [float(step) for step in spacing_mm[-2:]]
    extents = [size * step for size, step in zip(flat.shape, steps)]
    height, across = (max(1, round(extent * cell / max(extents))) for extent in extents)
    return _Frame(lambda array: array if place is None else array[place], flat, (height, across), cell, columns)


def _pictures(image: np.ndarray, masks: np.ndarray, frame: _Frame, clicks: Sequence[Click]) -> list[Picture]:
    """The image with the truth, then with the truth and each mask."""
    flat = image.ndim == 3
    levels = overlay.window(image if flat else image[..., :1])
    draw = functools.partial(
        overlay.slice_overlay, frame.cut(image), true=frame.truth, size=frame.size, levels=levels,
        channel=None if flat else 0, fill=0.06, line_width=1.6,
    )  # fmt: skip
    pictures = [draw()]
    for step, mask in enumerate(masks):
        pictures.append(_marked(draw(pred=frame.cut(mask)), clicks, step, frame.truth.shape))
    return pictures


def _shown(clicks: Sequence[Click], place: int | None) -> list[Click]:
    """Those of the slice, as (row, column)."""
    return [(step, where[-2:], inside) for step, where, inside in clicks if place is None or where[0] == place]


def _marked(picture: Picture, clicks: Sequence[Click], step: int, shape: tuple[int, ...]) -> Picture:
    """Draws the clicks up to a step, those of that step larger and with a sign."""
    earlier = [click for click in clicks if click[0] < step]
    for when, where, inside in [*earlier, *(click for click in clicks if click[0] == step)]:
        row, column = ((at + 0.5) * size / count for at, size, count in zip(where, picture.shape, shape))
        picture = _disc(picture, row, column, inside=inside, large=when == step)
    return picture


def _disc(picture: Picture, row: float, column: float, *, inside: bool, large: bool) -> Picture:
    """A click: blue with a plus, or vermilion with a minus, in a white ring."""
    from PIL import Image, ImageDraw

    fine, radius = 4, 6.5 if large else 3.0
    layer = Image.new("RGBA", (picture.shape[1] * fine, picture.shape[0] * fine), (0, 0, 0, 0))
    draw, x, y = ImageDraw.Draw(layer), column * fine, row * fine

    def circle(size: float, color) -> None:
        draw.ellipse((x - size * fine, y - size * fine, x + size * fine, y + size * fine), fill=color)

    circle(radius + 1.8, (0, 0, 0, 120))
    circle(radius + 1.0, (255, 255, 255, 255))
    circle(radius, (*(INSIDE if inside else OUTSIDE), 255))
    if large:
        arm, half = 4 * fine, 0.9 * fine
        draw.rectangle((x - arm, y - half, x + arm, y + half), fill="white")
        if inside:
            draw.rectangle((x - half, y - arm, x + half, y + arm), fill="white")
    layer = layer.resize((picture.shape[1], picture.shape[0]), Image.Resampling.BOX)
    return np.asarray(Image.alpha_composite(Image.fromarray(picture).convert("RGBA"), layer).convert("RGB"))


def _top(pictures, frame: _Frame, dice, captions, named, rewards) -> list[Picture]:
    """The row of masks, with what was done above and what it scores below."""
    names = captions or ["start", *(f"step {step}" for step in range(1, len(dice)))]
    means = [metrics.finite_mean(row) for row in dice.tolist()]
    cells = []
    for place, picture in enumerate(pictures):
        step = place - 1
        above = [names[step] if place else "image, truth"]
        below = [_score(means, step) if place else ""]
        if named is not None:
            above.append(named[step - 1] if step > 0 else "")
        if rewards is not None:
            below.append(f"reward {rewards[step - 1]:+.3f}" if step > 0 else "")
        cells.append(_cell(picture, frame, above, below))
    return cells


def _score(means: Sequence[float], step: int) -> str:
    """Dice of a step, and how it differs from the one before."""
    if not np.isfinite(means[step]):
        return "Dice n/a"
    change = means[step] - means[step - 1] if step else np.nan
    return f"Dice {means[step]:.3f}" + (f" ({change:+.3f})" if np.isfinite(change) else "")


def _below(key: Picture, maps: Sequence[Picture], frame: _Frame, notes: Sequence[str]) -> list[Picture]:
    """A row of maps, with the outline of the truth, below the masks that they led to; its key has the places before."""
    lines = overlay._lines(np.maximum(frame.truth, 0), frame.size, dashed=False)
    drawn = [overlay._draw(picture, lines, width=1.0, tone=lambda _: INK) for picture in maps]
    return [key, *(_cell(picture, frame, [], notes[place : place + 1]) for place, picture in enumerate(drawn))]


def _blocks(rows: Sequence[Sequence[Picture]], frame: _Frame) -> list[Picture]:
    """Breaks the rows where the page ends, so that what belongs to a step stays below it."""
    blank = np.full((1, frame.cell, 3), PAPER, np.uint8)
    count, parts = len(rows[0]), []
    for start in range(0, count, frame.columns):
        if start:
            parts.append(np.full((GAP, frame.across, 3), PAPER, np.uint8))
        for row in rows:
            spans = [*([None] * (count - len(row))), *row]  # a key stands for the two places that it takes
            cells = [cell for cell in spans[start : start + frame.columns] if cell is not None]
            missing = max(0, start + frame.columns - count)
            parts.append(_row([*cells, *[blank] * missing]))
    return parts


def _cell(picture: Picture, frame: _Frame, above: Sequence[str], below: Sequence[str]) -> Picture:
    """A picture in its place with lines of text; the first one above is bold, the first one below a mask bright."""
    from PIL import Image, ImageDraw

    height = frame.size[0] + _LINE * (len(above) + len(below))
    canvas = Image.new("RGB", (frame.cell, height), PAPER)
    draw, middle, top = ImageDraw.Draw(canvas), frame.cell // 2, 0
    for place, text in enumerate(above):
        font = _font(13, bold=place == 0)
        draw.text((middle, top + 8), _shorten(text, font, frame.cell), font=font, fill=INK, anchor="mm")
        top += _LINE
    canvas.paste(Image.fromarray(picture), ((frame.cell - picture.shape[1]) // 2, top))
    top += frame.size[0]
    for place, text in enumerate(below):
        font, color = _font(12), INK if above and not place else FAINT
        draw.text((middle, top + 10), _shorten(text, font, frame.cell), font=font, fill=color, anchor="mm")
        top += _LINE
    return np.asarray(canvas)


def _reward_key(limit: float, width: int, height: int) -> Picture:
    """Names the rewards and shows their colours."""
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (width, height), PAPER)
    draw, middle, plain = ImageDraw.Draw(canvas), height // 2, _font(12)
    bar = min(200, width - 80)
    left = (width - bar) // 2
    draw.text((width // 2, middle - 26), "reward of each pixel", font=_font(13, bold=True), fill=INK, anchor="mm")
    ramp = np.tile(np.linspace(-limit, limit, bar), (12, 1))
    canvas.paste(Image.fromarray(reward_colors(ramp, limit)), (left, middle - 8))
    draw.rectangle((left - 1, middle - 9, left + bar, middle + 4), outline=FAINT)
    for share, text in ((0.0, f"≤ {-limit:.2g}"), (0.5, "0"), (1.0, f"≥ {limit:.2g}")):
        draw.text((left + share * bar, middle + 18), text, font=plain, fill=FAINT, anchor="mm")
    return np.asarray(canvas)


def _action_key(names: Sequence[str], width: int, height: int) -> Picture:
    """Names the actions: raising, lowering, others, each in a column, in the order of their names."""
    from PIL import Image, ImageDraw

    groups = [[name for name in names if name[:1] == sign] for sign in "+-"]
    groups = [group for group in (*groups, [name for name in names if name[:1] not in ("+", "-")]) if group]
    table = dict(zip(names, action_colors(names).tolist()))
    canvas = Image.new("RGB", (width, max(height, 30 + _LINE * max(map(len, groups)))), PAPER)
    draw, plain = ImageDraw.Draw(canvas), _font(12)
    top = max(12, (height - 24 - _LINE * max(map(len, groups))) // 2)
    draw.text((width // 2, top), "action of each pixel", font=_font(13, bold=True), fill=INK, anchor="mm")
    widths = [34 + max(plain.getlength(name) for name in group) for group in groups]
    left = max(0.0, (width - sum(widths)) / 2)
    for group, across in zip(groups, widths):
        for line, name in enumerate(group):
            middle = top + 24 + _LINE * line
            draw.rectangle((left, middle - 6, left + 14, middle + 6), fill=tuple(table[name]), outline=FAINT)
            draw.text((left + 20, middle), name, font=plain, fill=FAINT, anchor="lm")
        left += across
    return np.asarray(canvas)


def _click_key(width: int) -> Picture:
    """Names the two kinds of clicks."""
    from PIL import Image, ImageDraw

    plate, left = np.full((24, width, 3), PAPER, np.uint8), 17
    for text, inside in (("click: belongs to it", True), ("click: does not belong to it", False)):
        plate = _disc(plate, 12, left, inside=inside, large=True)
        canvas = Image.fromarray(plate)
        ImageDraw.Draw(canvas).text((left + 25, 12), text, font=_font(15), fill=INK, anchor="lm")
        plate, left = np.asarray(canvas), left + 70 + round(_font(15).getlength(text))
    return plate


def _entries(classes: Sequence[str], dice: Float[np.ndarray, "n K"]) -> list[tuple[int, str, str]]:
    """What the legend says of each class: its Dice at the start and at the end."""
    first, last = (["n/a" if np.isnan(value) else f"{value:.3f}" for value in row] for row in (dice[0], dice[-1]))
    return [(i, name, f"Dice {first[i - 1]} to {last[i - 1]}") for i, name in enumerate(classes) if i]
