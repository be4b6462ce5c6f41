"""Agents that refine masks, as a user runs them: train, evaluate with episodes, predict from masks, what is refused."""

import json

import clinic
import numpy as np
import pytest
from PIL import Image

from jaxseg.cli import agents, build, clicks
from jaxseg.config import base_config
from jaxseg.data import readers
from jaxseg.typing import UserError

CONFIG = """
from jaxseg.config import base_config
from ml_collections import ConfigDict

def get_config(arg="refinement"):
    config = base_config()
    config.data.name, config.data.images, config.data.labels, config.data.folds = "image_mask", "images", "masks", 3
    config.data.classes, config.data.label_threshold, config.data.crop = ("background", "blob"), 127.0, False
    config.data.patch_size, config.data.batch_size, config.augment = (16, 24), 2, "none"
    config.train.total_steps, config.train.eval_steps = 2, 2
    config.evaluate.surfaces, config.evaluate.overlays, config.evaluate.clicks = False, 1, 2
    config.task = arg
    if arg == "semantic":
        config.model = ConfigDict({"name": "pixel_features", "ndim": 2, "features": (4,), "sigmas": (0.7,)})
    elif arg == "refinement":
        config.rl.initial, config.rl.steps, config.rl.clicks = "threshold", 2, 2
        config.model = ConfigDict({"name": "pixel_actor_critic", "ndim": 2, "features": 2})
    else:
        config.rl.initial, config.rl.steps, config.rl.replay, config.rl.transitions = "threshold", 2, 4, 2
        config.model = ConfigDict({"name": "q_network", "ndim": 2, "features": (2,)})
    return config
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Six pictures of a bright blob, with masks, and the config."""
    root = tmp_path_factory.mktemp("agents")
    rows, columns = np.mgrid[:16, :24]
    for folder in ("images", "masks"):
        (root / "data" / folder).mkdir(parents=True)
    for number in range(6):
        draw = np.random.default_rng(number)
        mask = (rows - 8) ** 2 + (columns - draw.integers(8, 16)) ** 2 < 25
        picture = np.clip(60 + 80 * mask + draw.normal(0, 25, mask.shape), 0, 255)
        Image.fromarray(picture.astype(np.uint8)).save(root / "data" / "images" / f"p{number}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(root / "data" / "masks" / f"p{number}.png")
    (root / "agents.py").write_text(CONFIG)
    return root


def run(place, task, *flags):
    command = ("--config", f"{place / 'agents.py'}:{task}", "--workdir", place / task)
    return clinic.launch(*command, f"--config.data.root={place / 'data'}", *flags)


@pytest.fixture(scope="module")
def refined(place):
    done = run(place, "refinement")
    assert done.returncode == 0, done.stderr
    return done


def test_the_whole_job_scores_every_step_and_click(place, refined):
    assert "step   Dice" in refined.stdout and "dice_initial" in (place / "refinement" / "metrics.jsonl").read_text()
    folder = place / "refinement" / "evaluation" / "episodes"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["trained_steps"] == 2
    lines = (folder / "steps.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 5  # two held-out cases; the start and twice as many steps as trained
    assert len((folder / "clicks.csv").read_text().splitlines()) == 1 + 2 * 3
    assert len(list(folder.glob("*.png"))) == 2
    page = (place / "refinement" / "report.html").read_text()
    assert "Episodes" in page and "Clicks" in page


def test_predict_starts_from_given_masks(place, refined, tmp_path):
    command = ("--mode", "predict", "--workdir", place / "refinement", "--input", place / "data" / "images")
    (tmp_path / "empty").mkdir()
    for number in range(6):
        Image.fromarray(np.zeros((16, 24), np.uint8)).save(tmp_path / "empty" / f"p{number}.png")
    still = ("--set", "predict.steps=0")
    for name, given in (("full", place / "data" / "masks"), ("none", tmp_path / "empty")):
        done = clinic.launch(*command, "--output", tmp_path / name, "--initial", given, *still)
        assert done.returncode == 0, done.stderr
    found = np.asarray(Image.open(tmp_path / "full" / "p3.png")) > 0
    np.testing.assert_array_equal(found, np.asarray(Image.open(place / "data" / "masks" / "p3.png")) > 127)
    assert not np.asarray(Image.open(tmp_path / "none" / "p3.png")).any()
    (tmp_path / "empty" / "p3.png").unlink()
    done = clinic.launch(*command, "--output", tmp_path / "other", "--initial", tmp_path / "empty")
    assert done.returncode == 2 and "has no mask for 1 of 6 images: p3" in done.stderr


def test_clicks_from_a_file_change_their_own_image_alone(place, refined, tmp_path):
    command = ["--mode", "predict", "--workdir", place / "refinement", "--input", place / "data" / "images"]
    command += ["--initial", place / "data" / "masks", "--set", "predict.probabilities=True"]
    (tmp_path / "clicks.csv").write_text("case,y,x,class\np3,8,12,background\np3,2,3,blob\n")
    for name, further in (("without", ()), ("with", ("--clicks", tmp_path / "clicks.csv"))):
        done = clinic.launch(*command, "--output", tmp_path / name, *further)
        assert done.returncode == 0, done.stderr
    before, after = (
        [readers.read(tmp_path / name / f"p{n}_probabilities.tif").data for n in (2, 3)] for name in ("without", "with")
    )
    np.testing.assert_array_equal(before[0], after[0])
    assert np.abs(before[1] - after[1]).max() > 0.05


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("case,y,class\np3,1,blob\n", "should have the columns case, y, x, class; x is missing"),
        ("case,y,x,class\np3,1,2,lung\n", "line 2: the class should be one of background, blob, got 'lung'"),
        ("case,y,x,class\np3,1,2.5,blob\n", "should be whole numbers of voxels, got y='1', x='2.5'"),
        ("case,y,x,class\np9,1,2,blob\n", "names 'p9', which is none of the 6 images"),
        ("case,y,x,class\np3,1,24,blob\n", "p3 has a click at (1, 24), but the image has the shape (16, 24)"),
    ],
)
def test_a_wrong_table_of_clicks_is_one_sentence(place, refined, tmp_path, rows, sentence):
    (tmp_path / "clicks.csv").write_text(rows)
    done = clinic.launch(
        "--mode", "predict", "--workdir", place / "refinement", "--input", place / "data" / "images", "--output",
        tmp_path / "out", "--initial", place / "data" / "masks", "--clicks", tmp_path / "clicks.csv",
    )  # fmt: skip
    assert done.returncode == 2 and sentence in done.stderr


