"""Loss and gradients of whole volumes do not depend on how many devices share them."""

import os
import subprocess
import sys

import clinic


def test_volumes_split_over_devices_give_the_same_gradients():
    command = [sys.executable, "-m", "benchmarks.scaling", "mesh:4:4", "pmap:4", "--steps", "1"]
    done = subprocess.run(command, cwd=clinic.ROOT, capture_output=True, text=True, env=dict(os.environ), timeout=600)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [row[:3] for row in rows] == [["mesh", "4", "4"], ["pmap", "4", "1"]]
    assert all(float(figure) < 1e-5 for row in rows for figure in row[3:])
