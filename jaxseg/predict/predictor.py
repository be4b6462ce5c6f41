"""Whole cases: a volume in, a label map on the same grid out; and a folder of files in, a folder of files out."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from jaxseg.predict import postprocess as cleaning
from jaxseg.predict.array import predict_array
from jaxseg.predict.bounded import check_fits, predict_labels, probability_bytes
from jaxseg.predict.planes import layout
from jaxseg.predict.sliding_window import Placement, Weight
from jaxseg.typing import Case, PredictFn, UserError, Volume


class Prediction(NamedTuple):
    """What was found in one case, on the grid of its file.

    Attributes:
      labels: class ids, int16, `(*S)`.
      probabilities: `(*S, K)` float32 (K classes, or K regions without background), or None where not asked for.
      maps: further maps to write beside the labels, by name, `(*S)` float32 each, such as an uncertainty.
    """

    labels: Integer[np.ndarray, "*S"]
    probabilities: Float[np.ndarray, "*S K"] | None
    maps: Mapping[str, Float[np.ndarray, "*S"]] = MappingProxyType({})


def predict_case(
    predict_fn: PredictFn,
    volume: Volume,
    settings: Any,
    *,
    ndim: int,
    num_classes: int,
    window: Sequence[int] | None,
    overlap: float = 0.5,
    weight: Weight = "gaussian",
    placement: Placement = "even",
    batch_size: int = 1,
    flip_axes: Sequence[int] = (),
    flip_pairs: Sequence[tuple[int, int]] = (),
    divisor: int | Sequence[int] = 1,
    regions: Sequence[Sequence[int]] | None = None,
    postprocess: str | Callable[..., np.ndarray] | None = None,
    keep_probabilities: bool = False,
    previous: Callable[[Volume, Any], np.ndarray] | None = None,
    beside: Callable[[Volume, Any], np.ndarray] | None = None,
    logits: bool = False,
    memory: int | None = None,
) -> Prediction:
    """Returns the class ids of one case: preprocess, predict by windows, back to the grid of the file, clean up.

    Args:
      predict_fn: `(B, *window, C) -> (B, *window, K)`, jitted (see `predict_array`).
      volume: the image `(*S, C)` as read.
      settings: `data.preprocess.Settings` of the training run.
      ndim, window, overlap, weight, placement, batch_size, flip_axes, flip_pairs, divisor: see `predict_array`.
      num_classes: classes with background.
      regions: None for softmax; else the class ids of each sigmoid output (a single foreground: `((1,),)`), painted in
        their order wherever the probability is above 0.5.
      postprocess: a text for `postprocess.from_string`, or a function `(labels, *, spacing) -> labels`; sees class ids.
      keep_probabilities: also give the probabilities on the grid of the file (K times the size of a float32 image).
      previous: `(volume, record of the preprocessing) -> class ids (*T)` of a previous stage, on the grid that the
        network sees; they become channels of the image. None: there is none.
      beside: `(volume, record) -> (*T, D)` further channels behind those, as they are, such as the probabilities that
        agents start from. None: there are none.
      logits: `predict_fn` gives logits. So these are what windows and flips average and what is resampled; they become
        probabilities on the grid of the file (nnU-Net).
      memory: bytes on the host that may be taken beside `volume`; None: no bound. See `predict_labels` for how little
        is enough; probabilities that are kept take what they take.

    Raises:
      UserError: the volume does not fit the settings or the memory, or the network gave numbers that are not finite.
      ValueError: the network's outputs are not as many as `num_classes` or `regions` say.
    """
    from jaxseg.data import preprocess
    from jaxseg.data.augment.previous import append

    # Before the long part: an unknown name should not cost the prediction.
    clean = cleaning.from_string(postprocess) if isinstance(postprocess, str) else postprocess
    region_labels = None if regions is None else cleaning.region_classes(regions)
    check_axes(volume, ndim)
    array, record = preprocess.forward(volume, settings)
    if previous is not None:
        array = np.asarray(append(array, previous(volume, record), num_classes=num_classes))
    if beside is not None:
        array = np.concatenate([array, beside(volume, record)], axis=-1)
    outputs = num_classes if regions is None else len(regions)
    activate = None if not logits else cleaning.softmax if regions is None else cleaning.sigmoid
    geometry: dict[str, Any] = {"ndim": ndim, "window": window, "divisor": divisor}
    geometry |= {"overlap": overlap, "weight": weight, "placement": placement}
    calls: dict[str, Any] = {"batch_size": batch_size, "flip_axes": flip_axes, "flip_pairs": flip_pairs}
    probabilities = None
    if keep_probabilities:
        what = f"Holding all probabilities of {volume.path or 'the image'} for {outputs} outputs"
        check_fits(probability_bytes(record, outputs), memory, what, "leave predict.probabilities out")
        probs = predict_array(predict_fn, array, **geometry, **calls)
        del array
        if probs.shape[-1] != outputs:
            raise ValueError(f"The network should give {outputs} outputs, got {probs.shape[-1]}.")
        check_finite(probs, volume)
        probabilities = preprocess.invert(probs, record, reduce=None, exclusive=regions is None, activate=activate)
        labels = reduce(probabilities, regions)
    else:
        labels = predict_labels(
            predict_fn,
            array,
            record,
            layout(array.shape[:-1], **geometry),
            channels=outputs,
            region_labels=region_labels,
            activate=activate,
            check=functools.partial(check_finite, volume=volume),
            memory=memory,
            name=volume.path,
            **calls,
        )
        del array
    if clean is not None:
        labels = clean(labels, spacing=volume.spacing).astype(np.int16, copy=False)
    return Prediction(labels, probabilities)


def check_axes(volume: Volume, ndim: int) -> None:
    """Raises a UserError for an image that a network of `ndim` axes can see neither whole nor slice by slice."""
    if volume.data.ndim - 1 not in (ndim, ndim + 1):
        raise UserError(
            f"{volume.path or 'The image'} has {volume.data.ndim - 1} axes, but the network was trained on {ndim}; "
            "give images like those of the training."
        )


def check_finite(output: Float[np.ndarray, "*S K"], volume: Volume) -> None:
    """Raises a UserError where a network's output for `volume` is not finite."""
    if not all(np.isfinite(slab).all() for slab in output):
        raise UserError(
            f"The network's output for {volume.path or 'this image'} is not finite; check the image for NaN and "
            "extreme values, or take an earlier checkpoint."
        )


