"""Scores made images case by case, the network's beside those of the simple methods that it must beat."""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Real

from jaxseg import metrics, paths
from jaxseg.evaluate import files
from jaxseg.evaluate.evaluator import Gallery, Scored, merge
from jaxseg.typing import UserError
from jaxseg.viz import image_panel
from jaxseg.viz.curves import label_of

Row = dict[str, Any]
KIND = "images"  # of the summary
NETWORK = "network"
FIGURES = {"psnr_db": 2, "ssim": 4, "mae": 4}  # name -> digits that people are shown
LARGER_IS_BETTER = ("psnr_db", "ssim")
WINDOW = 11  # pixels along each axis that the structural similarity needs


class ImageResult(NamedTuple):
    """One case with every image that was made of it; all in one unit, encoded intensities from -1 to 1.

    Attributes:
      name: the case's name.
      made: method -> image `(*S, C)`: "network" first, then those it must beat, such as "identity" or "linear".
      true: the real image `(*S, C)`.
      source: what the images were made of, `(*S', C')` or a label map `(*S')` of integers, for the picture; or None.
      mask: `(*S)`, outside which nothing is scored, or None.
      spacing_mm: of the true image, in array order.
      axes: directions that the axes of a volume increase towards; None where unknown: no letters in the picture.
    """

    name: str
    made: Mapping[str, np.ndarray]
    true: np.ndarray
    source: np.ndarray | None
    mask: np.ndarray | None
    spacing_mm: tuple[float, ...]
    axes: str | None = None


def score_images(
    results: Iterable[ImageResult],
    *,
    data_range: float = 2.0,
    progress: Callable[[int, str], None] | None = None,
    picture_folder: str | paths.Path | None = None,
    picture_count: int = 4,
) -> list[Row]:
    """Scores every case; holds one case in memory at a time, and the finished pictures of a few.

    Args:
      results: the cases; an iterator that makes one when asked for the next keeps memory bounded.
      data_range: the largest difference that two values can have, see `metrics.peak_signal_to_noise`.
      progress: called with (cases done, name) after each case.
      picture_folder: where to put worst_01_<case>.png and best_01_<case>.png, by the network's PSNR; those of an
        earlier evaluation are removed. None draws nothing.
      picture_count: how many of each, at most; no case is drawn twice.

    Returns:
      One row a case and method: "case", "method", "psnr_db" (infinite where images are equal), "ssim" (see
      `similarity`) and "mae" (in the images' unit).

    Raises:
      UserError: there is no case, a name comes twice, shapes differ, or an image holds numbers that are not finite.
      ValueError: a case lacks the network's image, or the true one spans more than `data_range`: another unit.
    """
    count = picture_count if picture_folder is not None else 0
    whole = merge([score_image_cases(results, data_range=data_range, progress=progress, picture_count=count)])
    if picture_folder is not None:
        whole.gallery.write(paths.path(picture_folder))
    return whole.rows()


def score_image_cases(
    results: Iterable[ImageResult],
    *,
    data_range: float = 2.0,
    progress: Callable[[int, str], None] | None = None,
    picture_count: int = 4,
) -> Scored:
    """What `score_images` finds, before it is written: one part of it where several processes share the cases."""
    gallery = Gallery(picture_count)
    groups: list[list[Row]] = []
    for done, case in enumerate(results, start=1):
        _check(case, data_range)
        rows: list[Row] = [
            {"case": case.name, "method": method, **_figures(image, case, data_range)}
            for method, image in case.made.items()
        ]
        groups.append(rows)
        gallery.rank(case.name, rows[0]["psnr_db"], partial(draw_images, case, rows, data_range=data_range))
        if progress is not None:
            progress(done, case.name)
    return Scored(groups, gallery)


def _check(case: ImageResult, data_range: float) -> None:
    if next(iter(case.made), None) != NETWORK:
        raise ValueError(f"Case {case.name!r} should have the {NETWORK}'s image first, it has {list(case.made)}.")
    for method, image in case.made.items():
        if image.shape != case.true.shape:
            raise UserError(
                f"Case {case.name!r}: the image of {method} has shape {image.shape} and the true one "
                f"{case.true.shape}; they should be on the same grid."
            )
    for method, image in (*case.made.items(), ("the true image", case.true)):
        if not np.isfinite(image).all():
            raise UserError(
                f"Case {case.name!r}: {method} holds numbers that are NaN or infinite; if the network made them, its "
                "training has diverged: train again with a lower optim.lr."
            )
    span = float(np.ptp(case.true))
    if span > data_range * (1 + 1e-3):
        raise ValueError(f"Case {case.name!r} spans {span:g}, more than data_range {data_range:g}: encode it first.")


