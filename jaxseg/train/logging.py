"""What training tells the world: JSON lines, TensorBoard beside them, and a progress bar for the person."""

import contextlib
import json
import math
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

from jaxseg import paths

METRICS = "metrics.jsonl"
COPY_SECONDS = 30  # between two copies to a bucket


def truncate(path: paths.Path, *, step: int) -> None:
    """Drops the rows after `step`, which a resumed run is about to write again; a half-written last line goes too."""
    if not path.exists():
        return
    kept = [row for row in read(path) if row["step"] <= step]
    paths.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


def read(path: paths.Path) -> list[dict[str, Any]]:
    """Returns the rows of metrics.jsonl up to the first incomplete line (a killed process may leave one)."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


@contextlib.contextmanager
def writer(workdir: str | os.PathLike) -> Iterator:
    """Yields `write(step, values)`, which appends to metrics.jsonl and to TensorBoard's event file.

    Nothing can be appended to in a bucket: there both are written on this disk and copied now and then.
    """
    target = paths.path(workdir)
    if not paths.is_remote(target):
        with _writer(pathlib.Path(target)) as write:
            yield write
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if (target / METRICS).exists():
            (folder / METRICS).write_bytes((target / METRICS).read_bytes())
        copied = time.monotonic()
        try:
            with _writer(folder) as write:

                def write_and_copy(step: int, values: Mapping[str, float]) -> None:
                    nonlocal copied
                    write(step, values)
                    if time.monotonic() - copied > COPY_SECONDS:
                        paths.upload(folder, target)
                        copied = time.monotonic()

                yield write_and_copy
        finally:
            paths.upload(folder, target)


@contextlib.contextmanager
def _writer(folder: pathlib.Path) -> Iterator:
    from tensorboardX import SummaryWriter

    with (folder / METRICS).open("a") as lines, SummaryWriter(str(folder / "tensorboard")) as board:

        def write(step: int, values: Mapping[str, float]) -> None:
            row = {name: _plain(value) for name, value in values.items()}
            lines.write(json.dumps({"step": step, **row}) + "\n")
            lines.flush()
            for name, value in row.items():
                if value is not None:
                    board.add_scalar(name, value, step)

        yield write


def _plain(value) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


@contextlib.contextmanager
def progress(total: int, *, start: int = 0, label: str = "train") -> Iterator:
    """Yields `show(done, **figures)`: a bar with the time left; plain lines where there is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console()
    if not console.is_terminal:
        yield _lines(total, start, label)
        return
    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=total, completed=start, figures="")

        def show(done: int, **figures) -> None:
            bar.update(task, completed=done, figures=_figures(figures))

        yield show


def _lines(total: int, start: int, label: str):
    """A log file gets a line now and then, each later than the last by at least two seconds."""
    began = shown = time.monotonic()

    def show(done: int, **figures) -> None:
        nonlocal shown
        now = time.monotonic()
        if done < total and now - shown < 2:
            return
        shown = now
        left = (now - began) / max(1, done - start) * (total - done)
        print(f"{label} {done}/{total}  {_figures(figures)}  left {int(left // 60)}:{int(left % 60):02d}", flush=True)

    return show


def _figures(figures: Mapping[str, Any]) -> str:
    return "  ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )
