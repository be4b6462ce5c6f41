"""The examples under docs/notebooks, run as a reader would run them; they hold their own assertions."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "notebooks"
LEAVES = {
    "single_functions": ("white_matter.png",),
    "dicom_to_report": ("run/report.html", "run/model_card.md", "masks"),
    "own_model": ("run/report.html", "run/model_card.md", "run/evaluation/overlays"),
}


def test_every_notebook_is_run():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(LEAVES)


@pytest.mark.notebook
@pytest.mark.parametrize("name", list(LEAVES))
def test_the_notebook_runs_and_leaves_its_files(name, tmp_path):
    script = FOLDER / f"{name}.py"
    environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    for file in LEAVES[name]:
        assert (tmp_path / file).exists(), f"{name} should leave {file}"


@pytest.mark.parametrize("name", list(LEAVES))
def test_the_notebook_is_made_of_text_and_code(name):
    text = (FOLDER / f"{name}.py").read_text()
    cells = text.split("\n# %%")
    assert cells[0].startswith("# %% [markdown]\n# # ")  # begins with its title
    written = [cell for cell in cells[1:] if cell.startswith(" [markdown]")]
    assert len(written) >= 4 and len(cells) - len(written) >= 4
    for cell in written:
        assert all(line.startswith("#") for line in cell.splitlines()[1:] if line), cell
