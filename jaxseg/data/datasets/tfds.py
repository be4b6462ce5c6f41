"""Any TFDS data set that is prepared on disk, read by random access without TensorFlow."""

import functools
import hashlib
import importlib
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data import volume
from jaxseg.data.datasets import layouts
from jaxseg.typing import Case, DataSet, Sample, UserError, Volume

CLASS_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # package.module:Class; "name:1.0.0" is a TFDS name
METADATA = "jaxseg"  # our own builder's key in the data set's metadata


class Source(NamedTuple):
    """Where the examples are; plain values, so that every process can open its own."""

    folder: str
    builder: str
    split: str
    image_key: str
    label_key: str


def load(
    *,
    root: Any = None,
    builder: str | None = None,
    split: str = "train",
    data_dir: str | None = None,
    image_key: str = "image",
    label_key: str = "label",
    name_key: str = "name",
    subject_key: str = "subject",
    label_values: Sequence[int] | None = None,
    label_threshold: float | None = None,
    classes: Sequence[str] | None = None,
    channels: Sequence[str] | None = None,
    flip_pairs: Sequence[Sequence[str]] | None = None,
    ignore_value: int | None = None,
) -> DataSet:
    """Lists one split. Images are `(y, x, C)` or `(z, y, x, C)`, labels the same without C or with C = 1.

    Features `spacing` (mm, array order) and `affine` are used where the data set has them. A data set that our own
    builder wrote knows its classes, channels and pairs; the options then stay unset.

    Args:
      root: TFDS's data directory, or the version folder itself where `builder` is unset.
      builder: "name", "name/config:version", or "package.module:Class" for a builder class of your own.
      split: such as "train" or "train[:80%]".
      data_dir: another name for `root`.
      image_key: feature of the image.
      label_key: feature of the label map.
      name_key: text feature with a unique name; without it cases are called SPLIT_000012.
      subject_key: text feature with the subject; without it every case is its own.
      label_values, label_threshold, classes, channels, flip_pairs, ignore_value: as in the layout image_mask.

    Raises:
      UserError: there is no such builder, split or feature, it is not prepared, or its files have no random access.
    """
    source = Source(str(data_dir or root or ""), builder or "", split, image_key, label_key)
    opened = _open(source)
    known = _features(source)
    for key in (image_key, label_key):
        if key not in known:
            raise UserError(f"The TFDS data set {_title(source)} has no feature {key!r}; it has {', '.join(known)}.")
    if len(opened) == 0:
        raise UserError(f"The split {split!r} of the TFDS data set {_title(source)} has no example; choose another.")
    image, label = _example(source, 0)
    ours = _metadata(source)
    pairs = flip_pairs
    if ours and label_values is None and classes is None and label_threshold is None:
        classes, channels = ours["classes"], channels or ours["channels"]
        values, ignore_value = tuple(range(len(classes))), -1  # ours are class ids with IGNORE
        if flip_pairs is None:
            pairs = [[classes[a], classes[b]] for a, b in ours["flip_pairs"]]
    else:
        ours = {}
        values = layouts.choose_values(label_values, label_threshold, classes, layout="tfds", first=lambda: label)
    channels = tuple(channels) if channels else layouts.channel_names(image.data.shape[-1])
    names = layouts.class_names(classes, len(values))
    rule = layouts.LabelRule(values, names, len(channels), ignore_value, label_threshold)
    cases = _cases(source, name_key if name_key in known else None, subject_key if subject_key in known else None)
    regions = tuple(map(tuple, ours["regions"])) if ours.get("regions") else None
    dataset = layouts.make(cases, channels=channels, rule=rule, flip_pairs=pairs, regions=regions)
    return dataset._replace(
        label_values=tuple(ours.get("label_values", values)),
        load=functools.partial(load_example, source=source, rule=rule),
        digest=functools.partial(digest_example, source=source, rule=rule),
    )


def load_example(case: Case, *, source: Source, rule: layouts.LabelRule) -> Sample:
    """Reads and checks the example that a case names as "SPLIT[12]"."""
    image, label = _example(source, _index(case))
    volume.check_image(image)
    return layouts.finish(image, label, None, rule=rule)


def digest_example(case: Case, *, source: Source, rule: layouts.LabelRule) -> str:
    """Returns the sha256 of the example's arrays and of what changes how its labels are read."""
    image, label = _example(source, _index(case))
    total = hashlib.sha256(repr((rule.values, rule.ignore, rule.threshold)).encode())
    for part in (image.data, image.affine, label.data):
        total.update(f"{part.dtype} {part.shape}".encode() + np.ascontiguousarray(part).tobytes())
    return total.hexdigest()


