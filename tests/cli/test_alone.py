"""Two commands in one workdir: the second is refused, and what the first leaves is its own."""

import os
import signal
import subprocess
import sys

import clinic
import pytest

from jaxseg.cli import alone
from jaxseg.typing import UserError


def test_who_comes_second_is_refused_until_the_first_has_ended(tmp_path):
    folder = tmp_path / "runs" / "a"
    with alone.alone(folder):
        with pytest.raises(UserError, match=r"Another command is at work in .*; wait for it"), alone.alone(folder):
            pass
        assert list(folder.iterdir()) == []  # the lock is no file of the run
        with alone.alone(tmp_path / "runs" / "b"):
            pass
    assert not folder.exists()  # nothing was written there
    with alone.alone(folder):
        (folder / "config.json").write_text("{}")
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_killed_command_leaves_no_lock(tmp_path):
    code = "import sys, time, pathlib; from jaxseg.cli import alone\n"
    code += "with alone.alone(pathlib.Path(sys.argv[1])): print('in', flush=True); time.sleep(600)"
    first = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=clinic.ROOT)
    assert first.stdout.readline() == b"in\n"
    with pytest.raises(UserError, match="Another command"), alone.alone(tmp_path):
        pass
    first.send_signal(signal.SIGKILL)
    first.communicate()
    with alone.alone(tmp_path):
        assert os.listdir(tmp_path) == []
    assert tmp_path.is_dir()  # which was there before


def test_a_place_that_cannot_be_a_folder_is_left_to_who_writes_there(tmp_path):
    (tmp_path / "file").write_text("mine")
    with alone.alone(tmp_path / "file" / "run"):
        assert (tmp_path / "file").read_text() == "mine"


def test_training_where_another_command_trains_is_told_in_one_sentence(tmp_path):
    root, config, folder = clinic.msd(tmp_path / "task", cases=3), clinic.config_file(tmp_path), tmp_path / "run"
    flags = ("--config", config, f"--config.data.root={root}", f"--workdir={folder}", "--mode=prepare")
    with alone.alone(folder):
        done = clinic.launch(*flags)
        assert done.returncode == 2 and done.stderr.startswith("error: Another command is at work in")
        assert done.stderr.count("\n") == 1 and list(folder.iterdir()) == []
    assert clinic.launch(*flags).returncode == 0 and (folder / "config.json").exists()
