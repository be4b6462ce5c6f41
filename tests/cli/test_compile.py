"""--mode compile: the real steps for machines that are not here."""

import importlib.util
import json

import clinic
import pytest
from devices import several

FLAGS = ("--mode=compile", "--config=configs/unet3d.py:debug", "--config.data.name=msd", "--config.data.batch_size=4")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return clinic.msd(tmp_path_factory.mktemp("clinic") / "task")


def compiled(root, folder, target, *flags, **options):
    """The summary file and what was printed."""
    size = "--config.data.patch_size=(16,16,16)"
    flags = (*FLAGS, size, f"--config.data.root={root}", f"--workdir={folder}", f"--target={target}", *flags)
    done = clinic.launch(*flags, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "compile" / f"{target.replace(':', '_')}.json").read_text()), done.stdout


@pytest.mark.parametrize("kind", ["pmap", "mesh"])
def test_devices_of_this_machine(root, tmp_path, kind):
    flags = ("--config.augment=mirror", "--config.model.features=(2,4)", f"--config.parallel.kind={kind}")
    found, printed = compiled(root, tmp_path, "cpu", *flags, **several(2), fresh=kind == "pmap")
    assert found["devices"] == 2 and "train    cpu        2 devices: " in printed
    assert found["train"]["flops"] > 3 * found["predict"]["flops"] > 0
    assert found["train"]["collectives"]["all-reduce"]["bytes"] > 0 and not found["predict"]["collectives"]


@pytest.mark.tpucompiler
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_tpu_topology(root, tmp_path):
    whole = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}  # what the compiler makes of the step is what is measured
    found, printed = compiled(root, tmp_path, "v5e:2x2", "--config.augment=mirror", **whole, fresh=True)
    assert found["devices"] == 4 and found["memory"] == 16 * 2**30
    assert "of 16 GiB, fits" in printed and "all-reduce" in found["train"]["collectives"]
    own = found["train"]
    assert own["peak"] == own["arguments"] + own["outputs"] - own["aliased"] + own["temporaries"] + own["code"]
    assert own["aliased"] > 0  # the state is donated
    split = ("--config.parallel.kind=mesh", "--config.parallel.spatial=2", "--config.augment=mirror")
    shared, _ = compiled(root, tmp_path / "shared", "v5e:2x2", *split, **whole, fresh=True)
    assert shared["train"]["collectives"]["collective-permute"]["messages"] > 0  # halos of the convolutions


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--mode compile needs --target"),
        (("--target=tpu",), "--target should be cpu or a TPU topology"),
        (("--target=cpu", "--config.data.patch_size=(0,8,8)"), "data.patch_size (0, 8, 8) is open; give it"),
        (("--target=cpu", "--config.data.batch_size=3"), "data.batch_size = 3 must be a multiple of the 2 devices"),
    ],
)
def test_refuses(root, tmp_path, flags, message):
    done = clinic.launch(*FLAGS, f"--config.data.root={root}", f"--workdir={tmp_path}", *flags, **several(2))
    assert done.returncode == 2 and message in done.stderr, done.stderr
