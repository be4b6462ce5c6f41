"""Devices divided among processes: each is used once, none is invented."""

import os

import pytest

from jaxseg.cli import shares
from jaxseg.typing import UserError


def test_cores_are_divided():
    found = shares.divide("cpu", 5, 2, available=(0, 2, 3, 5, 7))
    assert found == [shares.Share((0, 2), {}), shares.Share((3, 5), {})]


def test_gpus_are_divided_with_their_cores():
    found = shares.divide("gpu", 4, 2, available=(0, 1, 2, 3))
    assert [share.environment for share in found] == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    assert [share.cores for share in found] == [(0, 1), (2, 3)]
    few = shares.divide("cuda", 2, 2, available=(0,), visible="3, GPU-ab")
    assert [share.environment["CUDA_VISIBLE_DEVICES"] for share in few] == ["3", "GPU-ab"]
    assert [share.cores for share in few] == [(), ()]  # fewer cores than trials: all use all


def test_a_trial_has_a_tpu_chip():
    found = shares.divide("tpu", 8, 3, available=tuple(range(6)))
    assert [share.environment["TPU_VISIBLE_CHIPS"] for share in found] == ["0", "1", "2"]


@pytest.mark.parametrize(("platform", "kind"), [("cpu", "CPU core"), ("gpu", "GPU"), ("tpu", "TPU chip")])
def test_more_trials_than_devices_are_refused(platform, kind):
    with pytest.raises(UserError, match=rf"tune.together is 3, but there are 2 devices \({kind}s\)"):
        shares.divide(platform, 2, 3, available=(0, 1))


def test_a_share_is_entered(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    entered = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: entered.append(cores), raising=False)
    shares.enter(shares.Share((1,), {"CUDA_VISIBLE_DEVICES": "1"}))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1" and entered == [(1,)]
