"""What a data set looks like in numbers: sizes, spacings and foreground intensities (nnU-Net's fingerprint)."""

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg import paths
from jaxseg.data import preprocess, resample
from jaxseg.typing import Case, DataSet, UserError

VERSION = 2
VOXELS = 10**8  # foreground voxels drawn from the whole set
SEED = 1234
MASK_FRACTION = 3 / 4  # cropping takes more than a quarter away: normalise within the mask
CHANNEL_NORMALIZATION = {"ct": "ct", "nonorm": "none", "rescale_to_0_1": "unit", "rgb_to_0_1": "rgb"}
VOLUME = {2: (100.0, "cm2"), 3: (1000.0, "ml")}  # by axes: mm2 or mm3 of the unit that areas or volumes are told in
BINS = 64  # of the histograms of foreground intensities
FAR, NEAR_ENOUGH = (
    5.0,
    0.05,
)  # an outlier: robust standard deviations from the median, of which none is below this share
Progress = Callable[[int, int, str], None]  # done, total, name of the case just finished


class Counted(NamedTuple):
    """Values with the number of times each was drawn: the same sample in a fraction of the memory."""

    values: np.ndarray
    counts: np.ndarray


def collect_statistics(
    dataset: DataSet,
    *,
    crop: bool = True,
    orientation: str = "canonical",
    processes: int = 2,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Reads every labelled case once and returns the fingerprint (recipes 2.1.1).

    Returns:
      JSON-able dict: `names`, `shapes` after the crop, `spacings` in mm, `relative_size` (median share of the voxels
      left by the crop), and `channels`, one dict a channel with mean, median, std, min, max, p005, p995 of foreground
      intensities: 10^8 // n cases voxels a case, drawn with replacement (seed 1234) from voxels whose class is above 0.
      A data set without foreground has None for each channel. `histograms` has their counts in 64 equal bins from p005
      to p995; `foreground` the mean of each channel in each case; `class_voxels` how many voxels each case has of each
      class, None where labels are objects.

    Raises:
      UserError: all cases that cannot be read, together.
    """

    def measure(case: Case) -> tuple[list[int], list[float], float, list[Counted], list[int] | None]:
        sample = dataset.load(case)
        image, record = preprocess.place(sample.image, crop=crop, orientation=orientation)
        relative = float(np.prod(image.shape[:-1]) / np.prod(record["shape"]))
        drawn = _draw(sample, VOXELS // max(len(dataset.cases), 1)) if sample.label is not None else []
        voxels = None
        if sample.label is not None and sample.objects is None:
            known = sample.label.data[sample.label.data >= 0]
            voxels = np.bincount(known.reshape(-1), minlength=len(dataset.classes)).tolist()
        return list(image.shape[:-1]), record["spacing"], relative, drawn, voxels

    rows = dict(map_cases(measure, dataset.cases, processes=processes, progress=progress))
    measured = [rows[case.name] for case in dataset.cases]
    drawn = [[row[3][channel] for row in measured if row[3]] for channel in range(len(dataset.channels))]
    channels = [_summary(parts) for parts in drawn]
    return {
        "names": [case.name for case in dataset.cases],
        "shapes": [row[0] for row in measured],
        "spacings": [row[1] for row in measured],
        "relative_size": float(np.median([row[2] for row in measured])) if measured else 1.0,
        "channels": channels,
        "histograms": [_histogram(parts, row) for parts, row in zip(drawn, channels)],
        "foreground": [[float(np.average(part.values, weights=part.counts)) for part in row[3]] for row in measured],
        "class_voxels": [row[4] for row in measured],
    }


def outliers(fingerprint: dict[str, Any], *, channels: Sequence[str], classes: Sequence[str]) -> dict[str, list[str]]:
    """Returns what is unusual about which case: {name: ["x axis: 4.2 mm where others have 1", ...]}.

    Spacings, extents, mean foreground intensities and volumes of the classes are compared with their medians; far away
    is more than five times 1.4826 times the median absolute deviation (a normal distribution's standard deviation).
    Lengths and volumes are compared as ratios. A class that a case lacks is told too if most cases have it.
    """
    names, spacings = fingerprint["names"], np.asarray(fingerprint["spacings"], np.float64)
    extents = spacings * np.asarray(fingerprint["shapes"], np.float64)
    found: dict[str, list[str]] = {}
    size, unit = VOLUME[spacings.shape[1]]

    def look(what: str, unit: str, given: Sequence[str], values: np.ndarray, *, ratio: bool) -> None:
        scale = np.log(values) if ratio else values
        middle = np.median(scale)
        spread = 1.4826 * np.median(np.abs(scale - middle))
        least = NEAR_ENOUGH if ratio else NEAR_ENOUGH * abs(middle)
        for name, value, place in zip(given, values, scale):
            if abs(place - middle) > FAR * max(spread, least):
                usual = float(np.exp(middle) if ratio else middle)
                found.setdefault(name, []).append(f"{what}: {value:.4g}{unit} where the median is {usual:.4g}")

    for axis, letter in enumerate("zyx"[-spacings.shape[1] :]):
        look(f"spacing along {letter}", " mm", names, spacings[:, axis], ratio=True)
        look(f"extent along {letter}", " mm", names, extents[:, axis], ratio=True)
    for channel, label in enumerate(channels):
        rows = [(name, row[channel]) for name, row in zip(names, fingerprint["foreground"]) if row]
        if rows:
            look(f"{label} in the foreground", "", *_columns(rows), ratio=False)
    for number, label in enumerate(classes[1:], start=1):
        rows = [
            (name, row[number] * float(np.prod(steps)) / size)
            for name, row, steps in zip(names, fingerprint["class_voxels"], spacings)
            if row is not None
        ]
        present = [(name, value) for name, value in rows if value > 0]
        if len(present) > len(rows) / 2:
            look(label, f" {unit}", *_columns(present), ratio=True)
            for name, value in rows:
                if value == 0:
                    found.setdefault(name, []).append(f"no {label}")
    return {name: found[name] for name in names if name in found}


def load_or_collect(dataset: DataSet, folder: str | os.PathLike, **options: Any) -> dict[str, Any]:
    """Returns `folder/fingerprint.json` if it was made of the same files and options, else collects and writes it.

    Args:
      dataset: what to measure.
      folder: the prepared folder.
      **options: of `collect_statistics`.
    """
    path = paths.path(folder) / "fingerprint.json"
    chosen = {name: options[name] for name in ("crop", "orientation") if name in options}
    described = [VERSION, chosen, [[case.name, dataset.digest(case)] for case in dataset.cases]]
    described += [list(dataset.channels), list(dataset.classes), list(dataset.label_values)]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    if path.exists():
        known = json.loads(path.read_text())
        if known.get("digest") == digest:
            return known
    result = {"digest": digest, **collect_statistics(dataset, **options)}
    write_json(path, result)
    return result


def normalization(
    channels: Sequence[str], fingerprint: dict[str, Any]
) -> tuple[tuple[str, ...], tuple[dict | None, ...]]:
    """Chooses the normalisation by the name of each channel (recipes 2.1.1), with the statistics that it needs.

    Returns:
      `normalize` and `statistics` of preprocess.Settings.
    """
    other = "zscore_mask" if fingerprint["relative_size"] < MASK_FRACTION else "zscore"
    kinds = tuple(CHANNEL_NORMALIZATION.get(name.lower(), other) for name in channels)
    # CT of a set without foreground has no statistics to clip by.
    kinds = tuple(other if kind == "ct" and row is None else kind for kind, row in zip(kinds, fingerprint["channels"]))
    return kinds, tuple(row if kind == "ct" else None for kind, row in zip(kinds, fingerprint["channels"]))


def target_spacing(spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """Returns the spacing that all cases are resampled to (recipes 2.1.2): the median, but finer on a coarse axis.

    The axis with the largest median spacing takes the 10th percentile of its spacings if it is more than 3 times the
    next largest and its median size times 3 is below the other sizes; never finer than the others.

    Args:
      spacings: `(n, axes)` millimetres.
      shapes: `(n, axes)` voxels after the crop.
    """
    steps, sizes = np.asarray(spacings, np.float64), np.median(np.asarray(shapes, np.float64), axis=0)
    target = np.median(steps, axis=0)
    if len(target) < 3:
        return tuple(float(value) for value in target)
    worst = int(np.argmax(target))
    others = np.delete(target, worst)
    if target[worst] > resample.ANISOTROPY * others.max() and sizes[worst] * 3 < np.delete(sizes, worst).min():
        finer = np.percentile(steps[:, worst], 10)
        target[worst] = others.max() + 1e-5 if finer < others.max() else finer
    return tuple(float(value) for value in target)


def map_cases(
    function: Callable[[Case], Any], cases: Sequence[Case], *, processes: int, progress: Progress | None
) -> Iterator[tuple[str, Any]]:
    """Runs `function` over cases in threads (NumPy, SciPy and TensorStore release the lock) and yields (name, result).

    Raises:
      UserError: at the end, listing every case that raised one. Any other exception stops the rest at once.
    """
    problems: dict[str, str] = {}
    pool = concurrent.futures.ThreadPoolExecutor(max(1, processes), thread_name_prefix="jaxseg-cases")
    try:
        names = {pool.submit(function, case): case.name for case in cases}
        for done, future in enumerate(concurrent.futures.as_completed(names), start=1):
            name = names[future]
            try:
                result = future.result()
            except UserError as error:
                problems[name] = str(error)
            else:
                yield name, result
            if progress is not None:
                progress(done, len(cases), name)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if problems:
        lines = "".join(f"\n  {name}: {problems[name]}" for name in sorted(problems))
        raise UserError(f"{len(problems)} of {len(cases)} cases cannot be used; repair or remove these:{lines}")


def write_json(path: paths.Path, values: Any) -> None:
    """Writes JSON under a temporary name and renames it, so that no reader sees half a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        paths.write_text(path, json.dumps(values, indent=1))
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); choose a folder that you may write to."
        ) from error


