"""--mode tune as a user runs it: killed, gone on with, failures on the way, two at a time, refused."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import clinic
import pytest

from jaxseg import config as configs
from jaxseg.cli import trials, tune, workdir
from jaxseg.cli.study import FAILED, Result, Study
from jaxseg.typing import UserError

CONFIG = "configs/unet3d.py:debug"
# Drawn at random with seed 2: trial 0 trains, 1 does not fit the network, 2 explodes, 3 trains, 4 does not fit.
SPACE = "optim.lr=choice(0.001,1e30);data.patch_size=choice((8,8,8),(9,9,9))"


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    root = clinic.msd(tmp_path_factory.mktemp("clinic") / "task")
    folder = tmp_path_factory.mktemp("runs") / "search"
    common = (
        "--mode=tune", "--config", CONFIG, "--config.data.name=msd", f"--config.data.root={root}",
        "--config.data.spacing=keep", "--config.augment=none", "--config.model.features=(2,4)",
        "--config.data.folds=3", "--config.seed=2", f"--config.tune.space={SPACE}",
        "--config.tune.sampler=random", "--config.tune.pruner=none", "--config.train.total_steps=6",
        "--config.train.eval_steps=3", "--config.train.ckpt_steps=2", f"--workdir={folder}",
    )  # fmt: skip
    return folder, common


def table_of(folder):
    with (folder / "tune" / "trials.csv").open() as file:
        return {int(row["trial"]): row for row in csv.DictReader(file)}


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.fixture(scope="module")
def searched(flags):
    """Three trials, the first of them killed on its way and gone on with by the second command."""
    folder, common = flags
    command = [sys.executable, str(clinic.ROOT / "launch.py"), *common, "--config.tune.trials=3"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=clinic.ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, **quiet)
    checkpoint = folder / "trial_000" / "checkpoints" / "2"
    deadline = time.monotonic() + 240
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists() and not (folder / "trial_001").exists()
    done = clinic.launch(*common, "--config.tune.trials=3", fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, common, done


def test_the_killed_trial_went_on(searched):
    folder, _, done = searched
    assert "resuming at step " in done.stdout and "prepared 0 cases, 6 were up to date" in done.stdout
    steps = [json.loads(line)["step"] for line in (folder / "trial_000" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 6
    assert not (folder / "trial_000" / "prepared").exists() and (folder / "prepared").exists()


def test_failures_are_rows_with_reasons(searched):
    folder, _, done = searched
    rows = table_of(folder)
    assert [rows[number]["state"] for number in range(3)] == ["finished", "failed", "failed"]
    assert "does not fit the model" in rows[1]["reason"] and "not finite" in rows[2]["reason"]
    assert rows[0]["steps"] == "6" and rows[2]["optim.lr"] == "1e+30" and rows[1]["data.patch_size"] == "(9, 9, 9)"
    scores = [
        json.loads(line).get("val/dice", -1)
        for line in (folder / "trial_000" / "metrics.jsonl").read_text().splitlines()
    ]
    assert float(rows[0]["score"]) == max(scores)
    assert "not finite" in done.stdout and "best config  " in done.stdout
    assert "data:image/svg" in (folder / "tune" / "tune.html").read_text()


def test_the_best_config_is_that_of_its_trial(searched):
    folder, _, _ = searched
    best, own = load(folder / "tune" / "best.py"), workdir.stored_config(folder / "trial_000")
    assert own.data.store == str(folder / "prepared") and best.data.store is None
    own.data.store = None  # where the data of the search lie is no part of the experiment
    assert configs.flat(best.to_dict()) == configs.flat(own.to_dict())
    assert best.optim.lr == 0.001 and best.tune.space == ""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two trials at a time need two cores")
def test_two_at_a_time_go_on_with_more(searched):
    folder, common, _ = searched
    before = (folder / "trial_000" / "metrics.jsonl").read_bytes()
    done = clinic.launch(*common, "--config.tune.trials=5", "--config.tune.together=2", fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = table_of(folder)
    assert [rows[number]["state"] for number in range(5)] == ["finished", "failed", "failed", "finished", "failed"]
    assert rows[3]["score"] == rows[0]["score"]  # the same values and seed, on one core
    assert (folder / "trial_000" / "metrics.jsonl").read_bytes() == before
    assert "trained 6 steps" in (folder / "trial_003" / "output.txt").read_text()
    assert "trained 6 steps" not in done.stdout


def test_another_search_is_refused(searched):
    folder, common, _ = searched
    before = (folder / "tune" / "trials.csv").read_bytes()
    other = ("--config.tune.space=optim.lr=log(1e-4,1e-2)", "--config.tune.sampler=tpe", "--config.train.total_steps=7")
    done = clinic.launch(*common, *other)
    assert done.returncode == 2 and "train.total_steps, tune.sampler, tune.space differ" in done.stderr, done.stderr
    assert "train.total_steps was 6, now 7" in done.stderr
    done = clinic.launch(*common, "--config.tune.together=999")
    assert done.returncode == 2 and "tune.together is 999, but there are" in done.stderr, done.stderr
    assert (folder / "tune" / "trials.csv").read_bytes() == before


def config_of(**fields):
    config = configs.base_config()
    config.data.name, config.train.total_steps = "msd", 10
    config.tune.update(fields)
    return config


def test_what_cannot_be_searched_is_told_together():
    config = config_of()
    config.data.fold = "all"
    with pytest.raises(UserError, match=r"\(1\) tune.space is empty.*\(2\) data.fold = 'all' holds out no single part"):
        tune._check(config)
    config.ensemble.kind, config.tune.space, config.data.fold = "seeds", "optim.lr=log(1e-4,1e-2)", "0"
    with pytest.raises(UserError, match="the settings of one network are searched"):
        tune._check(config)


def test_a_field_that_the_network_has_not_is_told_before_any_trial():
    from jaxseg.cli import build

    known = build.Facts(("MRI",), ("background", "organ"), (0, 1), (), None, None)
    config = config_of(space="model.dropot=uniform(0,0.5)")
    with pytest.raises(UserError, match="has no field dropot; its fields"):
        tune._check_network(config, tune._check(config), known)


def test_a_trial_is_an_ordinary_config(tmp_path):
    config = config_of(space="optim.lr=log(1e-4,1e-2)", together=2)
    own = trials.configure(
        config, {"optim.lr": 0.003, "model.features": (4, 8), "loss": "dice_loss"}, prepared=tmp_path
    )
    assert (own.optim.lr, own.model.features, own.loss) == (0.003, (4, 8), "dice_loss")
    assert own.data.store == str(tmp_path) and own.tune == configs.base_config().tune
    assert config.optim.lr == 1e-3 and config.data.store is None


def test_when_no_trial_could_be_trained_the_first_says_why(tmp_path):
    config = config_of(space="optim.lr=log(1e-4,1e-2)", first_rung=1)
    study = Study(tmp_path, config.tune, tune._check(config), seed=0)
    for reason in ("Step 3 gave a loss that is not finite.", "It needs more memory than the device has."):
        study.tell(study.next()[0], Result(FAILED, reason=reason))
    with pytest.raises(UserError, match="None of the 2 trials could be trained; the first said: Step 3 gave"):
        tune._check_outcome(study)


class Ended:
    """A process that was killed."""

    exitcode = -9

    def join(self):
        pass


@pytest.mark.parametrize("stopped", [False, True])
def test_a_process_that_dies_is_a_failed_trial(stopped):
    from multiprocessing import Pipe

    here, there = Pipe()
    there.send((10, 0.5))
    seen = []
    assert tune._listen(here, Ended(), stopped, lambda *score: seen.append(score) or True) is None
    assert seen == [(10, 0.5)] and there.recv() is True
    there.close()
    result = tune._listen(here, Ended(), stopped, lambda *score: True)
    assert result == (Result("interrupted") if stopped else Result(FAILED, reason=result.reason))
    assert stopped or "ended with status -9" in result.reason
