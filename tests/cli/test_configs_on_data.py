"""Configs of the published sets, from the files as they come to a report: seconds each with :debug."""

import json

import clinic
import pytest

RUNS = {
    "chase.py:debug": ("chase_db1", "vessel", 4),
    "drive.py:debug,network=segnet": ("drive", "vessel", 4),
    "jsrt_lungs.py:debug,network=deeplabv3plus": ("jsrt_lungs", "lung", 20),
}


@pytest.mark.realdata
@pytest.mark.parametrize("config", RUNS)
def test_debug_run_ends_with_a_report(config, data_root, tmp_path):
    folder, label, held_out = RUNS[config]
    done = clinic.launch(
        f"--config=configs/{config}", f"--config.data.root={data_root / folder}", f"--workdir={tmp_path}"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr and (tmp_path / "report.html").stat().st_size > 10_000
    summary = json.loads((tmp_path / "evaluation" / "summary.json").read_text())
    assert summary["classes"][label]["dice"]["n"] == held_out
    if folder == "chase_db1":  # both eyes of two children
        names = json.loads((tmp_path / "config.json").read_text())["split"]["held out"]
        assert len({name.rstrip("LR") for name in names}) == 2 and len(names) == 4
