"""What is added to a compiler's sum: a line through two steps, and which two are run."""

import pytest

from jaxseg import plan


def test_a_line_through_two_steps():
    beyond = plan.allowance([(1000.0, 30.0), (5000.0, 70.0)])  # 20 always, 0.01 a voxel
    assert beyond == (pytest.approx(20.0), pytest.approx(0.01))
    assert [beyond.bytes(load) for load in (0, 1000, 5000, 100_000)] == [20, 30, 70, 1020]
    assert plan.allowance([(5000.0, 70.0), (1000.0, 30.0)]) == beyond


def test_a_line_never_falls():
    assert plan.allowance([(1000.0, 70.0), (5000.0, 30.0)]) == (30.0, 0.0)
    assert plan.allowance([(1000.0, -20.0), (5000.0, -100.0)]) == (0.0, 0.0)


@pytest.mark.parametrize("samples", [[(1000.0, 30.0)], [(1000.0, 30.0), (1000.0, 31.0)]])
def test_a_line_needs_two_sizes(samples):
    with pytest.raises(ValueError, match="two batches of different sizes"):
        plan.allowance(samples)


@pytest.mark.parametrize("median", [(160, 128, 128), (256, 256)])
def test_the_steps_that_are_run_are_small(median):
    topologies = tuple(plan.patches((1.0,) * len(median), median))
    largest = plan.Candidate(topologies[0], 2, "float32", False).load
    first, second = plan.small_candidates(topologies, load=largest, dtype="float32")
    assert largest / 32 <= first.load <= largest / 8 and largest / 8 < second.load <= largest / 2
    assert second.load >= 1.5 * first.load and first.topology in topologies and second.topology in topologies
    assert (first.dtype, first.remat, second.dtype, second.remat) == ("float32", False, "float32", False)


def test_one_topology_is_run_with_two_batches():
    (only,) = tuple(plan.patches((1.0, 1.0, 1.0), (8, 8, 8)))[-1:]
    first, second = plan.small_candidates([only], load=2 * 8**3, dtype="float32")
    assert first.topology == second.topology == only and (first.batch, second.batch) == (2, 4)
