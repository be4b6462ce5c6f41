"""The memory that a train step takes, and what is said where no step can be run."""

import pytest
from ml_collections import ConfigDict

from jaxseg import plan
from jaxseg.cli import build, fit, taken
from jaxseg.config import base_config
from jaxseg.plan import targets
from jaxseg.typing import UserError

KNOWN = build.Facts(("image",), ("background", "lesion"), (0, 1), (), None, None)


def settings(**model):
    config = ConfigDict(base_config().to_dict(), type_safe=False)
    config.update_from_flattened_dict(
        {"train.total_steps": 2, "augment": "none", "data.patch_size": (256, 256), "data.batch_size": 4}
    )
    config.model = {"name": "unet", "ndim": 2, "features": (8, 16), **model}
    return config


def test_a_step_takes_what_its_compiler_counts_and_some_more():
    found = taken.measure(settings(), KNOWN)
    assert found.temporaries > 4 * 256 * 256 * 8 * 4  # the first level's features alone
    assert found.temporaries < found.predicted < found.taken < found.predicted + 2**28


def test_a_step_that_cannot_be_run_says_why():
    with pytest.raises(taken.NotMeasured, match="no model named 'umet'"):
        taken.measure(settings(name="umet"), KNOWN)


def test_a_quarter_is_added_where_no_step_can_be_run(monkeypatch, capsys):
    def refuse(config, known):
        raise taken.NotMeasured("its process was ended by signal 9")

    monkeypatch.setattr(taken, "measure", refuse)
    pair = plan.small_candidates(tuple(plan.patches((1.0, 1.0), (64, 64))), load=2 * 64 * 64, dtype="float32")
    beyond = fit._allowance("2d", pair, lambda candidate: settings(), KNOWN, 400.0)
    assert beyond.bytes(1000) == 100 * 1000
    assert "no step could be run here (its process was ended by signal 9): 25%" in capsys.readouterr().out


def test_a_configuration_that_would_be_refused_is_left_out(capsys):
    configuration = {"spacing": (1.0, 1.0), "median_image_size_in_voxels": (64, 64)}
    settings_of = {"problem_of": lambda config: "mirror knows no axis 2.", "settings_of": lambda chosen: settings()}
    config = settings()
    config.plan.configurations = ("2d",)
    with pytest.raises(UserError, match=r"No configuration can be planned for cpu-8\. mirror knows no axis 2\."):
        fit.plan(config, KNOWN, targets.machine("cpu-8"), by_rule=lambda planner: {"2d": configuration}, **settings_of)
    assert "2d           is left out: mirror knows no axis 2." in capsys.readouterr().out
