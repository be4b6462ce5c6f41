"""The benchmarks' protocol and their rows: what they name exists and takes the options; nothing here is timed."""

import importlib
import inspect

import numpy as np
import pytest

from benchmarks import alone, augmentation, bounded_memory, compare, metrics, sliding_window, step, volumes

ROWS = [
    *step.rows(step.TINY, {}),
    *sliding_window.rows(sliding_window.TINY, {}),
    *augmentation.rows(augmentation.TINY, 2),
    *volumes.rows(volumes.TINY),
    *metrics.rows(metrics.TINY),
]


def resolve(side):
    module, name = side.target.split(":")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_every_side_exists_and_takes_its_options(row):
    assert row.sides[0].name == "ours" and len(row.sides) >= 2
    for side in row.sides:
        inspect.signature(resolve(side)).bind(**side.options)


def test_our_metrics_equal_scipys():
    rows = metrics.rows(metrics.TINY)
    pairs = {row.name: [resolve(side)(**side.options)() for side in row.sides[:2]] for row in rows}
    assert set(pairs) == {"HD95", "surface Dice", "components", "Dice"}
    for ours, scipys in pairs.values():
        assert np.abs(scipys).max() > 0
        np.testing.assert_allclose(ours, scipys, rtol=1e-5)


def test_export_and_resampling_give_the_sizes_asked_for():
    case = {"shape": (6, 10, 8), "spacing": (2.0, 1.0, 1.0), "target": (1.0, 1.0, 2.0)}
    assert volumes.resample(**case, labels=False)().shape == (12, 10, 4, 1)
    assert volumes.resample(**case, labels=True)().shape == (12, 10, 4)
    assert set(np.unique(volumes.export(**case, classes=3)())) == {0, 1, 2}


def test_a_measurement_counts_calls_memory_and_keeps_the_result(tmp_path):
    options = {"shape": (4, 6, 5), "spacing": (1.0,) * 3, "target": (0.5,) * 3, "labels": False}
    result = str(tmp_path / "result.npy")
    found = alone.measure("benchmarks.volumes:resample", options=options, runs=3, seconds=60.0, result=result)
    assert len(found["seconds"]) == 3 and min(found["seconds"]) > 0 and found["peak"] > 1
    assert np.load(tmp_path / "result.npy").shape == (8, 12, 10, 1)


def test_differences_are_told(tmp_path):
    paths = [tmp_path / f"{name}.npy" for name in "abc"]
    for path, array in zip(paths, ([0, 1, 2, 3], [0, 1, 2, 5], [0, 1])):
        np.save(path, np.array(array))
    assert compare.difference(paths[0], paths[0], 0.0) == "equal within 0"
    assert compare.difference(paths[0], paths[1], 1.0) == "25 % differ, by up to 2"
    assert compare.difference(paths[0], paths[2], 1.0).startswith("shapes")


def test_what_all_outputs_of_a_scan_take():
    # 1 x 3 x 4 voxels of the network's grid: 101 sums and a weight; 2 x 3 x 4 voxels of the file: 101 probabilities.
    assert bounded_memory.held((2, 3, 4)) == pytest.approx(4 * (12 * 102 + 24 * 101) / 2**30)
    scan = bounded_memory.scan((5, 6, 7))
    assert scan.shape == (5, 6, 7) and scan.dtype == np.int16 and 100 < np.abs(scan).max() < 1000
