"""data.previous: what the networks of an earlier run say of each case, as further input channels (nnU-Net's cascade).

A case to train on, or to be scored, comes with the class map of the fold that had not seen it; other scans with that of
the average of all folds.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxseg import paths
from jaxseg.cli import build, inference, workdir
from jaxseg.data import folders, store
from jaxseg.train import logging, processes
from jaxseg.typing import UserError

FOLDER = ".previous"  # in the prepared data; one folder an earlier run


def check(config: ConfigDict, known: build.Facts) -> None:
    """Raises a UserError where `data.previous` is not a finished run of all folds on such data."""
    if config.data.previous:
        _held_out(config, known)


def ensure(
    config: ConfigDict, folder: paths.Path, known: build.Facts, cases: Sequence[store.StoredCase]
) -> tuple[store.StoredCase, ...]:
    """Returns the prepared cases with their class maps, after predicting those that are missing or out of date.

    Args:
      config: of the run that is to see them.
      folder: its workdir.
      known: of its data.
      cases: all of the prepared data.

    Raises:
      UserError: as `check`, or a case that no fold of the earlier run has held out.
    """
    if not config.data.previous:
        return tuple(cases)
    unseen = _held_out(config, known)
    missing = sorted({case.name for case in cases} - unseen.keys())
    if missing:
        raise UserError(
            f"data.previous = {config.data.previous} has not held out {len(missing)} of {len(cases)} cases, such as "
            f"{missing[0]}; train it on the same data."
        )
    target = _target(config, folder)
    steps = {fold: inference.picked(fold, workdir.stored_config(fold)) for fold in set(unseen.values())}
    waiting = {}
    for case in cases:
        fold = unseen[case.name]
        digest = _digest(case, fold, steps[fold])
        if store.previous_digest(case, target) != digest:
            waiting[case.name] = digest
    if waiting and processes.several():
        raise UserError(
            f"{len(waiting)} class maps of data.previous = {config.data.previous} are missing; run --mode prepare with "
            "this config on one host first."
        )
    if waiting:
        _predict(config, target, [case for case in cases if case.name in waiting], unseen, waiting)
    return store.add_previous(cases, target)


def of_cases(trained: inference.Trained, folder: paths.Path) -> dict[str, Callable[..., np.ndarray]]:
    """Returns, for each held-out case, what gives the class map of the fold that had not seen it."""
    config, known = trained.config, trained.known
    if not config.data.previous:
        return {}
    cases = ensure(config, folder, known, store.open(trained.record["store"]))

    def stored(case: store.StoredCase) -> Callable[..., np.ndarray]:
        return lambda *_: store.read_previous(case, (0,) * len(case.shape), case.shape)

    return {case.name: stored(case) for case in cases if case.name in trained.held_out}


def _held_out(config: ConfigDict, known: build.Facts) -> dict[str, paths.Path]:
    """Returns the fold's workdir for each case that it held out."""
    earlier = paths.path(config.data.previous)
    stored = workdir.stored_config(earlier)
    if stored.data.fold != "all" or stored.task != "semantic":
        raise UserError(
            f"data.previous = {earlier} should be a run of all folds, so that every case is predicted by a network "
            f"that has not seen it; train it with --config.data.fold=all."
        )
    found = {}
    for number in range(stored.data.folds):
        fold = earlier / inference.FOLD.format(number)
        record = workdir.record(fold)
        theirs = build.stored_facts(record)
        if (theirs.channels, theirs.classes) != (known.channels, known.classes):
            raise UserError(
                f"data.previous = {earlier} was trained on other channels or classes ({', '.join(theirs.classes)}); "
                "name a run on the same data."
            )
        found.update({name: fold for name in record["split"]["held out"]})
    return found


def _target(config: ConfigDict, folder: paths.Path) -> paths.Path:
    name = hashlib.sha256(str(paths.absolute(config.data.previous)).encode()).hexdigest()[:16]
    return build.store_folder(config, folder) / FOLDER / name


def _digest(case: store.StoredCase, fold: paths.Path, step: int) -> str:
    """Names all that a class map depends on: the stored case, and the network."""
    return hashlib.sha256(json.dumps([case.digest, str(paths.absolute(fold)), step]).encode()).hexdigest()


def _predict(
    config: ConfigDict,
    target: paths.Path,
    cases: Sequence[store.StoredCase],
    unseen: Mapping[str, paths.Path],
    digests: Mapping[str, str],
) -> None:
    """Predicts fold after fold, and writes each class map on the grid of its stored case."""
    folders.remove_leftovers(target)
    dataset = build.dataset(config)
    files = {case.name: case for case in dataset.cases}
    settings = store.stored_settings(target.parents[1])
    done = 0
    with logging.progress(len(cases), label="previous stage") as show:
        for fold in sorted({unseen[case.name] for case in cases}):
            trained = inference.load(fold, workdir.stored_config(fold))
            for case in cases:
                if unseen[case.name] != fold:
                    continue
                image = dataset.load(files[case.name]).image
                label = inference.class_map(trained, image, case.record, settings)
                store.write_previous(case, target, label, digest=digests[case.name])
                done += 1
                show(done, case=case.name)
    print(f"previous stage: {done} class maps of {config.data.previous}, in {target}")
