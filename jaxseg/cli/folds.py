"""data.fold="all": a network a fold in WORKDIR/fold_0, fold_1, ...; all cases scored together, each held out once."""

import functools
import json
import math
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxseg import evaluate as evaluation
from jaxseg import metrics, paths
from jaxseg import predict as prediction
from jaxseg.cli import build, inference, prepare, together, workdir
from jaxseg.cli import evaluate as one_evaluation
from jaxseg.cli import train as one_training
from jaxseg.evaluate.evaluator import Gallery, file_stem
from jaxseg.evaluate.report import mean_scores, ranking_metric
from jaxseg.train import checkpoint, loop, parallel, processes
from jaxseg.typing import UserError


def run(arguments: workdir.Arguments) -> None:
    """Trains and scores fold after fold; the same command goes on with what is not finished."""
    if train(arguments):
        _evaluate(arguments, again=False)


def train(arguments: workdir.Arguments) -> bool:
    """Trains fold after fold on data that are prepared once, and returns whether all are finished."""
    config, folder = arguments.config, arguments.workdir
    if config.model.get("remat"):
        parallel.keep_barriers()  # as each fold would, but before preparing asks for a device
    processes.first(lambda: workdir.begin(folder, config))
    _, prepared = prepare.ensure(config, folder)
    if config.train.together:
        try:
            outcome = together.train(each(arguments), prepared=prepared, how=config.train.together)
            return outcome.end is not loop.End.STOPPED
        except together.TooLarge as reason:
            print(f"{reason}: the folds are trained one after the other")
    for number, own in enumerate(each(arguments)):
        print(f"fold {number} of 0 to {config.data.folds - 1}, in {own.workdir}", flush=True)
        outcome = one_training.train(own, prepared=prepared)
        if outcome.end is loop.End.STOPPED:
            return False
    return True


def evaluate(arguments: workdir.Arguments) -> None:
    """Scores each fold's held-out cases and writes all of them as one table, with one summary and one report.

    Raises:
      UserError: a fold is not trained yet, or other workdirs should be averaged with folds that are scored one by one.
    """
    if arguments.inputs:  # a labelled folder is scored with the average of the folds
        one_evaluation.evaluate(arguments)
        return
    if arguments.average:
        raise UserError("Each fold is scored alone on what it had not seen; leave out --average, or give --input.")
    _evaluate(arguments, again=True)


def _evaluate(arguments: workdir.Arguments, *, again: bool) -> None:
    """Scores the folds, those with scores of the same settings only if `again`, and writes what they give together."""
    known = build.stored_facts(workdir.record(arguments.workdir))
    config = arguments.config
    trials = config.predict.postprocess in ("", "auto") and config.task == "semantic" and not known.regions
    for own in each(arguments):
        options = {name: json.loads(own.config[name].to_json()) for name in ("predict", "evaluate")}
        settings = {"trials": trials, "step": _latest(own), **options}
        if again or workdir.record(own.workdir).get("evaluated") != settings:
            one_evaluation.evaluate(own, trials=trials)
            workdir.update_record(own.workdir, evaluated=settings)
    if processes.is_first():
        _write(arguments, known, trials=trials)


def _write(arguments: workdir.Arguments, known: build.Facts, *, trials: bool) -> None:
    """Reads the scores of all folds and writes what they give together."""
    config, folder = arguments.config, arguments.workdir
    rows: list[evaluation.files.Row] = []
    gallery = Gallery(config.evaluate.overlays)
    measured: list[prediction.choice.Measured] = []
    for own in each(arguments):
        place = own.workdir / evaluation.files.FOLDER
        if trials:
            measured += json.loads((place / one_evaluation.TRIALS).read_text()).values()
        found = evaluation.files.read_cases(place / evaluation.files.CASES)
        rows += found
        _collect(gallery, found, place / evaluation.files.OVERLAYS)
    summary = metrics.aggregate(rows)
    place = paths.path(arguments.output) if arguments.output else folder / evaluation.files.FOLDER
    evaluation.files.write_results(place, rows, summary)
    gallery.write(place / evaluation.files.OVERLAYS)
    print(f"\nall {config.data.folds} folds, each case by the networks that had not seen it")
    print(evaluation.files.summary_table(summary))
    if trials:
        _choose(folder, measured, known.classes)
    one_evaluation.tell(arguments, place)


def _choose(folder: paths.Path, measured: list[prediction.choice.Measured], classes: Sequence[str]) -> None:
    """Chooses the post-processing on all cases, says why, and keeps it for predict.postprocess=auto."""
    chain, trials = prediction.choice.choose(measured, num_classes=len(classes))
    print(describe(trials, classes[1:]))
    workdir.update_record(folder, postprocess=chain)
    print(f"post-processing that helps: {chain or 'none'}" + (" (predict.postprocess=auto)" if chain else ""))


def describe(trials: Sequence[prediction.choice.Trial], classes: Sequence[str]) -> str:
    """Returns a line for each trial of a post-processing: what it changes in which foreground class."""
    lines = []
    for trial in trials:
        changes = ", ".join(
            f"{name} {before:.4f} to {after:.4f}"
            for name, before, after in zip(classes, trial.before, trial.after)
            if before != after
        )
        lines.append(f"{trial.chain}: {changes or 'no change'}; {'kept' if trial.kept else 'not kept'}")
    return "\n".join(lines)


def each(arguments: workdir.Arguments) -> list[workdir.Arguments]:
    """Returns the arguments of every fold: its number, its own workdir, and the prepared data of all."""
    config, folder = arguments.config, arguments.workdir
    result = []
    for number in range(config.data.folds):
        own = ConfigDict(config.to_dict(), type_safe=False)
        own.data.fold, own.data.store = str(number), str(build.store_folder(config, folder))
        if own.predict.postprocess == "auto":  # chosen on what comes without
            own = without_postprocessing(own)
        result.append(arguments._replace(config=own, workdir=folder / inference.FOLD.format(number), output=None))
    return result


def without_postprocessing(config: ConfigDict) -> ConfigDict:
    """Returns the config with what the network alone predicts."""
    own = ConfigDict(config.to_dict(), type_safe=False)
    own.predict.postprocess = ""
    return own


def _latest(own: workdir.Arguments) -> int:
    """The last stored step of a fold."""
    steps = [int(path.name) for path in (own.workdir / checkpoint.FOLDER).glob("[0-9]*") if path.name.isdigit()]
    if not steps:
        raise UserError(f"{own.workdir} holds no trained model; run --mode train with data.fold=all first.")
    return max(steps)


def _collect(gallery: Gallery, rows: list[evaluation.files.Row], pictures: paths.Path) -> None:
    """Ranks the pictures of a fold among those of all: the worst of all are among the worst of their folds."""
    for case, score in mean_scores(rows, ranking_metric(rows)).items():
        files = sorted(pictures.glob(f"*_[0-9][0-9]_{file_stem(case)}.png"))
        if math.isfinite(score) and files:
            gallery.rank(case, score, functools.partial(_picture, files[0]))


def _picture(path: paths.Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path))
