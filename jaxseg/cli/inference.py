"""A trained workdir as a function: volume in, prediction on the volume's own grid out."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from jaxseg import paths, predict
from jaxseg.cli import build, cache, instances, memory, mixture, workdir
from jaxseg.config import is_ensemble
from jaxseg.data import preprocess
from jaxseg.train import checkpoint
from jaxseg.train import state as states
from jaxseg.typing import Instances, Task, UserError, Volume

FOLD = "fold_{}"  # folders of the folds in the workdir of a run with data.fold=all
MEMBER = "member_{}"  # and of the members of an ensemble


class Trained(NamedTuple):
    """What a workdir offers: its config and record, what it knows of the data, and the predictor of one volume."""

    config: ConfigDict
    record: dict[str, Any]
    known: build.Facts
    held_out: tuple[str, ...]
    step: int
    predict: Callable[..., predict.Prediction]  # (volume, *, keep_probabilities=False)
    find: Callable[[Volume], Instances] | None = None  # volume -> objects, where those are what the run is about
    parts: tuple[tuple[str, "Trained"], ...] = ()  # the members of an ensemble, by name
    variables: dict[str, Any] | None = None  # of the network, where it is one and not several


def load(folder: paths.Path, config: ConfigDict, *, others: Sequence[str] = ()) -> Trained:
    """Restores the checkpoint that `config.predict.checkpoint` names.

    Args:
      folder: the workdir; of a run with data.fold=all, its folds are averaged.
      config: its config.
      others: further workdirs of the same classes, whose probabilities are averaged. Those of the same network and
        preprocessing (other folds or seeds) are averaged window by window; those of other networks on the grid of the
        file, where each kind of network counts once.

    Raises:
      UserError: a folder has no checkpoint, or one of another model.
    """
    if is_ensemble(config):
        from jaxseg.cli import combined  # which loads its members through here

        return combined.load(folder, config, others=others)
    if config.data.fold == "all" and not (folder / checkpoint.FOLDER).exists():
        first, *rest = _folds(folder)
        own = workdir.stored_config(first)
        for section in ("predict", "evaluate"):  # as --set has changed them
            own[section] = config[section]
        if own.predict.postprocess == "auto":
            own.predict.postprocess = _chosen(folder)
        return load(first, own, others=[*map(str, rest), *others])
    alike = [other for other in others if _alike(paths.path(other), folder, config)]
    if len(alike) < len(others):
        base = load(folder, config, others=alike)
        different = [paths.path(other) for other in others if other not in alike]
        return _together(base, {other: load(other, workdir.stored_config(other)) for other in different})
    cache.enable()
    record = workdir.record(folder)
    known = _known(folder, record)
    config.data.patch_size = tuple(record.get("patch_size", config.data.patch_size))
    logits = config.predict.average == "logits"
    task, apply = _compiled(config, known, logits=logits)
    restored = _restore(folder, config, task, known)
    if config.task == "instance":
        return _detector(folder, config, record, known, restored, apply, others)
    members = [restored, *(_restore(paths.path(other), config, task, known) for other in others)]
    variables = [states.inference_variables(member.state) for member in members]
    average = predict.average([build.device_predict(apply, own) for own in variables])
    one = functools.partial(
        predict.predict_case,
        average,
        settings=preprocess.settings_from_json(record["settings"]),
        num_classes=len(known.classes),
        regions=known.regions,
        postprocess=config.predict.postprocess or None,
        flip_pairs=build.output_pairs(known),
        logits=logits,
        **build.predict_options(config),
    )
    held_out = tuple(restored.metadata.get("held_out", ()))
    if config.data.previous:
        one = functools.partial(_after, one, paths.path(config.data.previous), one.keywords["settings"])
    one = functools.partial(memory.within, one, config.predict.memory_gib)
    run = functools.partial(_run, one, known=known)
    find = instances.watershed(config, run) if config.predict.watershed else None
    alone = variables[0] if len(variables) == 1 else None
    return Trained(config, record, known, held_out, restored.step, run, find, variables=alone)


_COMPILED: dict[str, tuple[Task, Callable]] = {}  # what to predict with, by all that `build.task` reads


def _compiled(config: ConfigDict, known: build.Facts, *, logits: bool) -> tuple[Task, Callable]:
    """Returns the task and its jitted predictor; one for all folds and members of the same network."""
    sections = [config[name].to_json() for name in ("model", "train", "optim", "instance", "rl")]
    earlier = build.earlier_rounds(config)
    boosted = config.ensemble.to_json() if earlier else ""
    key = repr([sections, config.loss, config.task, config.predict.steps, boosted, known, logits])
    if key not in _COMPILED:
        task = build.task(config, known, logits=logits)
        _COMPILED[key] = task, jax.jit(task.predict)
    return _COMPILED[key]


def _chosen(folder: paths.Path) -> str:
    """The post-processing that the evaluation of all folds has chosen."""
    record = workdir.record(folder)
    if "postprocess" not in record:
        raise UserError(f"No post-processing is chosen yet; run --mode evaluate --workdir {folder} first.")
    return record["postprocess"]


def _folds(folder: paths.Path) -> list[paths.Path]:
    """The trained folds of a run with data.fold=all."""
    found = sorted(path.parent for path in folder.glob(f"{FOLD.format('*')}/{checkpoint.FOLDER}"))
    if not found:
        raise UserError(f"{folder} holds no trained fold; run --mode train with this --workdir first.")
    return found


def _detector(folder, config, record, known, restored, apply, others) -> Trained:
    if others:
        raise UserError(
            f"Folds and --average are averaged by probabilities, but {folder} finds objects; name one fold's --workdir."
        )
    find = instances.detector(config, apply, states.inference_variables(restored.state), record)
    held_out = tuple(restored.metadata.get("held_out", ()))

    def no_probabilities(volume: Volume, **options) -> predict.Prediction:
        raise UserError(f"{folder} finds objects and has no class map of {volume.path}.")

    return Trained(
        config,
        record,
        known,
        held_out,
        restored.step,
        no_probabilities,
        lambda volume: _run(find, volume, known),
    )


def _known(folder: paths.Path, record: dict[str, Any]) -> build.Facts:
    if "dataset" not in record or not (folder / checkpoint.FOLDER).exists():
        raise UserError(f"{folder} holds no trained model; run --mode train with this --workdir first.")
    return build.stored_facts(record)


def _alike(other: paths.Path, folder: paths.Path, config: ConfigDict) -> bool:
    """Whether another workdir's network can take the same windows of the same preprocessed image."""
    theirs = workdir.stored_config(other)
    if is_ensemble(theirs):
        return False
    if theirs.data.fold == "all" or config.task == "instance":
        return theirs.data.fold != "all"  # objects are refused by `_detector`
    ours, found = workdir.record(folder), workdir.record(other)
    same = all(ours.get(name) == found.get(name) for name in ("settings", "patch_size"))
    return same and (theirs.model, theirs.data.previous) == (config.model, config.data.previous)