def reduce(
    probabilities: Float[np.ndarray, "*S K"], regions: Sequence[Sequence[int]] | None = None
) -> Integer[np.ndarray, "*S"]:
    """Returns class ids: the most probable class, or with `regions` (see `predict_case`) these painted in order."""
    if regions is None:
        return cleaning.argmax(probabilities)
    return cleaning.regions_to_labels(cleaning.threshold(probabilities), regions)


def write_prediction(
    prediction: Prediction,
    volume: Volume,
    path: str | pathlib.Path,
    *,
    label_values: Sequence[int],
    overwrite: bool = False,
) -> str:
    """Writes the label map in the format and geometry of the image, and beside it the probabilities and maps if any.

    Args:
      prediction: on the grid of `volume`.
      volume: the image that was predicted; gives geometry and header.
      path: the file; its folder is made. Probabilities go to `NAME_probabilities` in the same
        format (a float TIFF where the format holds no floats), a map to `NAME_MAP`.
      label_values: the user's own value for each class id, background first.
      overwrite: replace files that exist.

    Returns:
      The path of the label map.

    Raises:
      UserError: a file exists and may not be overwritten.
      ValueError: a class id without a value.
    """
    from jaxseg.data import readers, writers

    path = pathlib.Path(path)
    beside = path.with_name(readers.output_name(path, probabilities=True))
    numbers = {name: path.with_name(readers.output_name(path, numbers=name)) for name in prediction.maps}
    wanted = [path, *([] if prediction.probabilities is None else [beside]), *numbers.values()]
    refuse_existing(wanted, overwrite)
    writers.write(path, label_map(prediction.labels, label_values), volume, overwrite=overwrite)
    if prediction.probabilities is not None:
        writers.write(beside, prediction.probabilities, volume, overwrite=overwrite)
    for name, target in numbers.items():
        writers.write(target, prediction.maps[name], volume, overwrite=overwrite, scalar=True)
    return str(path)


