"""Which post-processing helps, measured on cases that the network had not seen.

The rule is nnU-Net's (Isensee et al., Nature Methods 2021): keep the largest component of all foreground together if
the mean Dice rises and no class falls; then, class by class, that class's largest component if its Dice rises.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from jaxseg.predict import postprocess
from jaxseg.typing import IGNORE

TOGETHER = "keep_largest(together=True)"
Measured = Mapping[str, Sequence[float]]  # chain -> Dice of each foreground class in one case, NaN where undefined


class Trial(NamedTuple):
    """One step of the choice: a chain, the mean Dice of each foreground class before and with it, and the verdict."""

    chain: str
    before: tuple[float, ...]
    after: tuple[float, ...]
    kept: bool


def chains(num_classes: int) -> tuple[str, ...]:
    """Returns the chains to be measured, "" (none) first; with one foreground class "together" says nothing new."""
    single = [_one(number) for number in range(1, num_classes)]
    if num_classes == 2:
        return ("", *single)
    return ("", TOGETHER, *single, *(f"{TOGETHER}|{one}" for one in single))


def measure(
    pred: Integer[np.ndarray, "*S"],
    true: Integer[np.ndarray, "*S"],
    *,
    num_classes: int,
    regions: Sequence[Sequence[int]] | None = None,
) -> dict[str, list[float]]:
    """Returns the Dice of each foreground class of one case with every chain; IGNORE pixels are left out.

    With `regions` it is the Dice of each of these sets of classes, without post-processing only.
    """
    if regions:
        seen, parts = true != IGNORE, [(np.isin(pred, part), np.isin(true, part)) for part in regions]
        pairs = [(found[seen].astype(int), there[seen].astype(int)) for found, there in parts]
        return {"": [_dice(found, there, 2)[0] for found, there in pairs]}
    return {text: _dice(postprocess.from_string(text)(pred), true, num_classes) for text in chains(num_classes)}


def choose(cases: Sequence[Measured], *, num_classes: int) -> tuple[str, list[Trial]]:
    """Returns the chain that helps ("" if none does) and the steps that led to it.

    Args:
      cases: what `measure` gave for each.
      num_classes: with the background.

    Raises:
      ValueError: there is no case.
    """
    if not cases:
        raise ValueError("Post-processing is chosen on cases; there is none.")
    means = {text: mean([case[text] for case in cases]) for text in chains(num_classes)}
    trials, base, chosen = [], "", []
    if TOGETHER in means:
        before, after = means[""], means[TOGETHER]
        kept = bool(np.nanmean(after) > np.nanmean(before) and not (after < before).any())
        trials.append(Trial(TOGETHER, tuple(before.tolist()), tuple(after.tolist()), kept))
        base = TOGETHER if kept else ""
    for number in range(1, num_classes):
        text = f"{base}|{_one(number)}" if base else _one(number)
        before, after = means[base], means[text]
        kept = bool(after[number - 1] > before[number - 1])
        trials.append(Trial(text, tuple(before.tolist()), tuple(after.tolist()), kept))
        chosen += [number] * kept
    last = [f"keep_largest(classes=({', '.join(map(str, chosen))},))"] if chosen else []
    return "|".join([*([base] if base else []), *last]), trials


def _one(number: int) -> str:
    return f"keep_largest(classes=({number},))"


def mean(rows: Sequence[Sequence[float]] | Float[np.ndarray, "N K"]) -> Float[np.ndarray, " K"]:
    """Mean of each class over the cases in which it is defined; NaN where it is in none."""
    table = np.asarray(rows, np.float64)
    defined = np.isfinite(table)
    count = defined.sum(axis=0)
    return np.where(count > 0, np.where(defined, table, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


def _dice(pred: np.ndarray, true: np.ndarray, num_classes: int) -> list[float]:
    scored = true != IGNORE
    pairs = true[scored].astype(np.int64) * num_classes + pred[scored]
    table = np.bincount(pairs.reshape(-1), minlength=num_classes**2).reshape(num_classes, num_classes)
    both, sizes = np.diag(table), table.sum(axis=0) + table.sum(axis=1)
    return [2 * both[c] / sizes[c] if sizes[c] else float("nan") for c in range(1, num_classes)]
