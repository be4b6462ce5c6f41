"""Seconds from the command to the first training step, with an empty and with a filled compilation cache.

    python -m benchmarks.first_step

Runs the quickstart's network for one step in a fresh process each time; the data is prepared beforehand.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]


def launch(*arguments: str, cache: str) -> float:
    """Returns seconds until the line of the first step is printed."""
    command = [sys.executable, "-u", str(ROOT / "launch.py"), "--config", "configs/quickstart.py", *arguments]
    began = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "JAXSEG_CACHE": cache}
    ) as process:
        for line in process.stdout:
            if re.match(r"train 1/", line):
                elapsed = time.perf_counter() - began
        process.wait()
    return elapsed


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        shared = ("--mode", "train", "--config.train.total_steps=1", f"--config.data.store={folder}/store")
        launch(*shared, f"--workdir={folder}/prepare", cache=f"{folder}/other")
        cold = launch(*shared, f"--workdir={folder}/cold", cache=f"{folder}/xla")
        warm = launch(*shared, f"--workdir={folder}/warm", cache=f"{folder}/xla")
    print(f"command to first step: {cold:.1f} s cold, {warm:.1f} s with a warm compilation cache ({cold / warm:.1f}x)")


if __name__ == "__main__":
    main()
