"""The data integrity report: every bad case of a data set at once, by file, with what to do."""

import collections
import concurrent.futures
import os
from collections.abc import Sequence

from jaxseg.data.datasets.layouts import is_labelled
from jaxseg.typing import Case, DataSet, UserError


def check(dataset: DataSet, *, threads: int | None = None) -> list[str]:
    """Loads every case and returns one sentence a problem, in the order of the cases; none: the data set is sound.

    Args:
      dataset: the listed data set.
      threads: how many cases are read at once; None: one a processor, at most 8.
    """
    if not dataset.cases:
        return ["The data set has no case; check data.root and the layout's options."]
    with concurrent.futures.ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        found = list(pool.map(lambda case: _check_case(dataset, case), dataset.cases))
    problems = [text for text, _ in found if text]
    dimensions = [ndim for _, ndim in found]
    return problems + _odd_dimensions(dataset.cases, dimensions)


def _check_case(dataset: DataSet, case: Case) -> tuple[str, int]:
    """Returns (problem or "", number of spatial axes or 0); the voxels are let go at once."""
    try:
        sample = dataset.load(case)
    except UserError as error:
        return f"Case {case.name}: {error}", 0
    if sample.label is None and is_labelled(dataset):
        return f"Case {case.name}: {case.images[0]} has no label; add one or leave the case out.", 0
    return "", len(sample.image.spacing)


def _odd_dimensions(cases: Sequence[Case], dimensions: Sequence[int]) -> list[str]:
    """Returns a sentence for each case that is 2D among 3D ones, or the other way round."""
    counts = collections.Counter(ndim for ndim in dimensions if ndim)
    if len(counts) < 2:
        return []
    usual = counts.most_common(1)[0][0]
    return [
        f"Case {case.name}: {case.images[0]} is {ndim}D, but most cases are {usual}D; train them as two data sets."
        for case, ndim in zip(cases, dimensions, strict=True)
        if ndim not in (0, usual)
    ]


def integrity_report(problems: Sequence[str]) -> str:
    """Returns the problems as text for people, numbered, with what to do next; "" where there are none."""
    if not problems:
        return ""
    many = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [f"Data integrity: {many}. Correct the files or leave the cases out, then start again.", ""]
    return "\n".join(lines + [f"{number:3d}. {text}" for number, text in enumerate(problems, 1)])
