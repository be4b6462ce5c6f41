"""Where --mode synthesize takes label maps from: new ones out of the training cases', or files of the user."""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int16
from ml_collections import ConfigDict

from jaxseg import config as configs
from jaxseg import paths
from jaxseg.cli import build
from jaxseg.data import made, preprocess, readers, store
from jaxseg.data.datasets import inputs, layouts
from jaxseg.typing import IGNORE, UserError, Volume

MOST_MAPS = 1000  # of the training cases that new ones are made of: slices of volumes become many


class Source(NamedTuple):
    """Label maps to make images of.

    Attributes:
      draw: gives them.
      text: what they are, for the record.
      spacing: of the training cases in mm, along the network's axes; three for volumes, also where slices are made.
      training: names of the training cases.
      given: how many label maps the user has given; 0 where new ones are drawn.
    """

    draw: made.DrawFn
    text: str
    spacing: tuple[float, ...]
    training: tuple[str, ...]
    given: int = 0


def source(
    config: ConfigDict,
    folder: paths.Path,
    record: dict[str, Any],
    *,
    labels: str | None,
    divisor: Sequence[int],
) -> Source:
    """Returns where label maps come from.

    Args:
      config, folder, record: of the generator's run.
      labels: a folder of the user, or None for new maps by `config.synthesis.labels`.
      divisor: of the generator.

    Raises:
      UserError: see `given_maps`, `trained_on` and `stored_maps`.
    """
    known, ndim = build.stored_facts(record), configs.ndim_of(config)
    settings = preprocess.settings_from_json(record["settings"])
    names = tuple(sorted(set(record.get("split", {}).get("training", ()))))
    if labels is not None:
        maps = given_maps(labels, config, known, settings, divisor)
        spacing = _trained_spacing(config, folder, names, settings)
        return Source(made.given(maps), str(labels), spacing, names, len(maps))
    cases = trained_on(config, folder, names)
    stored = stored_maps(cases, ndim=ndim)
    made.check_size(stored[0].shape, divisor, what="The label map of a training case")
    return Source(made.sampled(config.synthesis.labels, stored), config.synthesis.labels, spacing_of(cases), names)


def _trained_spacing(config, folder, names, settings: preprocess.Settings) -> tuple[float, ...]:
    """The spacing of the training cases, which need not be there any more."""
    try:
        return spacing_of(trained_on(config, folder, names))
    except UserError:
        steps = settings.spacing or (None,) * max(configs.ndim_of(config), len(settings.axis_order or ()))
        return tuple(1.0 if step is None else step for step in steps)


def trained_on(config: ConfigDict, folder: paths.Path, names: Sequence[str]) -> tuple[store.StoredCase, ...]:
    """Returns the prepared training cases of a run.

    Raises:
      UserError: they are not there any more.
    """
    place = build.store_folder(config, folder)
    cases = tuple(case for case in store.open(place) if case.name in set(names))
    if not cases:
        raise UserError(f"{place} holds none of the training cases of {folder}; prepare them again, or give --labels.")
    return cases


def spacing_of(cases: Sequence[store.StoredCase]) -> tuple[float, ...]:
    """Returns the median spacing of prepared cases in mm."""
    return tuple(np.median([case.spacing for case in cases], axis=0).tolist())


def stored_maps(cases: Sequence[store.StoredCase], *, ndim: int) -> list[Int16[np.ndarray, "*S"]]:
    """Returns the label maps of prepared cases in one shape, IGNORE as background.

    Where volumes meet a 2D generator these are the slices along the first axis that hold foreground. Where there are
    more than MOST_MAPS, so many are taken evenly.

    Raises:
      UserError: a 3D generator meets pictures, or no slice holds foreground.
    """
    wanted: list[tuple[int, int | None]] = []  # (case, slice); read twice, so that memory holds what is used only
    for number, case in enumerate(cases):
        _check_axes(case.shape, ndim, case.name)
        whole = len(case.shape) == ndim
        wanted += [(number, None)] if whole else [(number, place) for place in made.slices_with_foreground(_read(case))]
    if not wanted:
        raise UserError("No slice of the training cases holds a class but background; give label maps with --labels.")
    if len(wanted) > MOST_MAPS:
        print(f"new label maps are made of {MOST_MAPS} of {len(wanted)} maps of the training cases")
        wanted = [wanted[place] for place in np.linspace(0, len(wanted) - 1, MOST_MAPS).round().astype(int)]
    maps = []
    for number in sorted({number for number, _ in wanted}):
        label = _read(cases[number])
        label = np.where(label == IGNORE, np.int16(0), label)
        maps += [label if place is None else label[place].copy() for owner, place in wanted if owner == number]
    return made.to_one_shape(maps)


