"""data.extra: folders of made images with labels, which are trained on beside the training cases and never scored."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxseg import config as configs
from jaxseg import paths
from jaxseg.cli import build, workdir
from jaxseg.data import folders, loader, preprocess, store
from jaxseg.data.datasets import made
from jaxseg.train import logging, processes
from jaxseg.typing import DataSet, UserError

FOLDER = ".extra"  # in the prepared data, not listed there; one folder for each of data.extra


class Drawn(NamedTuple):
    """What batches are drawn of.

    Attributes:
      cases: real ones, then made ones.
      weights: of each; None: all alike.
      words: what to say of those that are not real.
      alone: the weights where made cases are drawn no more; None where there are none.
    """

    cases: Sequence[store.StoredCase]
    weights: Sequence[float] | None
    words: str = ""
    alone: Sequence[float] | None = None

    def by_step(self, until: float, horizon: int) -> Sequence[float] | Callable[[int], Sequence[float]] | None:
        """Returns weights for the loader: from the share `until` of the updates on, of real cases alone."""
        if self.alone is None or until >= 1 or self.weights is None:
            return self.weights
        turn, mixed, alone = round(until * horizon), self.weights, self.alone
        return lambda step: mixed if step < turn else alone


def load(config: ConfigDict, real: DataSet) -> tuple[DataSet, ...]:
    """Lists the folders of `data.extra`, each as a data set that is described as the real one.

    Raises:
      UserError: one is not there or does not fit the real data set or the network's axes, or is named twice.
    """
    found: list[DataSet] = []
    places = [_name(place) for place in config.data.extra]
    for number, folder in enumerate(config.data.extra):
        if places[number] in places[:number]:
            raise UserError(f"data.extra names {folder} twice; name each folder once.")
        taken = {case.name for one in found for case in one.cases}
        dataset = made.load_made(folder, like=real, taken=taken)
        axes, wanted = len(dataset.load(dataset.cases[0]).image.spacing), configs.ndim_of(config)
        if axes < wanted:  # a 2D network takes slices of volumes
            raise UserError(f"data.extra names {folder}, whose images have {axes} axes; the network takes {wanted}.")
        found.append(dataset)
    return tuple(found)


def prepare(
    config: ConfigDict, folder: paths.Path, sets: Sequence[DataSet], settings: preprocess.Settings
) -> dict[str, Any]:
    """Prepares what `load` has listed as the real cases were prepared, and returns what is recorded of it.

    Raises:
      UserError: cases cannot be used (all of a folder, by name).
    """
    for place, dataset in zip(config.data.extra, sets, strict=True):
        with logging.progress(len(dataset.cases), label="prepare made images") as show:
            summary = store.prepare(
                dataset,
                _target(config, folder, place),
                _settings(place, settings),
                processes=config.data.workers,
                progress=lambda done, total, name: show(done, case=name),
            )
        print(f"prepared {len(summary.written)} made cases of {place}, {len(summary.skipped)} were up to date")
    return {"folders": list(config.data.extra), "cases": sum(len(dataset.cases) for dataset in sets)}


def stored(config: ConfigDict, folder: paths.Path) -> tuple[store.StoredCase, ...]:
    """Returns the prepared cases of all folders of `data.extra`."""
    return tuple(case for place in config.data.extra for case in store.open(_target(config, folder, place)))


def beside(
    config: ConfigDict,
    folder: paths.Path,
    training: Sequence[store.StoredCase],
    *,
    sampling: Mapping[str, float] | None = None,
) -> Drawn:
    """Returns what to train on: the training cases, and behind them the made ones, drawn with their share.

    Without made cases, and with a share of 0, the cases are drawn as ever: with the same random numbers.

    Args:
      config: of the run.
      folder: its workdir, or that of the run that has prepared the data.
      training: real cases; one that stands there twice is drawn twice as often.
      sampling: real case's name -> the weight it is drawn with; None: all alike.
    """
    own = None if sampling is None else [sampling[case.name] for case in training]
    share = config.data.extra_share
    others = stored(config, folder) if share else ()
    if not others:
        return Drawn(training, own)
    real = np.ones(len(training)) if own is None else own
    weights, alone = (loader.beside(real, others=len(others), share=each).tolist() for each in (share, 0.0))
    words = f" and beside them {len(others)} made ones, {100 * share:g} % of the samples"
    if config.data.extra_until < 1:
        words += f" in the first {100 * config.data.extra_until:g} % of the updates"
    return Drawn([*training, *others], weights, words, alone)


def warn(config: ConfigDict, held_out: Sequence[str]) -> None:
    """Says where what made the images was trained on cases that are held out here: their scores flatter then."""
    if not processes.is_first():
        return
    for place in config.data.extra:
        seen = sorted(set(held_out) & _seen(place))
        if seen:
            print(
                f"warning: {len(seen)} of {len(held_out)} held-out cases, such as {seen[0]}, trained the network that "
                f"made the images of {place}, so their scores are too high; make images with a run on the same fold"
            )


def _settings(place: str, settings: preprocess.Settings) -> preprocess.Settings:
    """Returns how a folder is prepared: as the real cases, but for intensities whose meaning the folder tells.

    Made images are written from known normalised values (`scaling` of the provenance: offset and scale of each
    channel), so these come back exactly, whatever one picture's own mean and deviation.
    """
    told = (made.provenance(paths.path(place)) or {}).get("scaling")
    if not isinstance(told, list) or len(told) != len(settings.normalize):
        return settings
    far = 1e6  # nothing is clipped
    statistics = tuple(
        {"mean": offset, "std": scale, "p005": offset - far * scale, "p995": offset + far * scale}
        for offset, scale in told
    )
    return settings._replace(normalize=("ct",) * len(told), statistics=statistics)


def _seen(place: str) -> set[str]:
    """Names of the cases that trained the network which made the images; none where that cannot be told any more."""
    by = (made.provenance(paths.path(place)) or {}).get("workdir")
    split = (folders.read_json(paths.path(by) / workdir.RECORD) or {}).get("split") if isinstance(by, str) else None
    return set(split.get("training", ())) if isinstance(split, dict) else set()


def _target(config: ConfigDict, folder: paths.Path, place: str) -> paths.Path:
    return build.store_folder(config, folder) / FOLDER / _name(place)


def _name(place: str) -> str:
    return hashlib.sha256(str(paths.absolute(place)).encode()).hexdigest()[:16]
