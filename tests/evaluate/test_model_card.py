"""The model card: what it must say, what it must never say, and whose text it keeps."""

import json
import math

import numpy as np
import pytest

from jaxseg import evaluate, metrics
from jaxseg.evaluate import card_scores, model_card
from jaxseg.evaluate.card_facts import CardFacts, CaseFacts, read_facts
from jaxseg.typing import UserError


def case(name, *, subject="", shape=(9, 20, 31), spacing=(3.0, 0.5, 0.75), lesion=200):
    return CaseFacts(name, subject, shape, spacing, {0: 5000, 1: lesion}, math.prod(spacing), (110.0,))


def rows(names, *, first=0.5):
    return [{"case": name, "class": "lesion", "dice": first + place / 10} for place, name in enumerate(names)]


def record(**more):
    return {
        "config": {
            "task": "semantic", "seed": 7, "loss": "dice_loss + cross_entropy", "augment": "mirror | gamma",
            "data": {"name": "msd", "root": "/home/mueller/data", "fold": "1", "folds": 5, "split_kind": "nnunet",
                     "batch_size": 2},
            "model": {"name": "unet", "ndim": 3, "features": [8, 16]},
            "optim": {"name": "adamw", "lr": 0.001}, "train": {"eval_steps": 10},
            "predict": {"checkpoint": "best", "postprocess": ""},
        },
        "command": "python launch.py --config configs/unet3d.py --config.data.root=/home/mueller/data",
        "versions": {"jaxseg": "0.1.0", "jax": "0.10.2"}, "device": "1 x cpu", "seconds": 90.0,
        "patch_size": [8, 16, 16],
        "dataset": {"channels": ["T1 <b>|x"], "classes": ["background", "lesion", "cyst"], "label_values": [0, 1, 4],
                    "regions": None},
        "settings": {"spacing": [3.0, None, 0.5], "normalize": ["zscore"]},
        "split": {"training": ["anna", "bert", "carl"], "held out": ["dora", "emil"]},
        **more,
    }  # fmt: skip


def facts(**more):
    scored = more.pop("scored", ("dora", "emil"))
    cases = (
        case("anna", subject="p1", lesion=400),
        case("bert", subject="p1", shape=(11, 18, 31)),
        case("carl", subject="p2", spacing=(6.0, 0.5, 0.75), lesion=0),
        case("dora", subject="p3", shape=(99, 98, 97)),
        case("emil", subject="p4"),
    )
    given = {"name": "run", "written": "2026-01-02", "data_title": "Task99", "record": record(), "cases": cases}
    given |= {"steps": 40, "scored": scored, "summary": metrics.aggregate(rows(scored))}
    return CardFacts(**{**given, **more})


def test_the_card_says_what_was_trained_on_what():
    text = model_card.model_card(facts())
    for said in (
        "It is not a medical device",
        "Takes: 3D images with 1 channel (T1 &lt;b>x)",
        "Classes: background (0), lesion (1), cyst (4)",
        "`unet` with ndim=3, features=[8, 16]",
        "Data set: Task99, layout `msd`",
        "Trained on: 3 cases of 2 subjects",
        "Held out: 2 cases\n",
        "Split: fold 1 of 5; the sorted names were shuffled with a fixed seed",
        "resampled to 3 x as in the files x 0.5 mm",
        "Augmentation: `mirror | gamma`",
        "Steps: 40",
        "Time: 1.5 minutes",
        "Seed: 7",
        "Versions: jaxseg 0.1.0, jax 0.10.2",
        "Patch and batch: 8 x 16 x 16 and 2",
    ):
        assert said in text, said
    assert text.endswith(model_card.MARKER + "\n")


def test_no_path_and_no_case_is_named():
    text = model_card.model_card(facts())
    for secret in ("mueller", "/home", "anna", "bert", "carl", "dora", "emil", "p1"):
        assert secret not in text
    assert "--config.data.root=(path not shown)" in text


def test_limits_are_the_range_of_the_training_cases_alone():
    text = model_card.model_card(facts())
    assert "Spacing in training: 3 x 0.5 x 0.75 to 6 x 0.5 x 0.75 mm, median 3 x 0.5 x 0.75" in text
    assert "Size in training: 9 x 18 x 31 to 11 x 20 x 31 voxels, median 9 x 20 x 31" in text
    # 200 and 400 voxels of 1.125 mm3; the case without a lesion does not count, the held-out ones neither
    assert "lesion: in 2 of 3 training cases, 0.225 to 0.45 ml" in text
    assert "cyst: in 0 of 3 training cases, so the network has never seen it" in text
    assert "99" not in text.split("## Limits")[1]


def test_scores_stand_with_their_interval_and_n():
    text = model_card.model_card(facts())
    # two cases of 0.5 and 0.6: the bootstrap's ends are the cases themselves
    assert "| lesion | Dice | 0.550 | 0.550 | 0.500 to 0.600 | 2 | 0 | 0 |" in text
    assert "lesion: the scores rest on 2 cases; the interval is a rough guess." in text
    assert "checkpoints the one with the best score on the held-out cases was kept" in text


def test_a_single_look_at_the_held_out_cases_chooses_nothing():
    assert "checkpoints the one with the best score" not in model_card.model_card(facts(steps=10))


@pytest.mark.parametrize(
    ("scored", "said"),
    [
        (("dora", "emil"), "2 cases that were held out"),
        (("dora", "anna", "new"), "3 cases, of which 1 bear names of cases that the network was trained on"),
        (("new",), "1 case of a labelled folder"),
    ],
)
def test_the_card_says_which_cases_were_scored(scored, said):
    assert said in card_scores.what_was_scored(facts(scored=scored))


