"""The fingerprint of a data set as a part of a page: histograms, what is unusual, and a table of all cases."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg.data import fingerprint
from jaxseg.evaluate import files, page
from jaxseg.evaluate.page import Cell
from jaxseg.viz import intensity_histograms

MOST_CASES = 500  # in the table; those that are unusual come first


def data_section(found: Mapping[str, Any], *, channels: Sequence[str], classes: Sequence[str]) -> str:
    """Returns HTML about what `data.fingerprint.collect_statistics` found."""
    unusual = fingerprint.outliers(dict(found), channels=channels, classes=classes)
    sizes, steps = np.asarray(found["shapes"]), np.asarray(found["spacings"])
    shown = {
        "cases": len(found["names"]),
        "size in voxels, median (least to most)": _range(sizes),
        "spacing in mm, median (least to most)": _range(steps),
        "unusual cases": len(unusual),
    }
    parts = [page.facts(shown)]
    plot = intensity_histograms(dict(zip(channels, found["histograms"])))
    if plot is not None:
        caption = "Intensities of the foreground, from their 0.5th to their 99.5th percentile."
        picture = page.image(plot, kind="image/svg+xml", describe=caption)
        parts.append(page.figure(picture, caption, style="plot narrow"))
    if unusual:
        lines = "".join(
            f"<li><b>{page.text(name)}</b>: {page.text('; '.join(why))}</li>" for name, why in unusual.items()
        )
        parts.append(f'<div class="warning"><ul>{lines}</ul></div>')
    parts.append(f"<details><summary>All cases</summary>{_table(found, unusual, channels, classes)}</details>")
    return "".join(parts)


def _table(
    found: Mapping[str, Any], unusual: Mapping[str, Any], channels: Sequence[str], classes: Sequence[str]
) -> str:
    head = ["case", "size", "spacing (mm)", *(f"{name}, mean" for name in channels)]
    counted = any(row is not None for row in found["class_voxels"])
    volume, unit = fingerprint.VOLUME[len(found["spacings"][0])]
    head += [f"{name} ({unit})" for name in classes[1:]] if counted else []
    rows = []
    order = sorted(range(len(found["names"])), key=lambda place: found["names"][place] not in unusual)
    for place in order[:MOST_CASES]:
        name, size, steps = (found[key][place] for key in ("names", "shapes", "spacings"))
        label = page.text(name) + (" <b>!</b>" if name in unusual else "")
        cells = [
            Cell(label, name),
            Cell(files.times(size), repr(float(np.prod(size)))),
            Cell(files.times(steps), repr(max(steps))),
        ]
        means = found["foreground"][place] or [float("nan")] * len(channels)
        cells += [_number(value) for value in means]
        if counted:
            voxels = found["class_voxels"][place] or [0] * len(classes)
            cells += [_number(count * float(np.prod(steps)) / volume) for count in voxels[1 : len(classes)]]
        rows.append(cells)
    return page.table(head, rows, sorted_by=0)


def _number(value: float) -> Cell:
    return Cell("n/a" if np.isnan(value) else f"{value:.4g}", page.sort_value(value))


def _range(values: np.ndarray) -> str:
    low, middle, high = (
        files.times(row.tolist()) for row in (values.min(axis=0), np.median(values, axis=0), values.max(axis=0))
    )
    return f"{middle} ({low} to {high})"
