"""--mode choose: which of several runs of all folds, or which two together, do best on the cases they had not seen.

The rule is nnU-Net's (Isensee et al., Nature Methods 2021): the highest mean Dice of the foreground over the whole
cross-validation, among single runs and averages of two; then the post-processing that helps this winner.
"""

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxseg import paths
from jaxseg import predict as prediction
from jaxseg.cli import build, cascade, folds, inference, workdir
from jaxseg.data import fingerprint
from jaxseg.train import logging
from jaxseg.typing import Sample, UserError

Members = tuple[int, ...]  # places among the runs


class _Run(NamedTuple):
    """A run of all folds: its folder, and for each fold the workdir and the cases that it held out."""

    folder: paths.Path
    folds: tuple[tuple[paths.Path, frozenset[str]], ...]


def choose(arguments: workdir.Arguments) -> None:
    """Scores every run and every pair of runs, says which is best, and the command that predicts with it.

    Raises:
      UserError: fewer than two runs, runs of single folds, or runs that have not held out the same cases.
    """
    if len(arguments.inputs) < 2:
        raise UserError("--mode choose needs at least two workdirs with data.fold=all: --input W1 --input W2.")
    runs = [_run(paths.path(folder)) for folder in arguments.inputs]
    for run in runs[1:]:
        if [names for _, names in run.folds] != [names for _, names in runs[0].folds]:
            raise UserError(
                f"{run.folder} and {runs[0].folder} have not held out the same cases in each fold; give both the same "
                "data.folds, data.split_kind and data.split_file."
            )
    candidates = [*((place,) for place in range(len(runs))), *itertools.combinations(range(len(runs)), 2)]
    measured: dict[Members, list[prediction.choice.Measured]] = {members: [] for members in candidates}
    count = sum(len(names) for _, names in runs[0].folds)
    known = build.stored_facts(workdir.record(runs[0].folds[0][0]))
    with logging.progress(count, label="choose") as show:
        for done, (name, sample, probabilities) in enumerate(_probabilities(runs), start=1):
            for members in candidates:
                mean = np.mean([probabilities[place] for place in members], axis=0)
                labels = prediction.reduce(mean, known.regions)
                assert sample.label is not None  # a held-out case has one
                found = prediction.choice.measure(
                    labels, sample.label.data, num_classes=len(known.classes), regions=known.regions
                )
                measured[members].append(found)
            show(done, case=name)
    _tell(arguments, runs, known, measured)


def _run(folder: paths.Path) -> _Run:
    config = workdir.stored_config(folder)
    if config.data.fold != "all" or config.task != "semantic":
        raise UserError(f"{folder} should be a semantic run with data.fold=all, whose folds hold every case out once.")
    places = [folder / inference.FOLD.format(number) for number in range(config.data.folds)]
    return _Run(folder, tuple((place, frozenset(workdir.record(place)["split"]["held out"])) for place in places))


def _probabilities(runs: Sequence[_Run]) -> Iterator[tuple[str, Sample, list[np.ndarray]]]:
    """Yields every held-out case with what each run's network that had not seen it gives, on the grid of its file."""
    for number in range(len(runs[0].folds)):
        places = [run.folds[number][0] for run in runs]
        trained = [
            inference.load(place, folds.without_postprocessing(workdir.stored_config(place))) for place in places
        ]
        for place, one in zip(places, trained):
            inference.check_data(place, one.known, trained[0].known)
        before = [cascade.of_cases(one, place) for one, place in zip(trained, places)]
        dataset = build.dataset(trained[0].config)
        for case in dataset.cases:
            if case.name in trained[0].held_out:
                sample = dataset.load(case)
                options = [{"previous": of[case.name]} if case.name in of else {} for of in before]
                found = [
                    one.predict(sample.image, keep_probabilities=True, **given) for one, given in zip(trained, options)
                ]
                yield case.name, sample, [np.asarray(one.probabilities) for one in found]


def _tell(
    arguments: workdir.Arguments,
    runs: Sequence[_Run],
    known: build.Facts,
    measured: Mapping[Members, Sequence[prediction.choice.Measured]],
) -> None:
    classes = build.scored_classes(known)
    means = {members: prediction.choice.mean([case[""] for case in cases]) for members, cases in measured.items()}
    scores = {members: float(np.nanmean(values)) for members, values in means.items()}
    best = max(scores, key=lambda members: scores[members])  # of equals the first: single runs stand before pairs
    names = {members: " + ".join(str(runs[place].folder) for place in members) for members in measured}
    width = max(map(len, names.values()))
    for members in sorted(scores, key=lambda members: -scores[members]):
        parts = ", ".join(f"{name} {value:.4f}" for name, value in zip(classes, means[members]))
        print(f"{names[members]:<{width}}  Dice {scores[members]:.4f} ({parts}; n={len(measured[members])})")
    chain = ""
    if not known.regions:
        chain, trials = prediction.choice.choose(measured[best], num_classes=len(known.classes))
        print(folds.describe(trials, classes))
    first, *others = (str(runs[place].folder) for place in best)
    command = ["python", "launch.py", "--mode", "predict", "--workdir", first]
    command += [word for other in others for word in ("--average", other)]
    command += ["--set", f"predict.postprocess={chain}"] if chain else []
    print(f"best: {names[best]}{f', with {chain}' if chain else ''}")
    print(f"  {shlex.join(command)} --input SCANS --output MASKS")
    if arguments.output:
        content = {
            "best": [str(runs[place].folder) for place in best],
            "postprocess": chain,
            "dice": {names[members]: dict(zip(classes, values.tolist())) for members, values in means.items()},
            "command": shlex.join(command),
        }
        fingerprint.write_json(paths.path(arguments.output), content)
