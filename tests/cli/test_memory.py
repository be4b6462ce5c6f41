"""What may still be taken: of a number that is given, of the machine, of a container."""

import numpy as np
import pytest

from jaxseg import predict
from jaxseg.cli import memory
from jaxseg.data.volume import identity_affine
from jaxseg.typing import Volume

KIB = 1024


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8 GiB free, on which this process holds 3 GiB."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text(f"Name:\tpython\nVmPeak:\t9 kB\nVmRSS:\t{3 * KIB**2} kB\n")
    (tmp_path / "meminfo").write_text(f"MemTotal: {16 * KIB**2} kB\nMemAvailable: {8 * KIB**2} kB\n")
    monkeypatch.setattr(memory, "PROC", tmp_path)
    monkeypatch.setattr(memory, "GROUPS", ((str(tmp_path / "group"), "memory.max", "memory.current"),))
    return tmp_path


def container(machine, *, bound, held, buffers):
    folder = machine / "group"
    folder.mkdir()
    (folder / "memory.max").write_text(f"{bound}\n")
    (folder / "memory.current").write_text(f"{held}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {buffers}\nactive_file 0\n")


def test_a_given_number_counts_what_the_process_holds(machine):
    assert memory.left(5.0) == 2 * KIB**3
    assert memory.left(1.0) == -2 * KIB**3


def test_without_a_number_it_is_a_share_of_what_the_machine_has_free(machine):
    assert memory.left(0.0) == int(0.8 * 8 * KIB**3)
    container(machine, bound="max", held=7, buffers=0)
    assert memory.left(0.0) == int(0.8 * 8 * KIB**3)


def test_a_container_bounds_it_but_for_the_files_that_it_buffers(machine):
    container(machine, bound=6 * KIB**3, held=5 * KIB**3, buffers=3 * KIB**3)
    assert memory.left(0.0) == int(0.8 * 4 * KIB**3)


def test_a_system_that_does_not_say_sets_no_bound(machine):
    (machine / "meminfo").unlink()
    assert memory.left(0.0) is None
    (machine / "self" / "status").unlink()
    assert memory.left(2.0) == 2 * KIB**3


def test_the_predictor_is_told_what_is_left_as_a_case_begins(machine):
    told = []
    scan = Volume(np.zeros((2, 3, 4, 1), np.int16), (1.0,) * 3, identity_affine(3), None, "scan")

    def one(volume, **options):
        told.append(options)
        return predict.Prediction(volume.data[..., 0], None)

    memory.within(one, 5.0, scan, keep_probabilities=False)
    memory.within(one, 5.0, scan, memory=7)
    assert told == [{"memory": 2 * KIB**3, "keep_probabilities": False}, {"memory": 7}]