def _figures(image: np.ndarray, case: ImageResult, data_range: float) -> dict[str, float]:
    mask = None if case.mask is None else case.mask.astype(bool)
    return {
        "psnr_db": metrics.peak_signal_to_noise(image, case.true, data_range=data_range, mask=mask),
        "ssim": similarity(image, case.true, data_range=data_range, mask=mask),
        "mae": metrics.mean_absolute_error(image, case.true, mask=mask),
    }


def similarity(
    image: Real[np.ndarray, "*S C"],
    true: Real[np.ndarray, "*S C"],
    *,
    data_range: float,
    mask: Bool[np.ndarray, "*S"] | None = None,
) -> float:
    """Returns the structural similarity of a picture or a volume, of thin volumes too.

    A volume with one axis shorter than 11 voxels is scored slice by slice across it, in windows of 11 by 11; the mean
    is over all windows. NaN where an image is smaller than that, or the mask holds no window that lies wholly inside.
    """
    short = [axis for axis, size in enumerate(true.shape[:-1]) if size < WINDOW]
    if not short:
        return _windows(image, true, data_range, mask)[0]
    if true.ndim != 4 or len(short) > 1:
        return math.nan
    cut = partial(np.take, axis=short[0])
    slices = [
        _windows(cut(image, place), cut(true, place), data_range, None if mask is None else cut(mask, place))
        for place in range(true.shape[short[0]])
    ]
    windows = sum(count for _, count in slices)
    return sum(value * count for value, count in slices if count) / windows if windows else math.nan


