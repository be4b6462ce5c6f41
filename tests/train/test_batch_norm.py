"""Batch statistics over several devices: a mesh and synchronised pmap are one device, pmap alone is not."""

import json
import os
import subprocess
import sys

import batchnorm
import jax
import numpy as np
from devices import several


def test_statistics_and_parameters_on_two_devices_are_those_of_one():
    code = (
        f"import sys; sys.path.insert(0, {os.path.dirname(batchnorm.__file__)!r}); import batchnorm; batchnorm.report()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **several(2)}
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["devices"] == 2 and jax.device_count() == 1
    one = batchnorm.train("pmap", sync=False)
    statistics = [path for path in one if path.endswith(("/mean", "/var"))]
    assert len(statistics) == 2 and len(one) > 6
    mean, variance = 0.0, 1.0  # of the first feature, the image itself: no parameter moves it
    for number in range(batchnorm.STEPS):
        image = batchnorm.batch(number)["image"]
        mean, variance = 0.9 * mean + 0.1 * image.mean(), 0.9 * variance + 0.1 * image.var()
    by_hand = {"mean": mean, "var": variance}
    for path in statistics:
        np.testing.assert_allclose(one[path][0], by_hand[path.rpartition("/")[-1]], rtol=1e-5)
    for kind in ("synchronised", "mesh"):
        assert found[kind].keys() == one.keys()
        for path, values in one.items():
            np.testing.assert_allclose(found[kind][path], values, rtol=1e-4, atol=1e-6, err_msg=f"{kind} {path}")
    # By itself a device sees its own samples only: the mean of their variances leaves out how far these lie apart.
    place = next(path for path in statistics if path.endswith("/var"))
    assert found["alone"][place][0] < 0.95 * one[place][0]
