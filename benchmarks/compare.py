"""What the scripts that time us against others share: fair turns, the same cores, a process a measurement, one table.

Each turn measures every side once, one after another, so that drift of the machine reaches all alike; each measurement
is a fresh process (benchmarks/alone.py) bound to the same cores, with as many threads as cores. A time is the median of
a turn's calls, the better of the turns; a ratio is other / ours (above 1: we are faster) with its range over the turns.
Memory is the most that the process held during the timed calls, libraries included, after compiling.
"""

import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

ROOT = pathlib.Path(__file__).parents[1]
PEER = flags.DEFINE_string("peer", None, "A Python with the peer's packages; without it only what runs in ours.")
CORES = flags.DEFINE_list("cores", ["0"], "The cores that every side is bound to.")
TURNS = flags.DEFINE_integer("turns", 3, "How often each side is measured.")
RUNS = flags.DEFINE_integer("runs", 5, "Timed calls a turn.")
SECONDS = flags.DEFINE_float("seconds", 20.0, "No further call of a turn begins after so many seconds of calls.")
ONLY = flags.DEFINE_string("only", "", "A regular expression: only the rows whose name it finds.")
WITHOUT = flags.DEFINE_string("without", None, "A regular expression: sides other than ours that are left out.")
TINY = flags.DEFINE_bool("tiny", False, "Small sizes, one call: whether everything runs, not how fast.")


class Side(NamedTuple):
    """One way to do the work of a row.

    Attributes:
      name: heads the column.
      target: "module:function", see benchmarks/alone.py.
      options: of that function, JSON values.
      peer: whether it runs in the peer's Python.
    """

    name: str
    target: str
    options: dict[str, Any]
    peer: bool = False


class Row(NamedTuple):
    """The same work on several sides, ours first.

    Attributes:
      name: what is done, on what.
      sides: ours and the others.
      tolerance: results (arrays) of the others within it of ours count as equal; None: results are not compared.
    """

    name: str
    sides: Sequence[Side]
    tolerance: float | None = None


def run(side: Side, result: pathlib.Path, cache: str) -> dict[str, Any]:
    """Measures one side once."""
    cores = sorted({int(core) for core in CORES.value})
    threads = str(len(cores))
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": cache,  # so that only the first turn compiles
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        **{f"{library}_NUM_THREADS": threads for library in ("OMP", "MKL", "OPENBLAS")},
    }
    limits = {"runs": 1 if TINY.value else RUNS.value, "seconds": SECONDS.value, "result": str(result)}
    command = [
        PEER.value if side.peer else sys.executable, "-m", "benchmarks.alone", side.target,
        json.dumps({"options": side.options, **limits}),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{side.target} {side.options} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def difference(ours: pathlib.Path, other: pathlib.Path, tolerance: float) -> str:
    """Says how the other's result differs from ours."""
    a, b = (np.load(path).astype(np.float64) for path in (ours, other))
    if a.shape != b.shape:
        return f"shapes {a.shape}, {b.shape}"
    gap = np.abs(a - b)
    share = (gap > tolerance).mean()
    return f"equal within {tolerance:g}" if not share else f"{100 * share:.3g} % differ, by up to {gap.max():.3g}"


def amount(seconds: float) -> str:
    """A time in the unit that fits it."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def lines(row: Row, cache: str) -> list[str]:
    """Measures a row in turns and returns its lines of the table, ours first."""
    sides = [side for side in row.sides if PEER.value or not side.peer]
    if WITHOUT.value:
        sides = sides[:1] + [side for side in sides[1:] if not re.search(WITHOUT.value, side.name)]
    measured: list[list[dict]] = [[] for _ in sides]
    with tempfile.TemporaryDirectory() as folder:
        results = [pathlib.Path(folder) / f"{number}.npy" for number in range(len(sides))]
        for _ in range(1 if TINY.value else TURNS.value):
            for side, found, result in zip(sides, measured, results):
                found.append(run(side, result, cache))
        told = [""] + ["-"] * (len(sides) - 1)
        if row.tolerance is not None:
            told[1:] = [difference(results[0], other, row.tolerance) for other in results[1:]]
    medians = [[statistics.median(turn["seconds"]) for turn in found] for found in measured]
    table = []
    for side, found, times, result in zip(sides, measured, medians, told):
        ratios = [other / own for other, own in zip(times, medians[0])]
        ratio = f"{min(times) / min(medians[0]):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        peak, before = (max(turn[name] for turn in found) for name in ("peak", "before"))
        table.append(
            f"| {row.name} | {side.name} | {amount(min(times))} | {ratio if side is not sides[0] else ''} | "
            f"{peak:,.0f} | {peak - before:,.0f} | {result} |"
        )
    return table


def conditions() -> str:
    """Machine, versions and settings in one line."""
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    wanted = "import importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in {} if n in have), sep=', ')"
    have = "have = {d.metadata['Name'] for d in __import__('importlib.metadata').metadata.distributions()}; "
    told = [f"{datetime.date.today()}", cpu.group(1) if cpu else platform.processor(), f"cores {','.join(CORES.value)}"]
    pythons = [(sys.executable, ["jax", "flax", "numpy", "scipy"])]
    if PEER.value:
        pythons.append((PEER.value, ["torch", "nnunetv2", "batchgeneratorsv2", "monai"]))
    for python, names in pythons:
        command = [python, "-c", have + wanted.replace("{}", str(names))]
        told.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    return "; ".join(told) + f"; {TURNS.value} turns of up to {RUNS.value} calls"


def table(rows: Sequence[Row]) -> None:
    """Measures the rows and prints them as a Markdown table, each as soon as it is there."""
    print(conditions() + "\n", flush=True)
    print("| work | side | time | other / ours | peak MiB | of it the calls' | result |\n|" + " --- |" * 7, flush=True)
    with tempfile.TemporaryDirectory() as cache:
        for row in rows:
            if re.search(ONLY.value, row.name):
                print("\n".join(lines(row, cache)), flush=True)