def _read(case: store.StoredCase) -> Int16[np.ndarray, "*S"]:
    return np.asarray(case.label.read().result())


def _check_axes(shape: Sequence[int], ndim: int, name: str) -> None:
    if len(shape) not in (ndim, ndim + 1):
        raise UserError(f"{name} has {len(shape)} axes, but the generator makes images of {ndim}; give others.")


def files(place: str | pathlib.Path) -> list[pathlib.Path]:
    """Returns the label files of a folder in the order of their names, or the one file that is named.

    Raises:
      UserError: there are none.
    """
    place = pathlib.Path(place)
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise UserError(f"--labels {place} does not exist; name a folder of label maps.")
    found = inputs.image_files(place)
    if not found:
        raise UserError(f"--labels {place} holds no label maps; known suffixes: {', '.join(sorted(readers.TABLE))}.")
    return found


def rule_of(config: ConfigDict, known: build.Facts) -> layouts.LabelRule:
    """Returns how the values in the user's own label files become class ids."""
    threshold, ignore = config.data.label_threshold, known.ignore_value
    later = layouts.later_wins(config.data.overlap)
    return layouts.LabelRule(
        known.label_values, known.classes, len(known.channels), ignore, threshold, later_wins=later
    )


def read_file(
    path: pathlib.Path, *, rule: layouts.LabelRule, settings: preprocess.Settings
) -> tuple[Int16[np.ndarray, "*S"], tuple[float, ...] | None]:
    """Returns class ids of a label file, its axes as the training's, and the spacing along them; voxels stay as is.

    Pictures have no spacing (None).

    Raises:
      UserError: the file cannot be read, or holds values that were not trained on.
    """
    label = readers.read_label(path)
    ids = layouts.class_ids(label.data, rule=rule, path=str(path))
    order = settings.axis_order if len(settings.axis_order or ()) == ids.ndim else None
    turned, record = preprocess.place(
        Volume(ids[..., None], label.spacing, label.affine, None, str(path)),
        crop=False,
        orientation=settings.orientation,
        axis_order=order,
    )
    measured = ids.ndim == 3 or label.header is not None
    return np.ascontiguousarray(turned[..., 0]), tuple(record["spacing"]) if measured else None


def given_maps(
    place: str | pathlib.Path,
    config: ConfigDict,
    known: build.Facts,
    settings: preprocess.Settings,
    divisor: Sequence[int],
) -> list[Callable[[], made.Drawn]]:
    """Returns what reads the user's label maps, one after the other, after all have been looked at once.

    A 2D generator takes of a volume the slices along the first axis that hold foreground; its middle if none does.

    Raises:
      UserError: there are none; one has unknown values, other axes, or is too small for the generator.
    """
    ndim, rule = configs.ndim_of(config), rule_of(config, known)
    load = functools.lru_cache(maxsize=1)(functools.partial(read_file, rule=rule, settings=settings))
    readers_of: list[Callable[[], made.Drawn]] = []
    empty = other_size = 0
    for path in files(place):
        label, spacing = load(path)
        _check_axes(label.shape, ndim, str(path))
        made.check_size(label.shape[-ndim:], divisor, what=str(path))
        slices: list[int | None] = [None]
        if label.ndim > ndim:
            slices = [*made.slices_with_foreground(label)] or [len(label) // 2]
        readers_of += [functools.partial(_drawn, load, path, slice) for slice in slices]
        empty += made.is_background(label)
        other_size += _differs(spacing, settings.spacing)
    if empty:
        print(f"{empty} of the label maps in {place} show background only")
    if other_size:
        print(f"{other_size} of the label maps in {place} have another voxel size than the generator was trained at")
    return readers_of


def _drawn(load: Callable, path: pathlib.Path, slice: int | None) -> made.Drawn:
    label, spacing = load(path)
    if slice is None:
        return made.Drawn(label, path.name, spacing)
    return made.Drawn(label[slice], f"{path.name}, slice {slice}", spacing and spacing[1:])


def _differs(spacing: Sequence[float] | None, trained: Sequence[float | None] | None) -> bool:
    if spacing is None or trained is None or len(trained) != len(spacing):
        return False
    return any(want is not None and abs(have / want - 1) > 0.1 for have, want in zip(spacing, trained))