def test_folds_hold_every_case_out_in_turn():
    own = record()
    del own["split"]
    own["config"]["data"]["fold"] = "all"
    splits = [("anna", "bert"), ("bert", "anna")]
    members = {
        f"fold_{place}": {"split": {"training": [a], "held out": [b]}, "seconds": 60.0, "parameters": {"model": 1234},
                          "config": {"seed": 7}}
        for place, (a, b) in enumerate(splits)
    }  # fmt: skip
    found = facts(record=own | {"seconds": None}, members=members, scored=("anna", "bert"))
    text = model_card.model_card(found)
    assert "Parameters: 1,234 in each of 2 networks" in text and "Time: 2.0 minutes" in text
    assert "2 cases, each by the networks that had not been trained on it" in text
    assert "Cases: 2 cases of 1 subject; in turn each was held out and trained on" in text
    assert "Split: all 5 folds in turn" in text


def test_out_of_bag_scores_are_called_so():
    own = record(ensemble={"members": ["member_0"], "combine": "probabilities"}, temperature=0.87)
    own["config"]["data"]["fold"], own["config"]["ensemble"] = "none", {"kind": "bagging"}
    own["split"] = {"training": ["anna", "bert"], "held out": []}
    text = model_card.model_card(facts(record=own, scored=("anna",), members={"member_0": {"config": {"seed": 1}}}))
    assert "1 case, each by the members of the ensemble that had not been trained on it (out of bag)" in text
    assert "bagging of 1 networks, combined by probabilities" in text and "temperature 0.87" in text
    assert "Held out: none" in text and "no case was held out (fold none)" in text


def test_objects_have_their_average_precision():
    found = {**metrics.aggregate(rows(("dora", "emil"))), "coco": {
        "images": 2, "objects": 31, "mask": {"AP": 0.5, "AP50": 0.75, "AP75": 0.25},
        "box": {"AP": 0.4, "AP50": 0.7, "AP75": 0.2},
    }}  # fmt: skip
    own = record()
    own["config"]["task"] = "instance"
    text = model_card.model_card(facts(summary=found, record=own))
    assert "| mask | 0.500 | 0.750 | 0.250 |" in text and "2 images with 31 objects" in text
    assert "objects one by one" in text


def test_made_images_stand_beside_simple_methods():
    names = [f"c{number}" for number in range(12)]
    values = [
        {"case": name, "method": method, "psnr_db": 20.0 + gain + place, "ssim": 0.5 + gain / 10, "mae": 0.2}
        for place, name in enumerate(names)
        for method, gain in (("network", 2.0), ("linear", 0.0))
    ]
    own = record(split={"training": ["anna"], "held out": names})
    own["config"]["task"] = "super_resolution"
    text = model_card.model_card(facts(record=own, scored=names, summary=evaluate.summarize_images(values)))
    assert "| linear | PSNR (dB) | 2.00 | 2.00 to 2.00 | 12 |" in text
    assert "Classes:" not in text and "A made image is a guess" in text


def test_steps_of_agents_stand_with_their_change():
    played = [evaluate.episodes.Played(n, np.array([[0.5], [0.6 + i / 100]]), np.array([0.1]))
              for i, n in enumerate("ab")]  # fmt: skip
    found = evaluate.episodes.summarise(played, classes=["lesion"], trained_steps=1)
    text = model_card.model_card(facts(episodes=found))
    assert "| 0 | 0.500 |" in text and "| +0.105 |" in text


def test_what_is_missing_is_said_and_not_guessed():
    empty = CardFacts(name="run", written="2026-01-02", data_title="", record={})
    text = model_card.model_card(empty)
    assert card_scores.NOT_SCORED in text and "Parameters: not recorded" in text and "Time: not recorded" in text
    assert "How large and how fine the training images were is not known" in text


@pytest.fixture
def workdir(tmp_path):
    own = record(store=str(tmp_path / "gone"))
    (tmp_path / "config.json").write_text(json.dumps(own))
    (tmp_path / "checkpoints" / "40").mkdir(parents=True)
    found = rows(("dora", "emil"))
    evaluate.write(tmp_path, found, metrics.aggregate(found))
    return tmp_path


def test_a_workdir_is_read(workdir):
    found = read_facts(workdir)
    assert found.steps == 40 and found.scored == ("dora", "emil") and found.cases == ()
    assert found.record["settings"]["spacing"] == [3.0, None, 0.5]
    assert found.summary["classes"]["lesion"]["dice"]["n"] == 2


def test_notes_below_the_line_are_kept(workdir):
    place = workdir / "model_card.md"
    assert evaluate.write_card(workdir) == str(place)
    place.write_text(place.read_text() + "\n## Ours\n\nScanned in Ulm.\n")
    before = place.read_text()
    found = rows(("dora", "emil"), first=0.7)
    evaluate.write(workdir, found, metrics.aggregate(found))
    evaluate.write_card(workdir)
    after = place.read_text()
    assert "| lesion | Dice | 0.750 |" in after and "| lesion | Dice | 0.550 |" in before
    assert after.split(model_card.MARKER)[1] == before.split(model_card.MARKER)[1]


def test_a_card_that_somebody_rewrote_is_left_alone(workdir):
    (workdir / "model_card.md").write_text("# My own words\n")
    assert "is left as it is" in evaluate.write_card(workdir)
    assert (workdir / "model_card.md").read_text() == "# My own words\n"


def test_a_folder_without_a_run_is_told(tmp_path):
    with pytest.raises(UserError, match=r"no config.json"):
        evaluate.write_card(tmp_path)
    (tmp_path / "config.json").write_text("{half")
    with pytest.raises(UserError, match="not valid JSON"):
        evaluate.write_card(tmp_path)
