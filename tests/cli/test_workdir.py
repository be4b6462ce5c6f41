"""The record of a run: what an earlier version did not write yet has its default."""

import json

import pytest

from jaxseg.cli import workdir
from jaxseg.config import base_config
from jaxseg.typing import UserError


def test_record_of_an_earlier_version_is_completed(tmp_path):
    config = base_config()
    config.model.name, config.predict.overlap = "segnet", 0.25
    earlier = json.loads(config.to_json())
    del earlier["instance"], earlier["predict"]["min_score"], earlier["model"]["features"]
    (tmp_path / workdir.RECORD).write_text(json.dumps({"config": earlier}))
    found = workdir.stored_config(tmp_path)
    assert found.instance.anchor_overlaps == (0.3, 0.7) and found.predict.min_score == 0.5
    assert found.predict.overlap == 0.25 and found.model.name == "segnet" and "features" not in found.model
    del config.model["features"]
    assert workdir.begin(tmp_path, config)["config"] == earlier  # the same experiment
    config.instance.anchor_overlaps = (0.3, 0.5)
    with pytest.raises(UserError, match=r"instance.anchor_overlaps was \[0.3, 0.7\], now \[0.3, 0.5\]"):
        workdir.begin(tmp_path, config)
