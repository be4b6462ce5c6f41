"""Dice of one whole case, class by class, as training and episodes look at it."""

import numpy as np

from jaxseg.cli import build


def dice(probabilities: np.ndarray, label: np.ndarray, known: build.Facts) -> list[float]:
    """Returns the Dice of each foreground class (or region) of one case; NaN where it is on neither side."""
    seen = label >= 0
    if known.regions:
        pairs = [(probabilities[..., k] > 0.5, np.isin(label, region)) for k, region in enumerate(known.regions)]
    else:
        winner = probabilities.argmax(-1)
        pairs = [(winner == k, label == k) for k in range(1, len(known.classes))]
    scores = []
    for predicted, true in pairs:
        sizes = (predicted & seen).sum() + (true & seen).sum()
        scores.append(float(2 * (predicted & true & seen).sum() / sizes) if sizes else float("nan"))
    return scores
