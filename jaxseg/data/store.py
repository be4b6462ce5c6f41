"""The prepared data set on disk: one folder a case, chunked arrays (TensorStore zarr3), written whole or not at all.

FOLDER/index.json                 names of the cases and the settings; written last
FOLDER/<case>/image, label        zarr3, float32 (*S, C) and int16 (*S), blosc-zstd chunks
FOLDER/<case>/meta.json           name, subject, spacing, record, class counts, digest of inputs and settings
FOLDER/<case>/foreground.npz      some voxels of every class, (n, axes) int32, for forced-foreground patches
FOLDER/.previous/<run>/<case>     class maps of an earlier run (`write_previous`): label, meta.json
"""

import dataclasses
import functools
import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorstore
from jaxtyping import Float32, Int16, Int32

from jaxseg import paths
from jaxseg.data import arrays, fingerprint, folders, preprocess
from jaxseg.data.preprocess import Record, Settings
from jaxseg.typing import Case, DataSet, Objects, UserError

VERSION = 1  # of this layout; a change makes every stored case stale
FOREGROUND_VOXELS = 10_000  # a class and case, and
FOREGROUND_SHARE = 0.01  # at least this share of the class (nnU-Net)
SEED = 1234


class Summary(NamedTuple):
    """What `prepare` did: names of cases written now, and of those that were there already."""

    written: tuple[str, ...]
    skipped: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class StoredCase:
    """One prepared case; arrays are opened when first used, by each process for itself.

    Attributes:
      name, subject: as in the data set.
      shape: `(*S)` of the stored grid.
      spacing: millimetres of the stored grid, in array order.
      channels: number of image channels.
      record: what preprocessing did; `preprocess.invert` needs it.
      counts: class id -> voxels.
      folder: where it lies.
      objects: what the values of an object map mean; None for class maps.
      digest: names all that it depends on.
      previous: folder of the array of a previous stage's class map on the same grid; None without one.
    """

    name: str
    subject: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    channels: int
    record: Record
    counts: dict[int, int]
    folder: str
    objects: Objects | None = None
    digest: str = ""
    previous: str | None = None

    @functools.cached_property
    def image(self) -> tensorstore.TensorStore:
        """`(*S, C)` float32."""
        return arrays.open(self.folder, "image")

    @functools.cached_property
    def label(self) -> tensorstore.TensorStore:
        """`(*S)` int16, IGNORE included."""
        return arrays.open(self.folder, "label")

    @functools.cached_property
    def previous_label(self) -> tensorstore.TensorStore:
        """`(*S)` int16, of the previous stage."""
        assert self.previous is not None
        return arrays.open(self.previous, "label")

    @functools.cached_property
    def foreground(self) -> dict[int, Int32[np.ndarray, "n axes"]]:
        """Class id -> some of its voxels; background and IGNORE are not in it."""
        content = (paths.path(self.folder) / "foreground.npz").read_bytes()
        with np.load(io.BytesIO(content)) as file:
            return {int(key): file[key] for key in file.files}

    def __getstate__(self) -> dict[str, Any]:
        # Open handles stay behind: another process opens its own.
        return {field.name: self.__dict__[field.name] for field in dataclasses.fields(self)}


def prepare(
    dataset: DataSet,
    folder: str | os.PathLike,
    settings: Settings,
    *,
    processes: int = 2,
    progress: fingerprint.Progress | None = None,
    labels: str = "required",
) -> Summary:
    """Preprocesses every case into `folder`; cases already there with the same inputs and settings are skipped.

    Each case is written into a hidden folder and renamed, so a case is whole or absent whenever the run is cut; the
    same call goes on. Cases no longer in the data set stay on disk but are not listed.

    Args:
      dataset: cases, labelled unless `labels` says otherwise.
      folder: made if absent.
      settings: of preprocessing.
      processes: cases at a time (threads).
      progress: called with (done, total, name) after each case, skipped ones included.
      labels: "required", or "optional": a case without a label is stored with one that is 0 all over.

    Raises:
      UserError: the folder cannot be written, names repeat, or cases cannot be used (all of them in one message, after
        the good ones have been written).
    """
    folder = paths.path(folder)
    names = [case.name for case in dataset.cases]
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise UserError(
            f"Case names should be unique, but these occur twice: {', '.join(repeated[:10])}; rename the files."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folders.remove_leftovers(folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); choose a folder that you may write to."
        ) from error

    def work(case: Case) -> bool:
        return _prepare_case(dataset, case, folder, settings, optional=labels == "optional")

    written = dict(fingerprint.map_cases(work, dataset.cases, processes=processes, progress=progress))
    index = {"version": VERSION, "cases": sorted(names), "settings": settings._asdict()}
    index.update(channels=list(dataset.channels), classes=list(dataset.classes))
    fingerprint.write_json(folder / "index.json", index)
    return Summary(tuple(n for n in sorted(names) if written[n]), tuple(n for n in sorted(names) if not written[n]))


