"""--mode predict: a trained workdir, a folder of scans, a folder of masks."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from jaxseg import predict as prediction
from jaxseg.cli import (
    agents,
    certainty,
    clicks,
    described,
    images,
    inference,
    instances,
    label_source,
    made_images,
    workdir,
)
from jaxseg.data import preprocess
from jaxseg.data.datasets import inputs, layouts
from jaxseg.train import logging
from jaxseg.typing import Case, UserError, Volume


def predict(arguments: workdir.Arguments) -> None:
    """Writes one mask a case into --output, named and shaped as its input, and the maps that are asked for beside it.

    Raises:
      UserError: missing flags, unreadable inputs (the others are still written), or masks that are already there.
    """
    if images.makes_images(arguments.config):
        made_images.predict_files(arguments)
        return
    if len(arguments.inputs) != 1 or not arguments.output:
        raise UserError("--mode predict needs --workdir, one --input (a file or a folder) and --output (a folder).")
    channels = workdir.record(arguments.workdir).get("dataset", {}).get("channels")
    cases = inputs.list_inputs(
        arguments.inputs[0],
        channels=len(channels) if channels else None,
        identify=arguments.config.report.identify,
        tell=print,
    )
    trained = inference.load(arguments.workdir, arguments.config, others=arguments.average)
    if trained.find is not None:
        _predict_instances(arguments, trained, cases)
        return
    outputs = described.outputs(arguments, trained)
    find = _finder(arguments, trained, _given_masks(arguments, trained, cases))
    missed: dict[str, str] = {}  # why a case has no DICOM object

    def write(case: Case, found: prediction.Prediction, volume: Volume, path: pathlib.Path) -> str:
        reasons = prediction.formats.write(case, found, volume, path.parent, outputs=outputs)
        if reasons:
            missed[case.name] = " ".join(reasons)
        return str(path)

    with logging.progress(len(cases), label="predict") as show:
        written = prediction.predict_folder(
            find,
            cases,
            arguments.output,
            read=inputs.read_case,
            label_values=trained.known.label_values,
            overwrite=arguments.overwrite,
            progress=lambda done, total, name: show(done, case=name),
            write=write,
            outputs=lambda case: prediction.formats.file_names(case, outputs.formats),
        )
    for name, reason in missed.items():
        print(f"{name}: no DICOM-SEG beside the NIfTI file: {reason}")
    print(f"{len(written)} masks in {arguments.output} (checkpoint {trained.step} of {arguments.workdir})")


def _given_masks(
    arguments: workdir.Arguments, trained: inference.Trained, cases: Sequence[Case]
) -> Callable[[Volume, preprocess.Record], np.ndarray] | None:
    """Returns `(volume, record) -> probabilities` of the masks in --initial, or None where none are given.

    The hints of --clicks stand behind them.

    Raises:
      UserError: the run has no agents, an image has no mask there, or the clicks say nothing to them.
    """
    if arguments.initial is None:
        if arguments.clicks is not None:
            raise UserError("--clicks needs --initial, the folder of the masks that were looked at when clicking.")
        return None
    if not agents.is_agent(trained.config):
        raise UserError(
            f"--initial gives masks to start from, but {arguments.workdir} finds its own "
            f"(task={trained.config.task!r}); leave it out, or name a run with task='refinement' or 'operators'."
        )
    masks = inputs.list_inputs(arguments.initial, labels=True)
    place = f"--initial {arguments.initial}"
    by_path = {
        case.images[0]: case for case in inputs.with_labels(cases, masks, place=place, kind="mask", plural="masks")
    }
    # A mask to start from says something of every pixel.
    rule = label_source.rule_of(trained.config, trained.known)._replace(ignore=None)
    settings = preprocess.settings_from_json(trained.record["settings"])
    hints = None if arguments.clicks is None else clicks.hints(arguments.clicks, trained.config, trained.known, cases)

    def beside(volume: Volume, record: preprocess.Record) -> np.ndarray:
        label = layouts.load_case(by_path[volume.path], rule=rule).label
        assert label is not None  # the case names its file
        probabilities = agents.given(preprocess.forward_label(label, record, settings), trained.known)
        return probabilities if hints is None else np.concatenate([probabilities, hints(volume, record)], axis=-1)

    return beside


def _finder(
    arguments: workdir.Arguments, trained: inference.Trained, beside: Callable | None = None
) -> Callable[[Volume], prediction.Prediction]:
    """Returns what predicts a volume: its mask and, as asked for, its probabilities and maps of uncertainty."""
    further = {} if beside is None else {"beside": beside}
    options = arguments.config.predict
    temperature = certainty.temperature(arguments.config, arguments.workdir)
    names = [name for name in options.uncertainty.split(",") if name]
    if set(names) - {"entropy"} and not trained.parts:
        raise UserError(
            f"{arguments.workdir} holds one network, whose members cannot differ; ask for predict.uncertainty=entropy."
        )

    def find(volume: Volume) -> prediction.Prediction:
        if not names and temperature is None:
            return trained.predict(volume, keep_probabilities=options.probabilities, **further)
        found = certainty.explain(trained, volume, temperature=temperature, **further)
        kept = found.prediction if options.probabilities else found.prediction._replace(probabilities=None)
        return kept._replace(maps={name: getattr(found.certainty, name) for name in names})

    return find


def _predict_instances(arguments: workdir.Arguments, trained: inference.Trained, cases) -> None:
    assert trained.find is not None
    config, output = trained.config, str(arguments.output)
    with logging.progress(len(cases), label="predict") as show:
        written = instances.predict_folder(
            cases,
            output,
            find=trained.find,
            read=inputs.read_case,
            classes=instances.classes(config, trained.known.classes),
            min_score=config.predict.min_score,
            overwrite=arguments.overwrite,
            progress=lambda done, total, name: show(done, case=name),
        )
    print(
        f"{len(written)} label images, {instances.COCO} and {instances.OVERLAYS}/ in {output} "
        f"(checkpoint {trained.step} of {arguments.workdir})"
    )