def test_clicks_need_masks_and_agents_that_know_them(place, refined, tmp_path):
    (tmp_path / "clicks.csv").write_text("case,y,x,class\n")
    command = ["--mode", "predict", "--workdir", place / "refinement", "--input", place / "data" / "images"]
    done = clinic.launch(*command, "--output", tmp_path / "out", "--clicks", tmp_path / "clicks.csv")
    assert done.returncode == 2 and "--clicks needs --initial" in done.stderr
    config = base_config()
    config.task = "operators"
    with pytest.raises(UserError, match=r"train them with rl\.clicks above 0"):
        clicks.hints("any.csv", config, None, [])


def test_an_agent_over_operators_does_the_whole_job(place):
    done = run(place, "operators")
    assert done.returncode == 0, done.stderr
    folder = place / "operators" / "evaluation" / "episodes"
    assert len((folder / "steps.csv").read_text().splitlines()) == 1 + 2 * 5
    assert not (folder / "clicks.csv").exists()


def test_episodes_start_from_a_trained_run_and_seen_cases_are_told(place):
    done = run(place, "semantic", "--mode", "train", "--config.data.fold=1")
    assert done.returncode == 0, done.stderr
    follow = ("--mode", "train", f"--config.rl.initial={place / 'semantic'}", "--workdir", place / "after")
    done = run(place, "refinement", *follow)
    assert done.returncode == 0, done.stderr
    assert "warning: 2 of 2 held-out cases" in done.stdout
    done = run(place, "refinement", "--mode", "train", f"--config.rl.initial={place}", "--workdir", place / "no")
    assert done.returncode == 2 and "is not the workdir of a trained run" in done.stderr
    done = run(
        place, "refinement", *follow[:2], f"--config.rl.initial={place / 'semantic'}", "--config.data.normalize=unit"
    )
    assert done.returncode == 2, done.stdout


def test_given_masks_are_nearly_certain():
    known = build.Facts(("x",), ("background", "a", "b"), (0, 1, 2), (), None, None)
    found = agents.given(np.array([[0, 2]]), known)
    np.testing.assert_allclose(found[0], [[0.9, 0.05, 0.05], [0.05, 0.05, 0.9]], atol=1e-6)
    regions = agents.given(np.array([[0, 2]]), known._replace(regions=((1, 2), (2,))))
    np.testing.assert_allclose(regions[0], [[0.1, 0.1], [0.9, 0.9]], atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rl.initial", None, "rl.initial is not set"),
        ("rl.steps", 0, "rl.steps must be 1 or more"),
        ("rl.clicks", 2, "must be a multiple of rl.clicks = 2"),
        ("rl.reward_map", 4, "an odd number, got 4"),
        ("rl.learner", "sarsa", "rl.learner must be actor_critic or supervised"),
        ("rl.discount", 1.5, "rl.discount must lie from 0 to 1"),
        ("model.name", "q_network", "is for task='operators'"),
        ("predict.average", "logits", "predict.average must be probabilities"),
    ],
)
def test_what_agents_cannot_do_is_told_before_anything_is_read(field, value, message):
    from jaxseg import validation

    config = base_config()
    config.data.name, config.train.total_steps, config.task, config.rl.initial = "msd", 2, "refinement", "blank"
    config.model.name, config.rl.steps = "pixel_actor_critic", 5
    validation.validate(config)
    group, name = field.split(".")
    with config.ignore_type():
        config[group][name] = value
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        validation.validate(config)


def test_a_memory_that_holds_no_batch_is_told():
    from jaxseg import validation

    config = base_config()
    config.data.name, config.train.total_steps, config.task, config.rl.initial = "msd", 2, "operators", "blank"
    config.model.name, config.data.batch_size, config.rl.replay = "q_network", 8, 8
    validation.validate(config)
    config.rl.replay = 7
    with pytest.raises(UserError, match=r"rl\.replay = 7 must hold the episodes of a batch; set it to 8"):
        validation.validate(config)