def _windows(image: np.ndarray, true: np.ndarray, data_range: float, mask: np.ndarray | None) -> tuple[float, int]:
    """Returns (structural similarity, number of windows in its mean); (NaN, 0) without one."""
    inside = tuple(slice(WINDOW // 2, size - WINDOW // 2) for size in true.shape[:-1])
    count = math.prod(size - WINDOW + 1 for size in true.shape[:-1])
    count = count if mask is None else int(np.count_nonzero(mask[inside]))
    if not count:
        return math.nan, 0
    return metrics.structural_similarity(image, true, data_range=data_range, mask=mask), count


def draw_images(case: ImageResult, rows: Sequence[Row], *, data_range: float = 2.0) -> np.ndarray:
    """Returns the picture of a scored case, `(H, W, 3)` bytes: source, made images with their figures, true image."""
    columns = {} if case.source is None else {"source": case.source}
    columns |= {**case.made, "true": case.true}
    captions = {
        row["method"]: f"{number('psnr_db', row['psnr_db'])} dB, SSIM {files.number(row['ssim'])}" for row in rows
    }
    flat = case.true.ndim == 3
    scaled = not flat or any(step != 1.0 for step in case.spacing_mm)  # else a flat image without a scale
    return image_panel(
        columns,
        value_range=(-data_range / 2, data_range / 2),
        difference_to="true",
        difference_of=NETWORK,
        captions=captions,
        mask=None if case.mask is None else case.mask.astype(bool),
        spacing_mm=case.spacing_mm if scaled else None,
        axes=None if flat else case.axes,
        title=case.name,
    )


def number(figure: str, value: float | None, *, sign: bool = False) -> str:
    """Returns a figure for people, in as many digits as it deserves, perhaps with a plus."""
    text = files.number(value, digits=FIGURES[figure])
    return f"+{text}" if sign and value is not None and value > 0 else text


def summarize_images(rows: Sequence[Row], *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Returns the figures of every method over the cases, and how far the network is from each of the others.

    Infinite values (a made image equal to the true one) are part of the median and not of the mean, its interval and n;
    they are counted in "n_infinite". NaN is left out and counted in "n_excluded".

    Args:
      rows: of `score_images`.
      resamples: bootstrap samples of cases, for the 95 % intervals.
      seed: of the resampling.

    Returns:
      {"kind": "images", "cases": n, "methods": {method: {figure: "mean", "median", "low", "high", "n", "n_excluded",
      "n_infinite"}}, "gains": {other method: {figure: the same but for the median, of the paired differences network
      minus other, and "wilcoxon_p"}}}. A gain above 0 is good for PSNR and SSIM, below 0 for MAE.

    Raises:
      UserError: there are no rows.
      ValueError: a case has two rows of one method.
    """
    if not rows:
        raise UserError("There is no case to summarise; give a folder or a fold that holds true images.")
    table: dict[str, list[Row]] = {}
    for row in rows:  # `metrics.compare` pairs by case and class
        table.setdefault(row["method"], []).append({"case": row["case"], "class": "image", **_numbers(row)})
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}
    methods = {
        method: {figure: metrics.summarise([row[figure] for row in group], **options) for figure in FIGURES}
        for method, group in table.items()
    }
    gains = {
        method: {figure: _gain(group, table[NETWORK], figure, options) for figure in FIGURES}
        for method, group in table.items()
        if method != NETWORK and NETWORK in table
    }
    return {"kind": KIND, "cases": len({row["case"] for row in rows}), "methods": methods, "gains": gains}


def _numbers(row: Row) -> dict[str, float]:
    return {figure: float(row[figure]) for figure in FIGURES}


def _gain(other: Sequence[Row], network: Sequence[Row], figure: str, options: Mapping[str, Any]) -> dict[str, Any]:
    if not {row["case"] for row in other} & {row["case"] for row in network}:
        nothing = dict.fromkeys(("mean", "low", "high", "wilcoxon_p"), math.nan)
        return {**nothing, "n": 0, "n_excluded": 0, "n_infinite": 0}
    found = metrics.compare(other, network, metric=figure, **options)
    kept = {key: found[key] for key in ("low", "high", "wilcoxon_p", "n", "n_excluded", "n_infinite")}
    return {"mean": found["mean_difference"], **kept}


def p_value(p: float) -> str:
    """Returns a p for people; a small one is a bound, since 0.000 would be none."""
    return "< 0.001" if p < 0.001 else files.number(p)


def verdict(figure: str, gain: Mapping[str, Any]) -> str:
    """Returns "better", "worse" or "no clear difference" of the network: whether the interval leaves out 0."""
    low, high = float(gain["low"]), float(gain["high"])
    if not (low > 0 or high < 0):  # NaN as well: fewer than two cases
        return "no clear difference"
    return "better" if (low > 0) == (figure in LARGER_IS_BETTER) else "worse"


def write_images(folder: str | paths.Path, rows: Sequence[Row], summary: Mapping[str, Any]) -> None:
    """Writes cases.csv (a row a case and method) and summary.json, see `files.write_results`.

    Raises:
      UserError: the folder cannot be written.
    """
    files.write_results(folder, rows, summary)


def read_images(path: str | paths.Path) -> list[Row]:
    """Reads cases.csv back into the rows that were written.

    Raises:
      UserError: the file is missing, is not such a table, or a line is cut short.
    """
    return files.read_cases(path, names=("case", "method"))


def text_table(summary: Mapping[str, Any], *, width: int = 100) -> str:
    """Returns the summary as tables for the terminal: every method, then the network against the others.

    Args:
      summary: of `summarize_images` or `files.read_summary`.
      width: of the terminal, in characters.
    """
    from rich.console import Console

    page = io.StringIO()
    console = Console(file=page, width=width, color_system=None, force_terminal=False)
    console.print(_methods_table(summary["methods"]))
    if summary["gains"]:
        console.print()
        console.print(_gains_table(summary["gains"]))
    return "".join(f"{line.rstrip()}\n" for line in page.getvalue().splitlines())


def _methods_table(methods: Mapping[str, Mapping[str, Mapping[str, Any]]]):
    table = _table("method", "figure", "mean", "95 % interval", "median", "n", "excluded", "infinite")
    for method, entries in methods.items():
        for place, (figure, entry) in enumerate(entries.items()):
            cells = [number(figure, entry["mean"]), interval(figure, entry), number(figure, entry["median"])]
            _add(table, method, place, figure, [*cells, *_counts(entry)])
    return table


def _gains_table(gains: Mapping[str, Mapping[str, Mapping[str, Any]]]):
    table = _table("network minus", "figure", "mean", "95 % interval", "p", "n", "excluded", "infinite", "network is")
    for method, entries in gains.items():
        for place, (figure, entry) in enumerate(entries.items()):
            cells = [number(figure, entry["mean"], sign=True), interval(figure, entry, sign=True)]
            cells += [p_value(entry["wilcoxon_p"]), *_counts(entry)]
            _add(table, method, place, figure, [*cells, verdict(figure, entry)])
    return table


def _counts(entry: Mapping[str, Any]) -> list[str]:
    return [str(entry[key]) for key in ("n", "n_excluded", "n_infinite")]


def interval(figure: str, entry: Mapping[str, Any], *, sign: bool = False) -> str:
    """Returns "24.10 to 26.30", or "n/a" of fewer than two cases."""
    if math.isnan(entry["low"]):
        return "n/a"
    return f"{number(figure, entry['low'], sign=sign)} to {number(figure, entry['high'], sign=sign)}"


def _table(*titles: str):
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, title in enumerate(titles):
        table.add_column(title, justify="left" if place < 2 or title == "network is" else "right", no_wrap=place > 1)
    return table


def _add(table, method: str, place: int, figure: str, cells: Sequence[str]) -> None:
    from rich.markup import escape

    table.add_row("" if place else escape(method), label_of(figure), *cells, end_section=place == len(FIGURES) - 1)
