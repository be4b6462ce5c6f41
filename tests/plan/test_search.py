"""The search with a made memory: hand-sized limits, what is preferred, and how seldom it asks."""

import numpy as np
import pytest

from jaxseg import plan

SPACING, MEDIAN = (1.0, 1.0, 1.0), (160, 128, 128)
PARAMETERS, A_VOXEL = 1000.0, 10.0  # bytes


def voxels(candidate):
    return candidate.batch * np.prod(candidate.topology.patch)


def memory(candidate, *, half=0.5):
    """What a candidate takes: recomputation saves half of what grows with the voxels."""
    return int(PARAMETERS + A_VOXEL * voxels(candidate) * (half if candidate.remat else 1.0))


def run(limit, *, measure=memory, most=np.inf, **options):
    topologies = tuple(plan.patches(SPACING, MEDIAN))
    voxels = min(most, 1e8)  # every batch up to it is a candidate
    best, trials = plan.search(topologies, measure, limit=int(limit), largest_batch_voxels=voxels, **options)
    return topologies, best, trials


def test_patches_shrink_from_the_median_volume():
    topologies = tuple(plan.patches(SPACING, MEDIAN))
    sizes = [np.prod(topology.patch) for topology in topologies]
    assert topologies[0].patch == MEDIAN and sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)
    assert all(np.all(np.array(topology.patch) % topology.divisor == 0) for topology in topologies)
    assert len(topologies[-1].strides) == 2 and next(plan.patches(SPACING, (300, 400, 500))).patch == (256, 256, 256)
    # the rules take one of them, the first that is within their reference
    ruled = plan.rule_plan(shapes=[MEDIAN] * 9, spacings=[SPACING] * 9, num_classes=2, num_training=9)["3d_fullres"]
    scores = [plan.memory_score(own, num_classes=2, planner=plan.PLANNERS["plain"]) for own in topologies]
    assert ruled["patch_size"] == topologies[[score <= 560e6 for score in scores].index(True)].patch


@pytest.mark.parametrize("remat_helps", [False, True])
def test_the_largest_patch_that_fits(remat_helps):
    # two patches of 96 x 96 x 96 take 17,695,720 bytes without recomputation
    limit = 17_700_000
    topologies, best, trials = run(limit, measure=lambda own: memory(own, half=0.5 if remat_helps else 1.0))
    factor = 0.5 if remat_helps else 1.0
    fitting = [own for own in topologies if PARAMETERS + factor * A_VOXEL * 2 * np.prod(own.patch) <= limit]
    assert best.topology == fitting[0] and best.remat is remat_helps and best.dtype == "bfloat16"
    assert [trial.fits for trial in trials] == [trial.peak <= limit for trial in trials]
    # it is confirmed by measurements: the best one, and that the next larger patch does not fit in either way
    measured = {(trial.candidate.topology.patch, trial.candidate.batch, trial.candidate.remat) for trial in trials}
    larger = topologies[topologies.index(best.topology) - 1].patch
    assert (best.topology.patch, best.batch, best.remat) in measured
    assert (larger, 2, True) in measured and (remat_helps or (larger, 2, False) in measured)
    assert len(trials) <= 9 and len(trials) == len(measured)


def test_the_batch_fills_what_is_left():
    whole = np.prod(MEDIAN)
    _, best, trials = run(PARAMETERS + A_VOXEL * whole * 7.5)
    assert best.topology.patch == MEDIAN and best.batch == 7 and not best.remat
    assert not any(
        trial.candidate.remat for trial in trials
    )  # what costs time is not asked for where nothing is gained
    assert {trial.candidate.batch: trial.fits for trial in trials if trial.candidate.topology.patch == MEDIAN}[
        8
    ] is False
    assert len(trials) <= 6


@pytest.mark.parametrize(("share", "batch"), [(3.2, 3), (0.1, 2)])
def test_the_batch_shows_no_more_of_the_data_than_it_may(share, batch):
    _, best, _ = run(1e12, most=share * np.prod(MEDIAN))
    assert (best.topology.patch, best.batch) == (MEDIAN, batch)


def test_devices_share_the_batch():
    def a_device(candidate):
        assert candidate.batch % 4 == 0
        return int(PARAMETERS + A_VOXEL * voxels(candidate) / 4)

    _, best, _ = run(PARAMETERS + A_VOXEL * np.prod(MEDIAN) * 2.5, measure=a_device, ways=4)
    assert (best.topology.patch, best.batch) == (MEDIAN, 8)


def test_what_the_compiler_refuses_is_too_large():
    limit = 20_000_000
    _, best, trials = run(limit, measure=lambda own: memory(own) if memory(own) <= limit else None)
    _, expected, _ = run(limit)
    assert best == expected and all((trial.peak is None) == (not trial.fits) for trial in trials)


def test_nothing_fits():
    topologies, best, trials = run(PARAMETERS)
    assert best is None and not any(trial.fits for trial in trials)
    assert {trial.candidate.remat for trial in trials if trial.candidate.topology == topologies[-1]} == {False, True}


def test_types_in_the_order_of_preference():
    def wide(candidate):
        return memory(candidate) * (2 if candidate.dtype == "float32" else 1)

    _, best, _ = run(20_000_000, measure=wide, dtypes=("float32", "bfloat16"))
    assert best.dtype == "bfloat16" and best.remat  # a larger patch counts for more
    _, best, _ = run(1e12, measure=wide, dtypes=("float32", "bfloat16"))
    assert best.dtype == "float32" and not best.remat


@pytest.mark.parametrize("power", [1.0, 1.4, 0.7])
def test_curves_that_bend_are_found_too(power):
    loads = np.arange(1, 400.0)
    asked = []

    def peak(place):
        asked.append(place)
        return int(100 + 50 * loads[place] ** power)

    for limit in (149, 150, 900, 7000, 1e9):
        asked.clear()
        expected = int(np.sum([100 + int(50 * load**power) <= limit for load in loads])) - 1
        assert plan.last_that_fits(list(loads), peak, limit=limit) == expected
        assert len(asked) == len(set(asked)) <= 14
