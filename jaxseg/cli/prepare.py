"""--mode prepare: check every case, then write what training reads."""

from typing import Any

from ml_collections import ConfigDict

from jaxseg import config as configs
from jaxseg import paths
from jaxseg.cli import build, cascade, extra, images, instances, workdir
from jaxseg.data import fingerprint, preprocess, store
from jaxseg.train import logging, processes
from jaxseg.typing import DataSet, UserError


def prepare(arguments: workdir.Arguments) -> None:
    """Prepares all cases of the config's data set and says what was written."""
    processes.first(lambda: workdir.begin(arguments.workdir, arguments.config))
    dataset, _ = ensure(arguments.config, arguments.workdir)
    target = build.store_folder(arguments.config, arguments.workdir)
    cascade.ensure(arguments.config, arguments.workdir, build.facts(dataset), store.open(target))


def ensure(config: ConfigDict, folder: paths.Path) -> tuple[DataSet, dict[str, Any]]:
    """Returns the data set and the run's record, after preparing whatever is missing or out of date.

    Of several processes the first prepares, then the others: on a folder that they share they find all done, and on
    disks of their own each host prepares its own copy.

    Raises:
      UserError: bad files (all of them, by name), or settings that do not fit the data.
    """
    return processes.in_turn(lambda: _ensure(config, folder))


def _ensure(config: ConfigDict, folder: paths.Path) -> tuple[DataSet, dict[str, Any]]:
    dataset = build.dataset(config)
    known = build.facts(dataset)
    cascade.check(config, known)
    build.check_model(config, known)
    made = extra.load(config, dataset)
    other = _other(config)
    target = build.store_folder(config, folder)
    settings = _settings(config, dataset, target)
    with logging.progress(len(dataset.cases), label="prepare") as show:
        summary = store.prepare(
            dataset,
            target,
            settings,
            processes=config.data.workers,
            progress=lambda done, total, name: show(done, case=name),
            labels=_labels(config),
        )
    print(f"prepared {len(summary.written)} cases, {len(summary.skipped)} were up to date, in {target}")
    cases = store.open(target)
    if config.task == "instance":
        instances.check_cases(config, cases)
    patch = build.patch_size(config, known, cases)
    facts = {"patch_size": patch, "dataset": known._asdict(), "settings": settings._asdict(), "store": str(target)}
    if config.task == "translation":
        shown, new = ((dataset, settings), summary) if other is None else _prepare_other(*other, target)
        known_before = None if new.written else _stored(folder).get("intensities")  # else up to 50 cases are read
        facts["intensities"] = known_before or images.target_intensities(config, *shown)
    if made:
        facts["extra"] = extra.prepare(config, folder, made, settings)
    return dataset, _save(config, folder, facts)


def _labels(config: ConfigDict) -> str:
    return "required" if images.needs_labels(config) else "optional"


def _other(config: ConfigDict) -> tuple[ConfigDict, DataSet] | None:
    """Returns config and list of the images that an unpaired translation should make alike, where they are a set."""
    if not images.has_other(config):
        return None
    own = images.other_data(config)
    dataset, wanted = build.dataset(own), tuple(config.translation.target)
    if dataset.channels != wanted:
        raise UserError(
            f"translation.target names {', '.join(wanted)}, but the images of translation.other have the channels "
            f"{', '.join(dataset.channels)}; name these in the same order."
        )
    build.normalization(own, dataset.channels)
    return own, dataset


def _prepare_other(
    own: ConfigDict, dataset: DataSet, beside: paths.Path
) -> tuple[tuple[DataSet, preprocess.Settings], store.Summary]:
    target = images.other_folder(beside)
    settings = _settings(own, dataset, target)
    summary = store.prepare(dataset, target, settings, processes=own.data.workers, labels=_labels(own))
    print(f"prepared {len(summary.written)} cases of translation.other, {len(summary.skipped)} were up to date")
    return (dataset, settings), summary


def adopt(config: ConfigDict, folder: paths.Path, prepared: dict[str, Any]) -> dict[str, Any]:
    """Returns the record of a run on data that another run, whose record this is, has just prepared and checked."""
    shared = ("patch_size", "dataset", "settings", "store", "extra", "intensities")  # the last two not in every run
    return _save(config, folder, {name: prepared[name] for name in shared if name in prepared})


def _stored(folder: paths.Path) -> dict[str, Any]:
    return workdir.record(folder) if (folder / workdir.RECORD).exists() else {}


def _save(config: ConfigDict, folder: paths.Path, facts: dict[str, Any]) -> dict[str, Any]:
    previous = _stored(folder)
    own = ("created", "command", "split", "seconds", "parameters", "init", "evaluated", "postprocess")
    record = workdir.save_record(folder, config, **facts, **{name: previous[name] for name in own if name in previous})
    # config.json keeps what the user wrote, the record beside it what it came to
    config.data.patch_size = tuple(facts["patch_size"])
    return record


def measure(config: ConfigDict, dataset: DataSet, target: paths.Path) -> dict[str, Any]:
    """Returns the fingerprint of the data set, which is kept beside the prepared cases."""
    with logging.progress(len(dataset.cases), label="measure") as show:
        return fingerprint.load_or_collect(
            dataset,
            target,
            crop=config.data.crop,
            orientation=config.data.orientation,
            processes=config.data.workers,
            progress=lambda done, total, name: show(done, case=name),
        )


def _settings(config: ConfigDict, dataset: DataSet, target: paths.Path) -> preprocess.Settings:
    """Fixes everything that preprocessing needs; reads the whole set once where a choice depends on what is in it."""
    spacing = configs.spacing_of(config)
    automatic = config.data.normalize == "auto"
    normalize = build.normalization(config, dataset.channels)
    statistics: tuple = (None,) * len(normalize)
    if spacing == "median" or automatic or "ct" in normalize:
        found = measure(config, dataset, target)
        if automatic:
            normalize, statistics = fingerprint.normalization(dataset.channels, found)
        elif "ct" in normalize:
            statistics = tuple(found["channels"])
            if any(kind == "ct" and row is None for kind, row in zip(normalize, statistics)):
                raise UserError(
                    "data.normalize='ct' clips by the intensities of labelled voxels, but the data set has none; "
                    "choose another one, such as zscore."
                )
        if spacing == "median":
            median = fingerprint.target_spacing(found["spacings"], found["shapes"])
            spacing = tuple(median[place] for place in config.data.axis_order or range(len(median)))
    return preprocess.Settings(
        spacing=None if isinstance(spacing, str) else tuple(spacing),  # "keep"
        normalize=normalize,
        statistics=statistics,
        crop=config.data.crop,
        orientation=config.data.orientation,
        axis_order=config.data.axis_order,
    )
