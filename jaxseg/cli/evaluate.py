"""--mode evaluate and report: held-out cases, or any labelled folder, on the grid of the user's own files."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg import evaluate as evaluation
from jaxseg import metrics, paths, predict
from jaxseg.cli import (
    build,
    cascade,
    certainty,
    episodes,
    images,
    inference,
    instances,
    label_source,
    made_images,
    workdir,
)
from jaxseg.data import datasets, fingerprint, orientation
from jaxseg.data.datasets import inputs, instance_masks, layouts
from jaxseg.train import logging, processes
from jaxseg.typing import Case, Sample, UserError

TRIALS = "postprocess.json"  # chain -> Dice of each class, for every case


def evaluate(
    arguments: workdir.Arguments,
    *,
    trials: bool = False,
    unseen: Mapping[str, Sequence[int]] | None = None,
    folder: paths.Path | None = None,
) -> None:
    """Scores every case, writes tables, overlays and the report, and says where they lie.

    Of several processes each scores some of the cases, every case by one of them, and the first writes.

    Args:
      arguments: the command line.
      trials: also measure which post-processing would help each case, and write that beside the scores.
      unseen: of an ensemble: training case -> the members that have not seen it, who alone are asked; these cases are
        scored then. None: the held-out cases, or those of --input.
      folder: where the scores go; None: --output, or WORKDIR/evaluation.

    Raises:
      UserError: no labelled case to score, or cases that cannot be read.
    """
    if images.makes_images(arguments.config):
        made_images.evaluate(arguments)
        return
    trained = inference.load(arguments.workdir, arguments.config, others=arguments.average)
    if unseen is not None:
        trained = trained._replace(held_out=tuple(unseen))
    cases, load = labelled_cases(arguments, trained)
    options = trained.config.evaluate
    known = trained.known
    if folder is None:
        folder = paths.path(arguments.output) if arguments.output else arguments.workdir / evaluation.files.FOLDER
    if trained.find is not None:
        _evaluate_instances(arguments, trained, cases, load, folder)
        return
    names = _region_names(known, background=options.background)
    score = functools.partial(metrics.case_rows, tolerance_mm=options.tolerance_mm, skip_surface=not options.surfaces)
    mine = processes.mine(cases)
    before = {} if arguments.inputs else cascade.of_cases(trained, arguments.workdir)
    given: dict[str, dict[str, Any]] = {case.name: {} for case in cases}
    for name, previous in before.items():
        given[name]["previous"] = previous
    for name, asked in (unseen or {}).items():
        given[name]["only"] = asked
    certain = options.certainty or bool(trained.config.ensemble.kind)

    def work() -> tuple[evaluation.Scored, dict[str, predict.choice.Measured], list[certainty.Judged]]:
        measured: dict[str, predict.choice.Measured] = {}
        judged: list[certainty.Judged] = []
        find = functools.partial(_predicted, trained, options.curves, judged if certain else None)
        results = _results(mine, load, find, given)
        with logging.progress(len(mine), label="evaluate") as show:
            scored = evaluation.score_cases(
                _try(results, measured, num_classes=len(known.classes)) if trials else results,
                classes=known.classes,
                score=score,
                regions=names,
                areas=options.curves,
                progress=lambda done, name: show(done, case=name),
                overlay_count=options.overlays,
            )
        return scored, measured, judged

    parts = processes.together(work)
    if not processes.is_first():
        return
    scored = evaluation.merge([found for found, *_ in parts])
    rows = scored.rows()
    if certain:
        judged = [one for *_, own in parts for one in own]
        found = certainty.summarize(judged, rows, known)
        rows = certainty.with_scores(rows, found)
    summary = metrics.aggregate(rows)
    scored.gallery.write(folder / evaluation.files.OVERLAYS)
    evaluation.files.write_results(folder, rows, summary)
    if trials:
        fingerprint.write_json(
            folder / TRIALS, {name: each for _, measured, _ in parts for name, each in measured.items()}
        )
    print(evaluation.files.summary_table(summary))
    if certain:
        certainty.finish(arguments, folder, judged, trained, rows, found)
    if episodes.can_play(trained):
        episodes.evaluate(trained, cases, load, folder)
    tell(arguments, folder)


def _try(results: Iterator[evaluation.CaseResult], measured: dict, *, num_classes: int):
    """Measures the post-processing of each case as it passes."""
    for case in results:
        measured[case.name] = predict.choice.measure(case.pred, case.true, num_classes=num_classes)
        yield case


def _evaluate_instances(arguments, trained: inference.Trained, cases, load, folder: paths.Path) -> None:
    assert trained.find is not None
    config = trained.config
    with logging.progress(len(processes.mine(cases)), label="evaluate") as show:
        summary = instances.evaluate(
            cases,
            load,
            trained.find,
            classes=instances.classes(config, trained.known.classes),
            options=config.evaluate,
            min_score=config.predict.min_score,
            folder=folder,
            show=show,
        )
    print(evaluation.files.summary_table(summary))
    coco = summary["coco"]
    for kind in ("mask", "box"):
        print(f"{kind:<9} AP {coco[kind]['AP']:.3f}, AP50 {coco[kind]['AP50']:.3f}, AP75 {coco[kind]['AP75']:.3f}")
    tell(arguments, folder)


def tell(arguments: workdir.Arguments, folder: paths.Path) -> None:
    """Says where scores and overlays lie, and writes the run's report if that is where a report looks for them."""
    if not processes.is_first():
        return
    print(f"scores    {folder / evaluation.files.CASES}\noverlays  {folder / evaluation.files.OVERLAYS}")
    if folder.parent == arguments.workdir:
        report(arguments)