def _together(first: Trained, others: Mapping[paths.Path, Trained]) -> Trained:
    """Averages networks of different kinds on the grid of the file; post-processing is the first one's."""
    for folder, other in others.items():
        check_data(folder, other.known, first.known)
    members = [functools.partial(_raw, one) for one in (first, *others.values())]
    rule = mixture.Rule("probabilities", (1.0,) * len(members))
    run = functools.partial(mixture.predict_together, members, rule, first.known)
    return first._replace(predict=functools.partial(mixture.cleaned, run, first.config.predict.postprocess))


def _raw(member: Trained, volume: Volume, *, previous: Any = None, **options: Any) -> predict.Prediction:
    """What one network says, without post-processing; only one that follows a previous stage is told of it."""
    given = {"previous": previous} if previous is not None and member.config.data.previous else {}
    return member.predict(volume, postprocess=None, **given, **options)


def check_data(
    folder: paths.Path | str, found: build.Facts, known: build.Facts, *, remedy: str = "leave it out"
) -> None:
    """Raises a UserError where the networks of two workdirs do not speak of the same channels and classes."""
    if (found.channels, found.classes, found.regions) != (known.channels, known.classes, known.regions):
        raise UserError(f"{folder} was trained on other channels or classes ({', '.join(found.classes)}); {remedy}.")


class Opened(NamedTuple):
    """A workdir's record, what it knows of the data, its task and the checkpoint that its config names."""

    record: dict[str, Any]
    known: build.Facts
    task: Task
    restored: checkpoint.Restored


def open_run(folder: paths.Path, config: ConfigDict) -> Opened:
    """Restores a trained workdir, whatever its task; `config.data.patch_size` becomes what it came to.

    Raises:
      UserError: there is no trained network.
    """
    cache.enable()
    record = workdir.record(folder)
    known = _known(folder, record)
    config.data.patch_size = tuple(record.get("patch_size", config.data.patch_size))
    task = build.task(config, known)
    return Opened(record, known, task, restore(folder, config, build.state_shapes(config, known, task)))


def _restore(folder: paths.Path, config: ConfigDict, task: Task, known: build.Facts) -> checkpoint.Restored:
    """Reads the parameters of a workdir whose data must be like that of the first."""
    found = _known(folder, workdir.record(folder))
    check_data(folder, found, known)
    return restore(folder, config, build.state_shapes(config, known, task))


def restore(folder: paths.Path, config: ConfigDict, like: states.State) -> checkpoint.Restored:
    """Reads the checkpoint that `config.predict.checkpoint` names into the shapes of `like`."""
    step = picked(folder, config)
    checkpoints = checkpoint.Checkpoints(folder)
    try:
        return checkpoints.restore(like, step=step)
    finally:
        checkpoints.close()


def picked(folder: paths.Path, config: ConfigDict) -> int:
    """Returns the step of the checkpoint that `config.predict.checkpoint` names.

    Raises:
      UserError: there is none.
    """
    checkpoints = checkpoint.Checkpoints(folder)
    try:
        step = checkpoints.pick(str(config.predict.checkpoint))
    finally:
        checkpoints.close()
    if step is None:
        raise UserError(f"{folder} holds no finished checkpoint; run --mode train with this --workdir again.")
    return step


def _after(one: Callable, earlier: paths.Path, settings: preprocess.Settings, volume: Volume, **options) -> Any:
    """Predicts after the earlier run that the network was trained to follow; `previous` may be given instead."""
    if "previous" not in options:
        trained = _loaded(earlier)
        options["previous"] = lambda volume, record: class_map(trained, volume, record, settings)
    return one(volume, **options)


@functools.cache
def _loaded(folder: paths.Path) -> "Trained":
    return load(folder, workdir.stored_config(folder))


def class_map(earlier: "Trained", volume: Volume, record: preprocess.Record, settings: preprocess.Settings) -> Any:
    """Returns the class ids of an earlier run on the grid that a later run's preprocessing has recorded."""
    return preprocess.forward_label(volume._replace(data=earlier.predict(volume).labels), record, settings)


def _run(one: Callable, volume: Volume, known: build.Facts, **options) -> Any:
    channels = volume.data.shape[-1]
    if channels != len(known.channels):
        raise UserError(
            f"{volume.path} has {channels} channels, the model was trained on {len(known.channels)} "
            f"({', '.join(known.channels)}); give the same channels in the same order."
        )
    return one(volume, **options)
