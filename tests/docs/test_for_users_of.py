"""The page for users of other packages: its Python runs; its flags, fields and names are ours."""

import pathlib
import re

import pytest

from jaxseg import config as configs
from jaxseg import losses, metrics, models, ops, predict, transfer, viz
from jaxseg.cli import main
from jaxseg.config import flat
from jaxseg.data import augment

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "for_users_of.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
PEERS = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("place", range(len(BLOCKS)), ids=[peer.split()[0] for peer in PEERS])
def test_the_python_of_the_page_runs(place):
    assert "assert" in BLOCKS[place]  # each block says what it should give
    exec(compile(BLOCKS[place], f"docs/for_users_of.md, block {place}", "exec"), {})


def test_fields_of_the_page_are_fields_of_the_config():
    known = set(flat(configs.base_config().to_dict()))
    named = set(re.findall(r"--(?:config\.|set )([a-z_]+\.[a-z_.]+)", PAGE))
    named |= {name for name in re.findall(r"`([a-z_]+\.[a-z_]+)=", PAGE) if name.split(".")[0] in configs.base_config()}
    assert len(named) > 15 and named <= known, named - known


def test_modes_and_flags_of_the_page_are_those_of_the_command():
    modes = set(re.findall(r"--mode ([a-z]+)", PAGE))
    assert modes == {"plan", "evaluate", "choose", "predict", "convert"} and modes <= set(main.MODES)
    ours = "\n".join(re.findall(r"`(python launch\.py[^`]*|--workdir [^`]*|--average[^`]*)`", PAGE))
    flags = {name for name in re.findall(r"--([a-z]+)[ =]", ours)}
    assert {"workdir", "input", "output", "average", "field"} <= flags
    assert flags <= {*main.FLAGS}, flags - {*main.FLAGS}


def test_networks_losses_and_functions_of_the_page_are_there():
    right = "\n".join(line.split("|", 2)[2] for line in PAGE.splitlines() if line.startswith("| "))
    assert {"residual_unet", "deeplabv3plus"} <= set(re.findall(r'"([a-z0-9_]+)"', right)) & set(models.names())
    for room, name in re.findall(r"`(losses|metrics|ops|predict|transfer|models|viz)\.([a-z_0-9]+)", right):
        place = {"losses": losses, "metrics": metrics, "ops": ops, "predict": predict, "transfer": transfer,
                 "models": models, "viz": viz}[room]  # fmt: skip
        assert hasattr(place, name) or name in ("postprocess",), f"{room}.{name}"
    for pipeline in re.findall(r'augment="([^"]*)"', right):
        assert set(pipeline.replace("\\|", "|").split("|")) <= set(augment.names())