def _index(case: Case) -> int:
    return int(case.images[0].rpartition("[")[2].removesuffix("]"))


def _title(source: Source) -> str:
    return repr(source.builder) if source.builder else f"in {source.folder}"


@functools.cache
def _builder(source: Source) -> Any:
    """Returns the TFDS builder; reads no data."""
    import tensorflow_datasets as tfds

    if not source.builder:
        return tfds.builder_from_directory(_version_folder(source.folder))
    options = {"data_dir": source.folder} if source.folder else {}
    if CLASS_PATH.fullmatch(source.builder):
        module, _, name = source.builder.partition(":")
        try:
            return getattr(importlib.import_module(module), name)(**options)
        except (ImportError, AttributeError) as error:
            raise UserError(f"The TFDS builder {source.builder!r} cannot be imported: {error}.") from error
    try:
        return tfds.builder(source.builder, **options)
    except (tfds.core.DatasetNotFoundError, ValueError, AttributeError) as error:
        raise UserError(
            f"There is no TFDS data set {source.builder!r} in {source.folder or 'the default data directory'}: "
            f"{volume.reason(error)}; correct data.builder or data.root."
        ) from error


def _version_folder(folder: str) -> pathlib.Path:
    """Returns the one folder at or below `folder` that TFDS wrote."""
    root = layouts.folder(folder, layout="tfds")
    found = sorted({path.parent for path in root.glob("**/dataset_info.json")})
    if len(found) != 1:
        listed = f"several: {', '.join(map(str, found[:5]))}" if found else "none"
        raise UserError(
            f"data.root {root} should hold one prepared TFDS data set (a dataset_info.json), but holds {listed}; set "
            "data.builder or name the version folder."
        )
    return found[0]


def _features(source: Source) -> tuple[str, ...]:
    return tuple(_builder(source).info.features)


def _metadata(source: Source) -> dict[str, Any]:
    return (_builder(source).info.metadata or {}).get(METADATA) or {}


@functools.cache
def _open(source: Source, keys: tuple[str, ...] = ()) -> Any:
    """Returns the random-access source of a split; only the features `keys` are decoded where some are named."""
    import tensorflow_datasets as tfds

    builder = _builder(source)
    skipped = [key for key in builder.info.features if keys and key not in keys]
    decoders = {key: tfds.decode.SkipDecoding() for key in skipped} or None
    try:
        return builder.as_data_source(split=source.split, decoders=decoders)
    except (AssertionError, FileNotFoundError, ValueError, NotImplementedError, KeyError) as error:
        raise UserError(
            f"The split {source.split!r} of the TFDS data set {_title(source)} cannot be read: "
            f"{volume.reason(error)}; prepare it with download_and_prepare(file_format='array_record'), "
            "or choose another split."
        ) from error


def _example(source: Source, index: int) -> tuple[Volume, Volume]:
    """Returns image `(*S, C)` and label `(*S)` of one example, as stored."""
    # No copy is shared with other readers: decoded arrays may be views of the record's bytes.
    example = _open(source)[index]
    path = f"{_title(source)} {source.split}[{index}]"
    image = volume.as_image(np.array(example[source.image_key]), path=path)
    label = np.array(example[source.label_key])
    if label.ndim == image.ndim and label.shape[-1] == 1:
        label = label[..., 0]
    elif label.ndim == image.ndim:
        image = image[..., None]
    ndim = image.ndim - 1
    if ndim not in (2, 3) or label.ndim != ndim:
        raise UserError(
            f"{path} should have an image (y, x, C) or (z, y, x, C) and a label map of the same size, but has the "
            f"shapes {image.shape} and {label.shape}; set data.image_key and data.label_key."
        )
    affine = example.get("affine")
    if affine is None:
        affine = volume.identity_affine(ndim)
        affine[:, :ndim] *= np.asarray(example.get("spacing", (1.0,) * ndim), np.float64)
    read = volume.make(image, affine, header=None, path=path)
    return read, volume.make(volume.as_label(label, path=path), affine, header=None, path=path)


def _cases(source: Source, name_key: str | None, subject_key: str | None) -> list[Case]:
    keys = tuple(key for key in (name_key, subject_key) if key)
    opened = _open(source, keys)
    plain = re.sub(r"\W+", "_", source.split).strip("_")
    cases = []
    for index in range(len(opened)):
        texts = {key: _text(value) for key, value in opened[index].items() if key in keys} if keys else {}
        name = texts.get(name_key) or f"{plain}_{index:06d}"
        place = f"{source.split}[{index}]"
        cases.append(Case(name, (place,), place, texts.get(subject_key, "")))
    return cases


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
