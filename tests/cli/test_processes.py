"""Two processes on loopback as one run: killed, resumed on one, then on two again; the same numbers as one alone."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time

import clinic
import numpy as np
import pytest

from jaxseg.train import processes
from jaxseg.transfer import stored
from jaxseg.typing import UserError

SECONDS = 280  # for one command on a busy machine
UNET = "configs/unet3d.py:debug"
FLAGS = (
    "--config.data.name=msd", "--config.data.patch_size=(8,8,8)",
    "--config.data.spacing=keep", "--config.data.folds=2", "--config.augment=mirror", "--config.train.log_steps=1",
    "--config.optim.schedule=constant", "--config.train.eval_steps=1000000", "--config.evaluate.overlays=1",
)  # fmt: skip


def start(root, workdir, *more, config=UNET, process=None, port=None):
    """Starts the command, alone or as one of two."""
    own = ("coordinator=127.0.0.1:" + str(port), "processes=2", f"process={process}", "heartbeat_seconds=60")
    flags = [f"--config.parallel.{value}" for value in (own if port else ())]
    command = [
        sys.executable,
        str(clinic.ROOT / "launch.py"),
        f"--config={config}",
        *FLAGS,
        f"--config.data.root={root}",
    ]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", *flags, *map(str, more)],
        cwd=clinic.ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(root, workdir, *more, config=UNET):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [start(root, workdir, *more, config=config, process=process, port=port) for process in (0, 1)]


def finish(*commands):
    printed = [command.communicate(timeout=SECONDS) for command in commands]
    assert [command.returncode for command in commands] == [0] * len(commands), printed
    return [output for output, _ in printed]


def steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*") if path.name.isdigit())


def parameters(workdir):
    folder = workdir / "checkpoints" / str(steps(workdir)[-1]) / "state"
    return stored.read_tree(folder)["params"]


def test_two_killed_then_one_then_two_is_one_uninterrupted(tmp_path):
    root, broken, whole = clinic.msd(tmp_path / "task", cases=5), tmp_path / "broken", tmp_path / "whole"
    pair = start_two(root, broken, "--config.train.total_steps=1000000", "--config.train.ckpt_steps=5")
    deadline = time.monotonic() + SECONDS
    while not (broken / "checkpoints").is_dir() or max(steps(broken), default=0) < 5:
        assert time.monotonic() < deadline and all(one.poll() is None for one in pair), [
            one.communicate() for one in pair
        ]
        time.sleep(0.05)
    pair[1].send_signal(signal.SIGKILL)
    printed, errors = pair[0].communicate(timeout=SECONDS)
    assert pair[0].returncode not in (0, None) and "2 devices of 2 processes" in printed
    assert "a process of this run was lost; the same command, on any number of hosts, resumes" in errors
    last = steps(broken)[-1]

    finish(start(root, broken, f"--config.train.total_steps={last + 1}", "--mode=train"))
    both = finish(*start_two(root, broken, f"--config.train.total_steps={last + 2}", "--config.parallel.kind=mesh"))
    assert f"resuming at step {last + 1} of {last + 2}" in both[0]
    assert "prepared" not in both[1] and "train " not in both[1]  # one process talks
    finish(start(root, whole, f"--config.train.total_steps={last + 2}"))

    assert steps(broken)[-1] == steps(whole)[-1] == last + 2
    for found, expected in zip(*(list(_leaves(parameters(folder))) for folder in (broken, whole))):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-6)
    tables = []
    for folder in (broken, whole):
        with (folder / "evaluation" / "cases.csv").open() as file:
            tables.append([(row["case"], row["class"], float(row["dice"])) for row in csv.DictReader(file)])
    assert [row[:2] for row in tables[0]] == [row[:2] for row in tables[1]] and len(set(tables[0])) == len(tables[0])
    np.testing.assert_allclose([row[2] for row in tables[0]], [row[2] for row in tables[1]], atol=2e-3)
    logs = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (broken, whole)]
    rows = [[row for row in map(json.loads, log) if "train/loss" in row] for log in logs]
    found, expected = ({row["step"]: row["train/loss"] for row in of_run} for of_run in rows)
    assert found.keys() == expected.keys() == set(range(1, last + 3))
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)


def test_an_ensemble_of_two_processes_scores_as_that_of_one(tmp_path):
    root = clinic.msd(tmp_path / "task", cases=4)
    small = clinic.config_file(tmp_path)  # with batch normalisation, whose statistics a mesh takes of the whole batch
    own = ("ensemble.kind=bagging", "ensemble.members=2", "train.total_steps=30", "parallel.kind=mesh")
    own = tuple(f"--config.{option}" for option in own)
    together, alone = (tmp_path / name for name in ("together", "alone"))
    printed = finish(*start_two(root, together, *own, config=small), start(root, alone, *own, config=small))
    assert "member_1" in printed[0] and "member_1" not in printed[1]
    for scored in (".", "out_of_bag"):
        found, expected = (
            [row for row in csv.DictReader((folder / "evaluation" / scored / "cases.csv").open())]
            for folder in (together, alone)
        )
        assert [(row["case"], row["class"]) for row in found] == [(row["case"], row["class"]) for row in expected]
        dice = [[float(row["dice"]) for row in rows] for rows in (found, expected)]
        np.testing.assert_allclose(*dice, atol=2e-3)
        assert max(dice[0]) > 0.3  # something has been learnt
    members = [json.loads((folder / "evaluation" / "members.json").read_text()) for folder in (together, alone)]
    assert members[0].keys() == members[1].keys()


def _leaves(tree):
    for _, value in sorted(tree.items()):
        yield from _leaves(value) if isinstance(value, dict) else [value]


def test_one_process_is_the_plain_case():
    assert not processes.several() and processes.is_first() and not processes.preempted(3)
    assert processes.share(abs, [-1, 2, -3]) == [1, 2, 3] and processes.mine([1, 2]) == [1, 2]
    assert processes.first(lambda: "a") == processes.in_turn(lambda: "a") == "a" and processes.gather(5) == [5]
    assert processes.interleave([[0, 2, 4], [1, 3], []]) == [0, 1, 2, 3, 4]


def test_what_one_process_cannot_use_is_raised_on_all(monkeypatch):
    monkeypatch.setattr(processes, "several", lambda: True)
    monkeypatch.setattr(processes, "gather", lambda outcome: [outcome, ("case b cannot be read.", None)])
    with pytest.raises(UserError, match="case b cannot be read"):
        processes.together(lambda: 1)


def test_a_lost_process_ends_this_one(monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(processes, "several", lambda: True)
    monkeypatch.setattr(processes, "_leave", ended.append)
    processes.check_lost(ValueError("shapes differ"))
    assert not ended
    processes.check_lost(ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer\nmore"))
    assert ended == [processes.LOST] and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("end", "told"), [("os.abort()", True), ("sys.exit(2)", False), ("pass", False)])
def test_an_aborted_process_leaves_a_sentence(end, told):
    code = f"import os, sys; from jaxseg.train import processes; processes._leave_last_words('come back'); {end}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
    assert ("error: come back" in done.stderr) == told
