"""What --mode view shows: the held-out cases of a run, a folder that a run predicts, or images with label files."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg import evaluate as evaluation
from jaxseg import paths, predict
from jaxseg.cli import build, cascade, certainty, folds, images, inference, instances, workdir
from jaxseg.cli import evaluate as evaluating
from jaxseg.data import instances as object_maps
from jaxseg.data import readers, volume
from jaxseg.data.datasets import inputs
from jaxseg.evaluate.report import mean_scores, ranking_metric
from jaxseg.typing import Case, Sample, UserError
from jaxseg.viz import viewer
from jaxseg.viz.curves import label_of

METRICS = ("dice", "hd95_mm", "nsd", "dsb_score", "f1_50")  # of a class, beside its name
_HIGHEST = 4000  # label values up to here are class ids of their own

Made = tuple[dict[str, Any], list]


class Entry(NamedTuple):
    """A case in the list, and what makes it."""

    listed: viewer.Listed
    show: Callable[[], viewer.Shown]


class Source(NamedTuple):
    """Cases in the order of the list, and what all of them have in common."""

    cases: Sequence[Entry]
    title: str
    classes: tuple[str, ...]
    channels: tuple[str, ...] = ()
    ranking: str = ""
    metrics: Mapping[str, str] = {}
    note: str = ""
    labels: str = "truth"

    def make(self, case: Entry) -> Made:
        """Returns what the page must know of a case, and its files."""
        shown = case.show()
        if self.classes:
            return viewer.case_files(shown, channels=self.channels, num_classes=len(self.classes), labels=self.labels)
        return _by_value(shown, self.labels)


def source(arguments: workdir.Arguments) -> Source:
    """Returns what the flags ask to see.

    Raises:
      UserError: flags that do not fit, or nothing to show.
    """
    if len(arguments.inputs) > 1:
        raise UserError("--mode view shows one --input, an image or a folder of images.")
    if "data" not in arguments.config:  # without --workdir
        return _files(arguments)
    if images.makes_images(arguments.config):
        raise UserError(
            f"--mode view shows segmentations, and {arguments.workdir} makes images; its report.html shows them, and "
            "--input IMAGES without --workdir shows any image."
        )
    if arguments.config.data.fold == "all" and not arguments.inputs:
        return _all_folds(arguments)
    return _run(arguments)


def _files(arguments: workdir.Arguments) -> Source:
    """Images, with label files where they are given: no run takes part."""
    if not arguments.inputs:
        raise UserError("--mode view needs --workdir, the folder of a finished run, or --input with images.")
    cases: Sequence[Case] = inputs.list_inputs(arguments.inputs[0], tell=print)
    if arguments.labels:
        cases = _with_labels(cases, arguments.labels)

    def show(case: Case) -> viewer.Shown:
        image = inputs.read_case(case)
        if case.label is None:
            return viewer.Shown(image)
        label = readers.read_label(case.label, like=image)
        volume.check_same_grid(image, label)
        return viewer.Shown(image, true=label.data)

    entries = [Entry(viewer.Listed(case.name), functools.partial(show, case)) for case in cases]
    title = paths.path(arguments.inputs[0]).absolute().name
    return Source(sorted(entries, key=_place), title, (), labels="labels")


def _with_labels(cases: Sequence[Case], labels: str) -> Sequence[Case]:
    found = inputs.list_inputs(labels, labels=True)
    if len(cases) == len(found) == 1:  # two files named on the command line belong together whatever their names
        return [cases[0]._replace(label=found[0].images[0])]
    return inputs.with_labels(cases, found, place=f"--labels {labels}")


def _by_value(shown: viewer.Shown, labels: str) -> Made:
    """Makes a case whose classes are the values in its label file."""
    if shown.true is None:
        return viewer.case_files(shown, num_classes=1, labels=labels)
    values = np.setdiff1d(shown.true, 0)
    own = not len(values) or bool(values[0] > 0 and values[-1] <= _HIGHEST)
    ids = shown.true if own else np.where(shown.true == 0, 0, np.searchsorted(values, shown.true) + 1)
    numbers = values.tolist() if own else range(1, len(values) + 1)
    names = {number: f"label {value}" for number, value in zip(numbers, values.tolist())}
    count = max(names, default=0) + 1
    content, files = viewer.case_files(shown._replace(true=ids), num_classes=count, labels=labels)
    table = viewer.class_table([names.get(number, "") for number in range(count)])
    return {**content, "classes": [row for row in table if row["name"]]}, files


def _run(arguments: workdir.Arguments) -> Source:
    """The held-out cases of a run, or the images of --input, predicted when they are opened."""
    trained = inference.load(arguments.workdir, arguments.config, others=arguments.average)
    own = not arguments.inputs
    rows = _rows(arguments.workdir) if own else []
    cases, load = _cases(arguments, trained)
    before = cascade.of_cases(trained, arguments.workdir) if own else {}
    shows = {
        case.name: functools.partial(_predicted, trained, load, case, _previous(before, case.name)) for case in cases
    }
    return _listed(arguments, trained.known, shows, rows)


def _previous(before: Mapping[str, Callable], name: str) -> dict[str, Any]:
    return {"previous": before[name]} if name in before else {}


def _all_folds(arguments: workdir.Arguments) -> Source:
    """Every case by the network that had not seen it, which is read when it is first asked."""
    known = build.stored_facts(workdir.record(arguments.workdir))
    opened: dict[str, Source] = {}
    shows: dict[str, Callable[[], viewer.Shown]] = {}

    def show(own: workdir.Arguments, name: str) -> viewer.Shown:
        key = str(own.workdir)
        if key not in opened:
            opened.clear()  # one network in memory
            opened[key] = _run(own)
        return next(case.show() for case in opened[key].cases if case.listed.name == name)

    for own in folds.each(arguments):
        for name in workdir.record(own.workdir).get("split", {}).get("held out", ()):
            shows[name] = functools.partial(show, own, name)
    if not shows:
        raise UserError(f"{arguments.workdir} holds no trained fold; run --mode train with this --workdir first.")
    return _listed(arguments, known, shows, _rows(arguments.workdir))


def _listed(
    arguments: workdir.Arguments,
    known: build.Facts,
    shows: Mapping[str, Callable[[], viewer.Shown]],
    rows: Sequence[dict[str, Any]],
) -> Source:
    """Sets the cases beside their scores."""
    config = arguments.config
    names = known.classes
    if config.task == "instance" or config.predict.watershed:
        names = instances.classes(config, known.classes)
    metric = ranking_metric(rows)
    ranks = mean_scores(rows, metric)
    columns = [name for name in METRICS if any(name in row for row in rows)]
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        scores.setdefault(row["case"], {})[row["class"]] = {name: float(row.get(name, math.nan)) for name in columns}
    entries = [
        Entry(viewer.Listed(name, ranks.get(name, math.nan), scores.get(name, {})), show)
        for name, show in shows.items()
    ]
    note = ""
    if not arguments.inputs and not rows:
        note = "not evaluated yet, so without scores"
    ranking = f"mean {label_of(metric)}" if rows else ""
    metrics = {name: label_of(name) for name in columns}
    title = paths.path(str(arguments.workdir)).absolute().name
    return Source(sorted(entries, key=_place), title, names, known.channels, ranking, metrics, note)


def _place(case: Entry) -> tuple:
    return viewer.rank(case.listed)


def _rows(folder: paths.Path) -> list[dict[str, Any]]:
    path = folder / evaluation.files.FOLDER / evaluation.files.CASES
    return evaluation.files.read_cases(path) if path.is_file() else []


def _cases(arguments: workdir.Arguments, trained: inference.Trained) -> tuple[Sequence[Case], Callable[[Case], Sample]]:
    if arguments.inputs and not arguments.labels:
        channels, identify = len(trained.known.channels), trained.config.report.identify
        cases = inputs.list_inputs(arguments.inputs[0], channels=channels, identify=identify, tell=print)
        return cases, lambda case: Sample(inputs.read_case(case), None)
    return evaluating.labelled_cases(arguments, trained)


def _predicted(
    trained: inference.Trained, load: Callable[[Case], Sample], case: Case, options: dict[str, Any]
) -> viewer.Shown:
    """Reads and predicts one case."""
    sample = load(case)
    if trained.find is not None:
        return _objects(trained, sample)
    found = certainty.explain(trained, sample.image, **options)
    true = None if sample.label is None else np.asarray(sample.label.data)
    return viewer.Shown(sample.image, true, np.asarray(found.prediction.labels), found.certainty.entropy)


def _objects(trained: inference.Trained, sample: Sample) -> viewer.Shown:
    """Objects one by one, and the classes that they cover."""
    assert trained.find is not None
    shape = sample.image.data.shape[:2]
    found = predict.above(trained.find(sample.image), trained.config.predict.min_score)
    pred = viewer.object_classes(found, shape)
    if sample.label is None or sample.objects is None:
        return viewer.Shown(sample.image, pred=pred, pred_objects=found)
    count = len(instances.classes(trained.config, trained.known.classes))
    truth = object_maps.to_instances(sample.label.data, sample.objects, num_classes=count)
    true = viewer.object_classes(truth, shape)
    return viewer.Shown(sample.image, true, pred, None, truth, found)
