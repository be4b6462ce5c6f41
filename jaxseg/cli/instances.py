"""What the modes do otherwise where objects are told apart: by Mask R-CNN, or by watershed on a semantic network."""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxseg import evaluate as evaluation
from jaxseg import metrics, paths, registry, tasks, viz
from jaxseg import predict as prediction
from jaxseg.data import instances, preprocess, store
from jaxseg.train import parallel, processes
from jaxseg.train import state as states
from jaxseg.typing import Case, Instances, Task, UserError, Volume

COCO, OVERLAYS = "instances.json", "overlays"
WATERSHED = {"watershed": "jaxseg.predict.watershed:watershed_instances"}


def borders(config: ConfigDict) -> bool:
    """Whether the network learnt inside and border of objects, so that its classes are not those of the objects."""
    return config.data.target == "border"


def classes(config: ConfigDict, known: Sequence[str]) -> tuple[str, ...]:
    """Returns the objects' class names, background first; `known` are the network's."""
    return tuple(config.data.classes or ("background", "object")) if borders(config) else tuple(known)


def task(config: ConfigDict, model: Any) -> Task:
    """Binds a detector."""
    options = config.instance
    low, high = options.anchor_overlaps
    numbers = {"anchors": options.sampled_anchors, "boxes": options.sampled_boxes, "masks": options.sampled_masks}
    sampling = tasks.Sampling(**numbers, high=high, low=low)
    return tasks.instance(
        model, max_objects=options.max_objects, sampling=sampling, sync_batch_norm=config.train.sync_batch_norm
    )


def check_cases(config: ConfigDict, cases: Sequence[store.StoredCase]) -> None:
    """Says how many objects training may leave out.

    Raises:
      UserError: the data set's labels are classes, not objects.
    """
    missing = [case.name for case in cases if case.objects is None]
    if missing:
        raise UserError(
            f"task='instance' needs objects, but {len(missing)} cases such as {missing[0]} have classes only; use "
            "data.name=instance_masks or coco (with target='objects')."
        )
    most = config.instance.max_objects
    crowded = [case.name for case in cases if case.objects is not None and len(case.objects.classes) > most]
    if crowded:
        print(
            f"{len(crowded)} of {len(cases)} cases hold more than instance.max_objects = {most} objects; a patch that "
            "shows more is trained on its largest ones, and objects_cut in the log counts the others."
        )


def evaluator(
    config: ConfigDict, learnt: Task, held_out: Sequence[store.StoredCase], *, num_classes: int
) -> Callable[[states.State], dict[str, float]]:
    """Returns `state -> {"score", "AP50", "dsb_score"}` of held-out cases; the score is AP50 of masks."""
    apply = jax.jit(learnt.predict)
    chosen = held_out[: config.train.eval_cases or None]
    options = {**predict_options(config), "flip_axes": ()}

    def evaluate(state: states.State) -> dict[str, float]:
        variables = parallel.local(states.inference_variables(state))

        def score(case: store.StoredCase) -> tuple[Instances, Instances, float]:
            image, values = store.read_patch(case, (0,) * len(case.shape), case.shape)
            assert case.objects is not None  # check_cases
            pred = prediction.predict_instances(functools.partial(apply, variables), image, **options)
            true = instances.to_instances(values, case.objects, num_classes=num_classes)
            kept = prediction.above(pred, config.predict.min_score)
            return pred, true, metrics.dsb_score(metrics.instance_counts(kept, true))

        pred, true, scores = zip(*processes.share(score, chosen))
        precision = metrics.average_precision_at(pred, true, threshold=0.5, most=None)
        finite = [score for score in scores if np.isfinite(score)]
        return {"score": precision, "AP50": precision, "dsb_score": float(np.mean(finite)) if finite else float("nan")}

    return evaluate


def predict_options(config: ConfigDict) -> dict[str, Any]:
    """Keyword arguments of `predict.predict_instances`."""
    return {
        "window": tuple(config.predict.window or config.data.patch_size),
        "overlap": config.predict.overlap,
        "batch_size": config.predict.batch_size,
        "flip_axes": (0, 1) if config.predict.tta else (),
    }


