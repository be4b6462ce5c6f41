"""Pictures: overlays of one slice, panels of a case, an episode or made images, curves of a training, certainty."""

from jaxseg.viz.certainty import (
    ReliabilityBins,
    calibration_gap,
    members_plot,
    quality_plot,
    reliability_diagram,
    risk_coverage_plot,
)
from jaxseg.viz.colors import class_color, hex_color
from jaxseg.viz.curves import intensity_histograms, paired_scatter, score_dots, training_curves
from jaxseg.viz.episodes import episode
from jaxseg.viz.images import grid_panel, image_panel
from jaxseg.viz.instances import instance_panel
from jaxseg.viz.overlay import png_bytes, save_png, slice_overlay, uncertainty_overlay
from jaxseg.viz.panels import case_panel
from jaxseg.viz.players import player_curves
from jaxseg.viz.search import parallel_coordinates, scores_by_trial
from jaxseg.viz.steps import by_step, learning_curves

__all__ = [
    "ReliabilityBins",
    "by_step",
    "calibration_gap",
    "case_panel",
    "class_color",
    "episode",
    "grid_panel",
    "hex_color",
    "image_panel",
    "instance_panel",
    "intensity_histograms",
    "learning_curves",
    "members_plot",
    "paired_scatter",
    "parallel_coordinates",
    "player_curves",
    "png_bytes",
    "quality_plot",
    "reliability_diagram",
    "risk_coverage_plot",
    "save_png",
    "score_dots",
    "scores_by_trial",
    "slice_overlay",
    "training_curves",
    "uncertainty_overlay",
]
