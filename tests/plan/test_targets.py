"""Machines by name."""

import pytest

from jaxseg.plan import targets
from jaxseg.typing import UserError

GIB = 2**30


def test_machines():
    one, four = targets.machine("v5e"), targets.machine("v5e-4")
    assert (one.target, one.size, four.target, four.size) == ("v5e:1x1", 1, "v5e:2x2", 4)
    assert one.limit == four.limit == int(0.95 * 15.75 * GIB) and one.dtypes == ("bfloat16",)
    assert (targets.machine("v4-4").target, targets.machine("v4-4").size) == ("v4:2x2x1", 8)  # two devices a chip
    assert targets.machine("v5p-4").limit > 90 * GIB
    host = targets.machine("cpu-24")
    assert (host.target, host.limit, host.dtypes, host.remark) == ("cpu", int((0.9 * 24 - 1.5) * GIB), ("float32",), "")
    assert host.runs
    with pytest.raises(UserError, match="'cpu-1' leaves nothing for a train step"):
        targets.machine("cpu-1")
    card = targets.machine("h100-80")
    assert card.target == "cpu" and card.limit == pytest.approx(57 * GIB) and "an estimate" in card.remark
    assert targets.machine("v100-32").dtypes == ("float32",)


@pytest.mark.parametrize(
    ("kind", "chips", "arrangement"),
    [
        ("v5e", 2, "1x2"),
        ("v5e", 8, "2x4"),
        ("v6e", 16, "4x4"),
        ("v5p", 4, "2x2x1"),
        ("v4", 8, "2x2x2"),
        ("v4", 16, "2x2x4"),
    ],
)
def test_arrangements(kind, chips, arrangement):
    assert targets.topology(kind, chips) == arrangement


@pytest.mark.parametrize(
    "name", ["v5e-3", "v5e-0", "v5e-", "v7", "h100", "cpu", "cpu-", "cpu-big", "gpu-80", "v5e:2x2"]
)
def test_unknown_names_list_the_known(name):
    with pytest.raises(UserError, match=f"TPU .*v5e.*h100.*cpu-24; it is '{name}'"):
        targets.machine(name)
