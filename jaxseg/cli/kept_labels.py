"""How well made images keep their labels: what a network that was trained on real images finds in them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from jaxseg import config as configs
from jaxseg import metrics, paths
from jaxseg.cli import build, inference, workdir
from jaxseg.data import made, made_files, preprocess
from jaxseg.typing import UserError, Volume

FindFn = Callable[[Volume], Any]  # an image as if read from a file -> predict.Prediction


def scorer(
    place: str, known: build.Facts, settings: preprocess.Settings, *, spacing: Sequence[float], ndim: int
) -> made.ScoreFn:
    """Returns `(image, drawn) -> mean Dice` of the segmentation by the run in the workdir `place`.

    Args:
      place: the workdir of a semantic run on the same channels and classes.
      known, settings: of the generator.
      spacing: of its training cases, in mm along the network's axes; three for volumes, also where slices are made.
      ndim: spatial axes of what is made.

    Raises:
      UserError: the workdir holds no such run.
    """
    folder = paths.path(place)
    config = workdir.stored_config(folder)
    if config.task != "semantic":
        raise UserError(
            f"synthesis.segmenter {folder} holds a run of task={config.task!r}; name one of task='semantic'."
        )
    if configs.ndim_of(config) > ndim:
        raise UserError(f"synthesis.segmenter {folder} segments volumes, but made are 2D images; name a 2D run.")
    trained = inference.load(folder, config)
    inference.check_data(folder, trained.known, known)
    theirs = preprocess.settings_from_json(trained.record["settings"])
    axes = len(theirs.spacing or theirs.axis_order or range(ndim))
    return of(trained.predict, len(known.classes), settings, spacing=spacing, axes=max(axes, ndim))


def of(
    find: FindFn, num_classes: int, settings: preprocess.Settings, *, spacing: Sequence[float], axes: int
) -> made.ScoreFn:
    """Returns `(image, drawn) -> mean Dice` over the foreground classes of the label map; None where it has none.

    Args:
      find: segments an image on its own grid.
      num_classes: with background.
      settings: of the generator; what it normalised and turned is undone, as `find` does so itself.
      spacing: see `scorer`.
      axes: that `find` expects; slices of volumes are handed over as volumes of one slice.
    """

    def score(image: Float[np.ndarray, "*S C"], drawn: made.Drawn) -> float | None:
        if made.is_background(drawn.label):
            return None
        truth, raw = drawn.label, made.as_acquired(image, settings.normalize, settings.statistics)
        steps = list(drawn.spacing or spacing[-truth.ndim :])
        if truth.ndim < axes:
            steps = [spacing[0] if len(spacing) == axes else 1.0, *steps]
            truth, raw = truth[None], raw[None]
        turned = made.file_axes(settings.axis_order, ndim=truth.ndim)
        volume = made_files.grid(
            [steps[axis] for axis in turned], raw.transpose(*turned, truth.ndim), "an image that was made"
        )
        return mean_dice(find(volume).labels, truth.transpose(turned), num_classes=num_classes)

    return score


def mean_dice(found: Integer[np.ndarray, "*S"], truth: Integer[np.ndarray, "*S"], *, num_classes: int) -> float:
    """Returns the mean Dice of the foreground classes that the truth holds, one or more."""
    present = np.unique(truth[truth > 0])
    counts = np.asarray(metrics.confusion(found, truth, num_classes=num_classes))
    return float(np.mean(metrics.counts_to_dice(counts)[present - 1]))