def label_map(labels: Integer[np.ndarray, "*S"], label_values: Sequence[int]) -> Integer[np.ndarray, "*S"]:
    """Returns the user's own label values for class ids, in the smallest integer type that holds all of them.

    Raises:
      ValueError: a class id without a value.
    """
    from jaxseg.data import writers

    if labels.size and (labels.min() < 0 or labels.max() >= len(label_values)):
        raise ValueError(f"Class ids should be 0 to {len(label_values) - 1}, got {labels.min()} to {labels.max()}.")
    kind = writers.label_dtype(np.array(label_values))
    table, values = np.array(label_values, kind), np.empty(labels.shape, kind)
    for slab, slab_labels in zip(values, labels):
        slab[...] = table[slab_labels]
    return values


def output_file(case: Case) -> str:
    """Returns the name of the file that a case's prediction is written to: as the input, without a channel number."""
    from jaxseg.data.datasets import output_name

    return output_name(case)


def predict_folder(
    predict_case_fn: Callable[[Volume], Any],
    cases: Sequence[Case],
    output: str | pathlib.Path,
    *,
    read: Callable[[Case], Volume],
    label_values: Sequence[int],
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    write: Callable[[Case, Any, Volume, pathlib.Path], str] | None = None,
    suffix: str | None = None,
    outputs: Callable[[Case], Sequence[str]] | None = None,
) -> list[tuple[str, str]]:
    """Predicts every case and writes one file each; a case that fails is reported at the end and stops no other.

    Args:
      predict_case_fn: `volume -> Prediction`, a `partial` of `predict_case`.
      cases: the inputs; only names of files.
      output: the folder to write to; it is made. Each file is named as its input and has its format.
      read: gives the image of a case.
      label_values: see `write_prediction`.
      overwrite: replace files that exist; inputs are never replaced.
      progress: called as `progress(done, total, name)` after each case.
      write: `(case, prediction, volume, path) -> path written`; None: `write_prediction`.
      suffix: of the files, such as ".png"; None: the input's.
      outputs: gives the names of all files of a case, where `write` writes several; it is given the path of the first.

    Returns:
      `(case name, path of the label map)` in the order of `cases`.

    Raises:
      UserError: no case; files that exist or would be written twice (before anything is predicted); or, after all
        others are written, the cases that could not be read, predicted or written.
    """
    if not cases:
        raise UserError("There is nothing to predict: no input file was found.")
    output = pathlib.Path(output)
    if outputs is None:

        def outputs(case: Case) -> Sequence[str]:
            return [output_file(case) if suffix is None else f"{case.name}{suffix}"]

    paths = [[output / name for name in outputs(case)] for case in cases]
    if write is None:

        def write(case: Case, prediction: Prediction, volume: Volume, path: pathlib.Path) -> str:
            return write_prediction(prediction, volume, path, label_values=label_values, overwrite=overwrite)

    _check_outputs(cases, paths, overwrite)
    written, problems = [], []
    for done, (case, path) in enumerate(zip(cases, paths), start=1):
        try:
            volume = read(case)
            prediction = predict_case_fn(volume)
            written.append((case.name, write(case, prediction, volume, path[0])))
            del volume, prediction  # before the next case is read
        except (UserError, OSError) as error:
            problems.append(f"{case.name}: {error}")
        if progress is not None:
            progress(done, len(cases), case.name)
    if problems:
        others = f"the other {len(written)} are in {output}" if written else "nothing was written"
        raise UserError(
            f"{len(problems)} of {len(cases)} cases could not be predicted ({others}): " + "; ".join(problems)
        )
    return written


def _check_outputs(cases: Sequence[Case], paths: Sequence[Sequence[pathlib.Path]], overwrite: bool) -> None:
    """Refuses outputs that would replace an input, each other, or files that exist."""
    inputs = {pathlib.Path(image).resolve() for case in cases for image in case.images}
    taken: dict[pathlib.Path, str] = {}
    for case, path in ((case, path) for case, several in zip(cases, paths) for path in several):
        if path.resolve() in inputs:
            raise UserError(
                f"The prediction of {case.name} would replace the input {path}; choose another output folder."
            )
        if path in taken:
            raise UserError(f"{case.name} and {taken[path]} would both be written to {path}; rename one of the inputs.")
        taken[path] = case.name
    refuse_existing([path for several in paths for path in several], overwrite)


def refuse_existing(paths: Sequence[pathlib.Path], overwrite: bool) -> None:
    """Raises a UserError, one for all files, where some are there already and may not be replaced."""
    existing = [] if overwrite else [str(path) for path in paths if path.exists()]
    if existing:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise UserError(f"{existing[0]}{more} exists already; allow overwriting or choose another output folder.")
