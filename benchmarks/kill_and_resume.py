"""Kills -9 a prepare once and a training three times at random moments; the parameters must come out bit-equal.

    python -m benchmarks.kill_and_resume [--config configs/quickstart.py:debug] [--steps 40] [--seed 0]

Runs the same command once without interruption and once with kills and restarts, and compares the SHA-256 of every
array of the last checkpoint, the prepared cases and the steps in metrics.jsonl. Exits with status 1 where they differ.
"""

import argparse
import hashlib
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]


def command(config: str, steps: int, workdir: pathlib.Path, mode: str, extra: list[str]) -> list[str]:
    options = [f"--config.train.total_steps={steps}", "--config.train.ckpt_steps=5", "--config.train.eval_steps=1000"]
    launch = [sys.executable, str(ROOT / "launch.py"), "--config", config, "--mode", mode, f"--workdir={workdir}"]
    return [*launch, *options, *extra]


def run(*arguments) -> None:
    subprocess.run(command(*arguments), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def kill(moment: float, started, *arguments) -> bool:
    """Kills the command `moment` seconds after `started()` becomes true; False where it was faster than that."""
    process = subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not started():
        time.sleep(0.005)
    time.sleep(moment)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return alive


def fingerprint(workdir: pathlib.Path) -> dict[str, str]:
    """Returns hashes of the last checkpoint's arrays, of the prepared files, and of the logged steps."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    step = max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
    tree = ocp.StandardCheckpointer().restore((workdir / "checkpoints" / str(step) / "state").absolute())
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        total.update(np.asarray(leaf).tobytes())
    store = hashlib.sha256()
    for path in sorted((workdir / "prepared").rglob("*")):
        if path.is_file() and path.suffix != ".npz":  # zip files carry the time they were written
            store.update(str(path.relative_to(workdir)).encode() + path.read_bytes())
    # A resumed run logs its first step as well; the regular rows must all be there, once and in order.
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    logged = hashlib.sha256(str([step for step in steps if step % 10 == 0]).encode())
    return {"step": str(step), "state": total.hexdigest(), "prepared": store.hexdigest(), "log": logged.hexdigest()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.py:debug")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("extra", nargs="*", help="further flags of launch.py, after --")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = pathlib.Path(folder) / "whole", pathlib.Path(folder) / "parts"
        run(options.config, options.steps, whole, "train", options.extra)
        case = (options.config, options.steps, parts)
        killed = kill(draw.uniform(0, 0.1), (parts / "prepared").exists, *case, "prepare", options.extra)
        print(f"prepare killed: {killed}")
        for number in range(3):
            log = parts / "metrics.jsonl"
            before = log.stat().st_size if log.exists() else 0
            seconds = draw.uniform(0, 3)
            started = lambda log=log, before=before: log.exists() and log.stat().st_size != before  # noqa: E731
            killed = kill(seconds, started, *case, "train", options.extra)
            print(f"training killed {seconds:.2f} s after its first step ({number + 1} of 3): {killed}")
        run(*case, "train", options.extra)
        expected, found = fingerprint(whole), fingerprint(parts)
    for name, value in expected.items():
        print(f"{name:9} {value[:16]} {'equal' if found[name] == value else f'differs: {found[name][:16]}'}")
    return int(expected != found)


if __name__ == "__main__":
    sys.exit(main())