def open(folder: str | os.PathLike) -> tuple[StoredCase, ...]:
    """Lists the prepared cases, sorted by name; arrays are opened when they are first read.

    Raises:
      UserError: the folder holds no finished prepared data set, or one of another version.
    """
    folder = paths.path(folder)
    index = folders.read_json(folder / "index.json")
    if index is None or index.get("version") != VERSION:
        raise UserError(f"{folder} holds no finished prepared data set of this version; run --mode prepare.")
    return tuple(_stored_case(folder / folders.directory(name)) for name in index["cases"])


def stored_settings(folder: str | os.PathLike) -> Settings:
    """Returns the settings that the prepared data set in `folder` was made with.

    Raises:
      UserError: the folder holds no finished prepared data set.
    """
    index = folders.read_json(paths.path(folder) / "index.json")
    if index is None:
        raise UserError(f"{folder} holds no finished prepared data set; run --mode prepare.")
    return preprocess.settings_from_json(index["settings"])


def read_patch(
    case: StoredCase, start: Iterable[int], size: Iterable[int]
) -> tuple[Float32[np.ndarray, "*T C"], Int32[np.ndarray, "*T"]]:
    """Reads a patch; only the chunks that it touches are read. Outside the volume image and label are 0.

    Args:
      case: a prepared case.
      start: first index along each axis; may be negative.
      size: shape of the patch; it may reach beyond the volume.
    """
    start, size = tuple(start), tuple(size)
    image, label = np.zeros((*size, case.channels), np.float32), np.zeros(size, np.int32)
    _read(((case.image, image), (case.label, label)), case.shape, start, size)
    return image, label


def read_previous(case: StoredCase, start: Iterable[int], size: Iterable[int]) -> Int32[np.ndarray, "*T"]:
    """Reads a patch of the previous stage's class map, as `read_patch` reads the label."""
    start, size = tuple(start), tuple(size)
    label = np.zeros(size, np.int32)
    _read(((case.previous_label, label),), case.shape, start, size)
    return label


def _read(
    pairs: Sequence[tuple[tensorstore.TensorStore, np.ndarray]],
    shape: tuple[int, ...],
    start: tuple[int, ...],
    size: tuple[int, ...],
) -> None:
    """Fills arrays with what lies in the patch; all reads are under way before one is waited for."""
    if not len(start) == len(size) == len(shape):
        raise ValueError(f"start and size should have {len(shape)} values, one an axis, got {start} and {size}.")
    inside = tuple(slice(max(a, 0), max(min(a + n, end), max(a, 0))) for a, n, end in zip(start, size, shape))
    if all(part.stop > part.start for part in inside):
        place = tuple(slice(part.start - a, part.stop - a) for part, a in zip(inside, start))
        reads = [(array, stored[inside].read()) for stored, array in pairs]
        for array, read in reads:
            array[place] = read.result()


def add_previous(cases: Iterable[StoredCase], folder: paths.Path) -> tuple[StoredCase, ...]:
    """Returns the cases with the class maps that `write_previous` has put into `folder`."""
    return tuple(dataclasses.replace(case, previous=str(folder / folders.directory(case.name))) for case in cases)


def previous_digest(case: StoredCase, folder: paths.Path) -> str | None:
    """Returns the digest that a case's class map of a previous stage was written with; None where there is none."""
    return (folders.read_json(folder / folders.directory(case.name) / "meta.json") or {}).get("digest")


def write_previous(case: StoredCase, folder: paths.Path, label: Int16[np.ndarray, "*S"], *, digest: str) -> None:
    """Writes the class map of a previous stage, on the grid of the stored case, whole or not at all."""

    def write(target: paths.Path) -> None:
        arrays.write(target / "label", label, channels=False)
        (target / "meta.json").write_text(json.dumps({"name": case.name, "digest": digest}))

    folders.put(write, folder / folders.directory(case.name), digest)


def sample_foreground(label: np.ndarray, name: str) -> dict[int, Int32[np.ndarray, "n axes"]]:
    """Draws voxels of each class above 0: up to 10,000, and at least 1 % of the class; the same for the same name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    rng = np.random.default_rng((SEED, seed))
    result = {}
    inside = np.flatnonzero(label > 0)
    values = label.reshape(-1)[inside]
    for value in np.unique(values):
        place = inside[values == value]
        number = min(len(place), max(FOREGROUND_VOXELS, int(np.ceil(FOREGROUND_SHARE * len(place)))))
        chosen = np.sort(rng.choice(place, number, replace=False))
        result[int(value)] = np.stack(np.unravel_index(chosen, label.shape), axis=1).astype(np.int32)
    return result


def _prepare_case(
    dataset: DataSet, case: Case, folder: paths.Path, settings: Settings, *, optional: bool = False
) -> bool:
    """Returns whether the case had to be written; with `optional`, it may have no label."""
    final = folder / folders.directory(case.name)
    digest = _digest(dataset, case, settings)
    bare = f"{digest}-unlabelled"  # so that a run that needs labels does not take it for prepared
    if (folders.read_json(final / "meta.json") or {}).get("digest") in ((digest, bare) if optional else (digest,)):
        return False
    sample = dataset.load(case)
    if sample.label is None and not optional:
        raise UserError(
            f"{case.images[0] if case.images else case.name} has no label; add its label file or remove it."
        )
    image, record = preprocess.forward(sample.image, settings)
    if sample.label is None:
        label, digest = np.zeros(image.shape[:-1], np.int16), bare
    else:
        label = preprocess.forward_label(sample.label, record, settings)
    values, counts = np.unique(label, return_counts=True)
    meta = {
        "name": case.name,
        "subject": case.subject,
        "shape": list(label.shape),
        "spacing": record["target_spacing"],
        "channels": image.shape[-1],
        "record": record,
        "counts": {str(value): int(count) for value, count in zip(values, counts)},
        "digest": digest,
    }
    if sample.objects is not None:
        meta["objects"] = {name: value.tolist() for name, value in sample.objects._asdict().items()}
    folders.put(lambda target: _write_case(target, image, label, meta), final, digest)
    return True


def _write_case(target: paths.Path, image: np.ndarray, label: np.ndarray, meta: dict[str, Any]) -> None:
    arrays.write(target / "image", image, channels=True)
    arrays.write(target / "label", label, channels=False)
    foreground = sample_foreground(label, meta["name"])
    voxels: dict[str, Any] = {str(key): value for key, value in foreground.items()}
    content = io.BytesIO()
    np.savez_compressed(content, **voxels)
    (target / "foreground.npz").write_bytes(content.getvalue())
    (target / "meta.json").write_text(json.dumps(meta, indent=1))  # last: what has it is whole


def _digest(dataset: DataSet, case: Case, settings: Settings) -> str:
    """Names all that a stored case depends on: files, settings, meaning of labels and channels, this format."""
    chosen = settings._asdict()
    if chosen["axis_order"] is None:  # so that what was prepared before there was this setting stays good
        del chosen["axis_order"]
    parts = [VERSION, case.name, case.subject, dataset.digest(case), chosen]
    parts += [list(dataset.channels), list(dataset.classes), list(dataset.label_values)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _stored_case(folder: paths.Path) -> StoredCase:
    meta = folders.read_json(folder / "meta.json")
    if meta is None:
        raise UserError(
            f"{folder} is listed but has no meta.json; run --mode prepare again, which writes what is missing."
        )
    return StoredCase(
        name=meta["name"],
        subject=meta["subject"],
        shape=tuple(meta["shape"]),
        spacing=tuple(meta["spacing"]),
        channels=meta["channels"],
        record=meta["record"],
        counts={int(key): count for key, count in meta["counts"].items()},
        folder=str(folder),
        objects=_stored_objects(meta.get("objects")),
        digest=meta["digest"],
    )


def _stored_objects(stored: dict[str, Any] | None) -> Objects | None:
    if stored is None:
        return None
    classes, crowd = np.array(stored["classes"], np.int32), np.array(stored["crowd"], bool)
    return Objects(classes, crowd, np.array(stored["members"], np.int32).reshape(len(stored["members"]), -1))
