"""A set of made images against real ones, by the features of a fixed network: how like, how varied, how much copied."""

import math
from typing import Any

import numpy as np
from jaxtyping import Real

from jaxseg import metrics
from jaxseg.typing import UserError


def compare_sets(
    features_real: Real[np.ndarray, "n F"],
    features_made: Real[np.ndarray, "m F"],
    features_train: Real[np.ndarray, "t F"],
    *,
    pairs: int = 8,
    splits: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns distances of made images from real ones, what would be reachable, and how near they are to copies.

    The distances are figures of the features' network: only those of one network can be compared. A Frechet distance
    falls with the number of images whatever they show, so that the distance of all to all stands beside one that is
    fair: "reachable" has the distance between two halves of the real images, and that of as many made images to one
    half, both averaged over the same random splits. A generator as good as the real thing has the same in both. The
    kernel distance has no such bias, and its reachable value is near 0.

    Args:
      features_real: one row a real image that the generator has not seen, four or more.
      features_made: one row a made image, two or more.
      features_train: one row an image that the generator was trained on, two or more.
      pairs: how many made images to name with the training image that each is nearest to.
      splits: random halvings of the real images.
      seed: of the halvings.

    Returns:
      {"frechet", "kernel": all made to all real images; "n_real", "n_made", "n_train";
      "reachable": {"n": images a side, "frechet", "kernel": between halves of the real images, "frechet_made",
      "kernel_made": of as many made images to a half};
      "memorisation": the median over made images of the distance to the nearest training image, where 1 is as near as
      another patient (`metrics.memorisation_ratio`), "memorisation_lowest", and "memorisation_real" of the real images,
      which are no copies: made ones far below it are;
      "nearest": the `pairs` nearest, nearest first: {"made": row, "train": row, "distance": in the features' unit,
      "ratio": as memorisation}}.

    Raises:
      UserError: fewer images than said above, features that differ in number or are not finite, or half of the training
        images have a copy among the others.
    """
    if len(features_real) < 4:
        raise UserError(
            f"Two halves of the real images need 4 images or more, and there are {len(features_real)}: compare with a "
            "larger part of the data."
        )
    found = {
        "frechet": metrics.frechet_distance(features_made, features_real),
        "kernel": metrics.kernel_distance(features_made, features_real),
        "n_real": len(features_real),
        "n_made": len(features_made),
        "n_train": len(features_train),
        "reachable": reachable(features_real, features_made, splits=splits, seed=seed),
    }
    ratio = metrics.memorisation_ratio(features_made, features_train)
    found |= {
        "memorisation": float(np.median(ratio)),
        "memorisation_lowest": float(ratio.min()),
        "memorisation_real": float(np.median(metrics.memorisation_ratio(features_real, features_train))),
    }
    nearest = metrics.nearest_neighbours(features_made, features_train)
    order = np.argsort(ratio, kind="stable")[:pairs]
    found["nearest"] = [
        {
            "made": int(place),
            "train": int(nearest.row[place]),
            "distance": float(nearest.distance[place]),
            "ratio": float(ratio[place]),
        }
        for place in order
    ]
    return found


def reachable(
    features_real: Real[np.ndarray, "n F"], features_made: Real[np.ndarray, "m F"], *, splits: int = 10, seed: int = 0
) -> dict[str, float | int]:
    """Returns distances between random halves of the real images, and of made images to one half, of equal numbers.

    Args:
      features_real: one row a real image, four or more.
      features_made: one row a made image, two or more; of more than fill one side, some are drawn.
      splits: random halvings, over which is averaged.
      seed: of the halvings.

    Returns:
      {"n": images a side, "frechet", "kernel", "frechet_made", "kernel_made"}; see `compare_sets`.
    """
    if splits < 1:
        raise UserError(f"The real images should be halved once or more, not {splits} times.")
    draw = np.random.default_rng(seed)
    side = min(len(features_real) // 2, len(features_made))
    if side < 2:
        raise UserError(f"Each side of a distance needs 2 images or more, and there would be {side}.")
    sums = dict.fromkeys(("frechet", "kernel", "frechet_made", "kernel_made"), 0.0)
    for _ in range(splits):
        order = draw.permutation(len(features_real))
        first, second = features_real[order[:side]], features_real[order[side : 2 * side]]
        made = features_made[draw.permutation(len(features_made))[:side]]
        for name, other in (("", second), ("_made", made)):
            sums[f"frechet{name}"] += metrics.frechet_distance(other, first)
            sums[f"kernel{name}"] += metrics.kernel_distance(other, first)
    return {"n": side, **{name: total / splits for name, total in sums.items()}}


def set_table(found: dict[str, Any]) -> str:
    """Returns what `compare_sets` found as lines for the terminal."""
    best, lowest = found["reachable"], _short(found["memorisation_lowest"])
    lines = (
        f"made images against real ones ({found['n_made']} and {found['n_real']} images)",
        f"  Frechet distance   {_short(found['frechet'])}",
        f"  kernel distance    {_short(found['kernel'])}",
        f"of {best['n']} images a side: made to real, and real to real (what is reachable)",
        f"  Frechet distance   {_short(best['frechet_made'])}   {_short(best['frechet'])}",
        f"  kernel distance    {_short(best['kernel_made'])}   {_short(best['kernel'])}",
        "distance to the nearest training image, 1 is as near as another patient",
        f"  made images        {_short(found['memorisation'])} (median), {lowest} (lowest)",
        f"  real images        {_short(found['memorisation_real'])} (median)",
    )
    return "\n".join(lines) + "\n"


def _short(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.4g}"