def report(arguments: workdir.Arguments) -> None:
    """Writes WORKDIR/report.html and model_card.md from what the workdir holds."""
    print(f"report    {evaluation.write_report(arguments.workdir)}")
    print(f"card      {evaluation.write_card(arguments.workdir)}")


def labelled_cases(
    arguments: workdir.Arguments, trained: inference.Trained
) -> tuple[list[Case], Callable[[Case], Sample]]:
    """Returns the cases to score and how to read one: a labelled folder if one is named, else the held-out fold.

    Raises:
      UserError: half of the flags that name a folder, no held-out case, or files that are not there.
    """
    if bool(arguments.inputs) != bool(arguments.labels) or len(arguments.inputs) > 1:
        raise UserError(
            "--mode evaluate of a folder needs one --input (images) and --labels; without both: held-out cases."
        )
    if arguments.inputs and arguments.labels:
        of_folder = _folder_cases if trained.find is None else _folder_objects
        return of_folder(arguments.inputs[0], arguments.labels, trained)
    # a network that learnt borders is scored on the objects themselves
    border = trained.find is not None and instances.borders(trained.config)
    other = {"target": "objects", "border_width": None} if border else {}
    dataset = build.dataset(trained.config, **other)
    wanted = set(trained.held_out)
    missing = wanted - {case.name for case in dataset.cases}
    if missing:
        raise UserError(
            f"data.root = {trained.config.data.root} lacks held-out cases: {', '.join(sorted(missing)[:5])}."
        )
    if not wanted:
        raise UserError(
            "This run held no case out (data.fold=none); score a folder with --input IMAGES --labels LABELS."
        )
    return [case for case in dataset.cases if case.name in wanted], dataset.load


def _folder_cases(images: str, labels: str, trained: inference.Trained) -> tuple[list[Case], Callable[[Case], Sample]]:
    known, rule = trained.known, label_source.rule_of(trained.config, trained.known)
    identify = trained.config.report.identify
    return _pairs(images, labels, len(known.channels), identify), functools.partial(layouts.load_case, rule=rule)


def _folder_objects(images: str, labels: str, trained: inference.Trained) -> tuple[list[Case], Callable]:
    """A COCO file of the images in a folder, or a folder of label images, whose values number the objects."""
    names, channels = instances.classes(trained.config, trained.known.classes), trained.known.channels
    if paths.path(labels).suffix == ".json":
        place = str(paths.path(labels).absolute())
        dataset = datasets.load("coco", root=images, images="", labels=place, classes=names, channels=channels)
        return list(dataset.cases), dataset.load
    if len(names) > 2:
        raise UserError(
            f"--labels {labels} should be a COCO file: label images do not tell the classes {', '.join(names[1:])}."
        )
    load = functools.partial(instance_masks.load_label_image, channels=len(channels))
    return _pairs(images, labels, len(channels)), load


def _pairs(images: str, labels: str, channels: int, identify: bool = False) -> list[Case]:
    found = inputs.list_inputs(labels, labels=True)  # first, so that a wrong --labels is told first
    cases = inputs.list_inputs(images, channels=channels, identify=identify, tell=print)
    return inputs.with_labels(cases, found, place=f"--labels {labels}")


def _predicted(
    trained: inference.Trained,
    keep_probabilities: bool,
    judged: list | None,
    case: Case,
    sample: Sample,
    **options: Any,
) -> tuple[predict.Prediction, np.ndarray | None]:
    """Returns what is found in a case and, where that is measured, how uncertain it is; `judged` gets the figures."""
    if judged is None:
        return trained.predict(sample.image, keep_probabilities=keep_probabilities, **options), None
    found = certainty.explain(trained, sample.image, **options)
    assert sample.label is not None  # who scores a case has its label
    judged.append(certainty.judge(case.name, found, sample.label.data, trained.known))
    kept = found.prediction if keep_probabilities else found.prediction._replace(probabilities=None)
    return kept, found.certainty.entropy


def _results(
    cases: Sequence[Case], load: Callable, find: Callable, given: Mapping[str, dict[str, Any]]
) -> Iterator[evaluation.CaseResult]:
    """Predicts one case when it is asked for the next; `given` are further options of `find` by case."""
    for case in cases:
        sample = load(case)
        found, uncertainty = find(case, sample, **given[case.name])
        volume = sample.image
        yield evaluation.CaseResult(
            name=case.name,
            image=volume.data,
            true=sample.label.data,
            pred=np.asarray(found.labels),
            spacing_mm=volume.spacing,
            probabilities=found.probabilities,
            uncertainty=uncertainty,
            axes=orientation.codes(volume.affine) if len(volume.spacing) == 3 else None,
        )


def _region_names(known: build.Facts, *, background: bool) -> dict[str, tuple[int, ...]] | None:
    """Returns row name -> class ids where rows are not simply the foreground classes.

    The class that a region writes bears its name.
    """
    if known.regions:
        return {known.classes[region[0]]: region for region in known.regions}
    return {name: (number,) for number, name in enumerate(known.classes)} if background else None
