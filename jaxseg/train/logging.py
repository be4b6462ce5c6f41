"""What training tells the world: JSON lines, TensorBoard beside them, and a progress bar for the person."""

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

METRICS = "metrics.jsonl"


def truncate(path: pathlib.Path, *, step: int) -> None:
    """Drops the rows after `step`, which a resumed run is about to write again; a half-written last line goes too."""
    if not path.exists():
        return
    kept = [row for row in read(path) if row["step"] <= step]
    temporary = path.with_suffix(".partial")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
    os.replace(temporary, path)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the rows of metrics.jsonl up to the first incomplete line (a killed process may leave one)."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


@contextlib.contextmanager
def writer(workdir: str | pathlib.Path) -> Iterator:
    """Yields `write(step, values)`, which appends to metrics.jsonl and to TensorBoard's event file."""
    from tensorboardX import SummaryWriter

    folder = pathlib.Path(workdir)
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