def _draw(sample: Any, number: int) -> list[Counted]:
    """Draws foreground intensities with replacement, the same voxels in every channel."""
    inside = np.flatnonzero(sample.label.data > 0)
    if not len(inside):
        return []
    chosen = np.bincount(np.random.RandomState(SEED).randint(0, len(inside), number), minlength=len(inside))
    inside, chosen = inside[chosen > 0], chosen[chosen > 0]
    result = []
    for channel in range(sample.image.data.shape[-1]):
        values, place = np.unique(sample.image.data[..., channel].reshape(-1)[inside], return_inverse=True)
        result.append(Counted(values.astype(np.float64), np.bincount(place, weights=chosen).astype(np.int64)))
    return result


def _columns(rows: list[tuple[str, float]]) -> tuple[list[str], np.ndarray]:
    return [name for name, _ in rows], np.array([value for _, value in rows])


def _histogram(drawn: list[Counted], summary: dict[str, float] | None) -> dict[str, Any] | None:
    """Counts of the drawn values between the 0.5th and the 99.5th percentile."""
    if summary is None:
        return None
    low, high = summary["p005"], summary["p995"]
    if high <= low:
        return None
    counts = sum(np.histogram(part.values, BINS, (low, high), weights=part.counts)[0] for part in drawn)
    return {"low": low, "high": high, "counts": np.asarray(counts).astype(int).tolist()}


def _summary(drawn: list[Counted]) -> dict[str, float] | None:
    if not drawn:
        return None
    values, place = np.unique(np.concatenate([part.values for part in drawn]), return_inverse=True)
    counts = np.bincount(place, weights=np.concatenate([part.counts for part in drawn])).astype(np.int64)
    ends = np.cumsum(counts)
    total = int(ends[-1])
    mean = float(values @ counts / total)

    def percentile(share: float) -> float:
        """np.percentile of the values repeated by their counts, without repeating them."""
        position = share * (total - 1)
        low = int(np.floor(position))
        below, above = values[np.searchsorted(ends, [low, min(low + 1, total - 1)], side="right")]
        return float(below + (above - below) * (position - low))

    return {
        "mean": mean,
        "median": percentile(0.5),
        "std": float(np.sqrt((values - mean) ** 2 @ counts / total)),
        "min": float(values[0]),
        "max": float(values[-1]),
        "p005": percentile(0.005),
        "p995": percentile(0.995),
    }