def detector(config: ConfigDict, apply: Callable, variables: Any, record: dict) -> Callable[[Volume], Instances]:
    """Returns `volume -> objects` of a trained Mask R-CNN, all scores."""
    settings = preprocess.settings_from_json(record["settings"])

    def find(volume: Volume) -> Instances:
        image, _ = preprocess.forward(volume, settings)  # on the file's own grid: validation asks for that
        return prediction.predict_instances(functools.partial(apply, variables), image, **predict_options(config))

    return find


def watershed(config: ConfigDict, predict: Callable[..., prediction.Prediction]) -> Callable[[Volume], Instances]:
    """Returns `volume -> objects` by watershed on a semantic network's probabilities."""
    find = registry.build(config.predict.watershed, WATERSHED, kind="watershed")

    def run(volume: Volume) -> Instances:
        found = predict(volume, keep_probabilities=True)
        return find(np.asarray(found.probabilities, np.float64))

    return run


def evaluate(
    cases: Sequence[Case],
    load: Callable,
    find: Callable[[Volume], Instances],
    *,
    classes: Sequence[str],
    options: ConfigDict,
    min_score: float,
    folder: paths.Path,
    show: Callable[..., None],
) -> dict[str, Any]:
    """Scores the cases, writes tables and overlays into `folder`, and returns the summary.

    Of several processes each scores some of the cases, and the first writes.
    """

    def results():
        for case in processes.mine(cases):
            sample = load(case)
            if sample.objects is None:
                raise UserError(f"Case {case.name} has classes, not objects; instances cannot be scored on it.")
            true = instances.to_instances(sample.label.data, sample.objects, num_classes=len(classes))
            yield evaluation.InstanceResult(case.name, sample.image.data, find(sample.image), true)

    parts = processes.together(
        lambda: evaluation.score_instances(
            results(),
            classes=classes,
            min_score=min_score,
            progress=lambda done, name: show(done, case=name),
            overlay_count=options.overlays,
        )
    )
    rows, gallery, together = evaluation.merge_instances(parts)
    summary = {**metrics.aggregate(rows), "coco": together}
    if processes.is_first():
        gallery.write(folder / evaluation.files.OVERLAYS)
        evaluation.files.write_results(folder, rows, summary)
    return summary


def predict_folder(
    cases: Sequence[Case],
    output: str,
    *,
    find: Callable[[Volume], Instances],
    read: Callable[[Case], Volume],
    classes: Sequence[str],
    min_score: float,
    overwrite: bool,
    progress: Callable[[int, int, str], None],
) -> list[tuple[str, str]]:
    """Writes a label image a case (a number an object), an overlay each, and COCO JSON of all; see `predict_folder`."""
    target = pathlib.Path(output) / COCO
    if target.exists() and not overwrite:
        raise UserError(f"{target} is there already; add --overwrite, or choose another --output.")
    results: dict[str, tuple] = {}

    def write(case: Case, found: Instances, volume: Volume, path: pathlib.Path) -> str:
        kept = prediction.above(found, min_score)
        shape = volume.data.shape[:2]
        path.parent.mkdir(parents=True, exist_ok=True)
        prediction.write_label_image(path, kept, shape)
        picture = viz.instance_panel(volume.data, pred=kept, true=None, classes=classes, title=case.name)
        (path.parent / OVERLAYS).mkdir(exist_ok=True)
        viz.save_png(path.parent / OVERLAYS / path.name, picture)
        results[case.name] = (kept, pathlib.Path(case.images[0]).name, shape)
        return str(path)

    try:
        return prediction.predict_folder(
            find,
            cases,
            output,
            read=read,
            label_values=(),
            overwrite=overwrite,
            progress=progress,
            write=write,
            suffix=".png",
        )
    finally:
        if results:  # also when some cases failed: what was written is described
            prediction.write_coco(target, results, classes=classes)
