"""Several networks as one, and what their differences say: bagging, boosting, stacking, averages, certainty."""

from jaxseg.ensemble.certainty import Certainty, Spread, predictive_entropy
from jaxseg.ensemble.certainty import add as add_member
from jaxseg.ensemble.certainty import finish as finish_spread
from jaxseg.ensemble.certainty import start as start_spread
from jaxseg.ensemble.quality import agreement, expected_dice, mean_entropy_inside
from jaxseg.ensemble.temperature import PixelSample, apply_temperature, as_logits, fit_temperature, sample_pixels

__all__ = [
    "Certainty",
    "PixelSample",
    "Spread",
    "add_member",
    "agreement",
    "apply_temperature",
    "as_logits",
    "expected_dice",
    "finish_spread",
    "fit_temperature",
    "mean_entropy_inside",
    "predictive_entropy",
    "sample_pixels",
    "start_spread",
]
