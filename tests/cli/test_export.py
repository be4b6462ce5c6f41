"""--mode export: one file that a process without jaxseg runs, as --mode predict would have it; and what is refused."""

import ast
import functools
import hashlib
import importlib.util
import json
import pathlib
import subprocess
import sys
import zipfile

import clinic
import jax
import nibabel
import numpy as np
import pytest

from jaxseg import predict
from jaxseg.cli import buckets, build, export, inference, workdir
from jaxseg.data import preprocess
from jaxseg.data.volume import identity_affine
from jaxseg.predict import load as loader
from jaxseg.typing import UserError, Volume

UNET = '{"name": "unet", "ndim": 3, "features": (3, 4), "deep_supervision": False}'
ALONE = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from load import load
predict = load(sys.argv[2])
given = np.load(sys.argv[3])
np.save(sys.argv[4], predict(given["image"], given["spacing"], given["affine"]))
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def scan(path, *, affine, shape=(13, 24, 15), seed=3):
    """Writes a volume whose axes are neither canonical nor alike, with a margin of zeros."""
    image, _ = clinic.volume(seed, shape=shape)
    image[:2] = 0
    nibabel.save(nibabel.Nifti1Image(image, affine), path)
    return path


def turned_affine():
    """(x, y, z) indices run towards S, L and A, by 2.2, 0.8 and 1.1 mm."""
    affine = np.eye(4)
    affine[:3, :3] = [[0, -0.8, 0], [0, 0, 1.1], [2.2, 0, 0]]
    return affine


def arguments_of(folder, output=None, **more):
    given = {"inputs": (), "output": output and str(output), "labels": None, "overwrite": False, **more}
    return workdir.Arguments(config=workdir.stored_config(folder), workdir=folder, **given)


def train(root, folder, *more):
    """Trains a small U-Net that resamples, crops and averages over flips."""
    config = clinic.config_file(folder.parent / "configs")
    network = '{"name": "pixel_features", "ndim": 3, "features": (4,), "sigmas": (0.7,)}'
    assert network in clinic.CONFIG
    config.write_text(clinic.CONFIG.replace(network, UNET))
    done = clinic.launch(
        "--mode=train", f"--config={config}", f"--config.data.root={root}", "--config.data.spacing=1.4,1.2,1.1",
        "--config.predict.tta=True", f"--workdir={folder}", *more,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = clinic.msd(tmp_path_factory.mktemp("data") / "task", cases=4)
    more = ("--config.predict.batch_size=3", "--config.train.total_steps=12")
    return train(root, tmp_path_factory.mktemp("runs") / "first", *more)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The file, made in this process, with the loader beside it."""
    arguments = arguments_of(trained, tmp_path_factory.mktemp("out") / "model.jaxseg")
    arguments.config.export.shapes = arguments.config.export.image_shapes = ((20, 26, 28),)
    export.export(arguments)
    return pathlib.Path(arguments.output)


@functools.cache
def loaded(path):
    return loader.load(path)


def test_a_process_without_jaxseg_finds_the_very_same_mask(exported, tmp_path):
    image = nibabel.load(scan(tmp_path / "scan.nii.gz", affine=turned_affine()))
    affine = image.affine[:, [2, 1, 0, 3]]
    given = {"image": np.asarray(image.dataobj).T, "spacing": np.array([1.1, 0.8, 2.2]), "affine": affine}
    np.savez(tmp_path / "given.npz", **given)
    (tmp_path / "alone.py").write_text(ALONE)
    command = [tmp_path / "alone.py", exported.parent, exported, tmp_path / "given.npz", tmp_path / "mask.npy"]
    done = subprocess.run(
        [sys.executable, "-I", *map(str, command)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    assert not modules & {"jaxseg", "flax", "ml_collections", "absl", "nibabel", "jaxtyping", "optax"}
    mask = np.load(tmp_path / "mask.npy")
    own = loaded(exported)(given["image"], given["spacing"], affine)
    np.testing.assert_array_equal(mask, own)
    assert mask.dtype == np.uint8 and mask.shape == given["image"].shape and set(np.unique(mask)) > {0}


def test_the_mask_is_that_of_predict(trained, exported, tmp_path):
    path = scan(tmp_path / "scan.nii.gz", affine=turned_affine())
    done = clinic.launch("--mode=predict", f"--workdir={trained}", f"--input={path}", f"--output={tmp_path / 'masks'}")
    assert done.returncode == 0, done.stderr
    loader.main(str(exported), str(path), str(tmp_path / "alone.nii.gz"))
    ours, theirs = nibabel.load(tmp_path / "alone.nii.gz"), nibabel.load(tmp_path / "masks" / "scan.nii.gz")
    assert ours.get_data_dtype() == theirs.get_data_dtype() and ours.shape == theirs.shape
    np.testing.assert_allclose(ours.affine, theirs.affine)
    truth = np.asarray(theirs.dataobj)
    assert (np.asarray(ours.dataobj) == truth).mean() >= 0.999
    assert len(np.unique(truth)) > 1
    with pytest.raises(ValueError, match=r"alone\.nii\.gz exists already"):
        loader.main(str(exported), str(path), str(tmp_path / "alone.nii.gz"))


def agreement(printed):
    """Returns (voxels that are the same, all voxels), as the command says."""
    words = printed.split(" voxels of /")[0].split()
    return int(words[-3]), int(words[-1])


def test_the_command_checks_its_file_with_an_image(trained, exported, tmp_path):
    path = scan(tmp_path / "scan.nii.gz", affine=turned_affine())
    output = tmp_path / "model.jaxseg"
    (tmp_path / "load.py").write_text("# somebody's own\n")
    command = ("--mode=export", f"--workdir={trained}", f"--output={output}", f"--input={path}")
    small = (
        "--set=export.shapes=((20,26,28),)",
        "--set=export.image_shapes=((20,26,28),)",
        "--set=export.platforms=('cpu',)",
    )
    done = clinic.launch(*command, *small)
    assert done.returncode == 0, done.stderr
    assert "bucket 0: 20x26x28 voxels of images up to 20x26x28" in done.stdout
    same, total = agreement(done.stdout)
    assert total == 13 * 24 * 15 and same >= 0.999 * total
    assert "load.py is another file and stays" in done.stdout
    assert (tmp_path / "load.py").read_text() == "# somebody's own\n"
    before = output.read_bytes()
    again = clinic.launch(*command, *small)
    assert again.returncode == 2 and "model.jaxseg exists already" in again.stderr and "Traceback" not in again.stderr
    assert output.read_bytes() == before and sorted(file.name for file in tmp_path.iterdir()) == [
        "load.py", "model.jaxseg", "scan.nii.gz"
    ]  # fmt: skip


@pytest.mark.realdata
def test_a_hippocampus_gets_the_mask_of_predict(data_root, tmp_path):
    root = data_root / "msd_hippocampus"
    more = ("--config.data.patch_size=(24,32,24)", "--config.optim.lr=0.01", "--config.train.total_steps=60")
    folder = train(root, tmp_path / "run", *more, "--config.train.eval_cases=1")
    scan = sorted((root / "imagesTr").glob("*.nii.gz"))[0]
    done = clinic.launch(
        "--mode=export", f"--workdir={folder}", f"--output={tmp_path / 'model.jaxseg'}", f"--input={scan}"
    )
    assert done.returncode == 0, done.stderr
    same, total = agreement(done.stdout)
    assert total == np.prod(nibabel.load(scan).shape) and same >= 0.999 * total


def test_the_manifest_says_what_a_user_must_know(trained, exported):
    with zipfile.ZipFile(exported) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    about = json.loads(parts["manifest.json"])
    assert about["classes"] == ["background", "shell", "core"] and about["values"] == [0, 1, 2]
    assert about["channels"] == ["MRI"] and about["normalize"] == ["zscore"] and about["spacing"] == [1.4, 1.2, 1.1]
    assert about["platforms"] == ["cpu", "cuda", "tpu"] and about["trained"]["step"] in range(4, 13)
    for name, digest in about["sha256"].items():
        assert hashlib.sha256(parts[name]).hexdigest() == digest
    assert set(parts) == {*about["sha256"], "manifest.json", "load.py"}
    assert str(trained) not in parts["manifest.json"].decode()
    for name in about["sha256"]:
        if name.endswith(".bin"):
            found = jax.export.deserialize(bytearray(parts[name]))
            assert found.platforms == ("cpu", "cuda", "tpu")


def test_an_image_larger_than_every_bucket_is_told_what_to_do(exported):
    with pytest.raises(
        ValueError, match=r"export again with --set 'export.shapes=\(\(214, 20, 20\),\)' --set 'export.ima"
    ):
        loaded(exported)(np.ones((100, 20, 20)), (3.0, 1.2, 1.1))


def test_other_channels_axes_and_numbers_are_refused(exported):
    predict = loaded(exported)
    with pytest.raises(ValueError, match="Give 3 axes and the channels MRI last, not"):
        predict(np.ones((8, 9, 10, 2)), (1, 1, 1))
    with pytest.raises(ValueError, match="Give 3 axes"):
        predict(np.ones((8, 9)), (1, 1))
    with pytest.raises(ValueError, match="finite numbers and have positive spacings"):
        predict(np.ones((8, 9, 10)), (1, 0, 1))
    with pytest.raises(ValueError, match="finite numbers"):
        predict(np.full((8, 9, 10), np.nan), (1, 1, 1))


def test_damaged_and_too_new_files_are_refused(exported, tmp_path):
    with zipfile.ZipFile(exported) as file:
        parts = {name: file.read(name) for name in file.namelist()}

    def changed(**more):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jaxseg"
        export.write(path, {**parts, **more}, False)
        return path

    with pytest.raises(ValueError, match=r"is damaged: weights/0\.npz is not what was exported"):
        loader.load(changed(**{"weights/0.npz": b"other"}))
    about = {**json.loads(parts["manifest.json"]), "calling_convention": 10**6}
    with pytest.raises(ValueError, match=r"needs jax .* or newer, got .*; update jax"):
        loader.load(changed(**{"manifest.json": json.dumps(about).encode()}))


def test_networks_of_one_kind_are_averaged(trained, tmp_path):
    one = export.load(arguments_of(trained))
    one.config.export.shapes = one.config.export.image_shapes = ((12, 20, 20),)
    one.config.export.platforms = ("cpu",)
    (own,) = one.networks
    networks = own, jax.tree.map(lambda leaf: -leaf, own)
    affine = identity_affine(3) @ np.diag([1.4, 1.2, 1.1, 1.0])
    scan = Volume(clinic.volume(5, shape=(11, 19, 17))[0][..., None], (1.4, 1.2, 1.1), affine, None, "")
    parts, about = export.contents(one._replace(networks=networks), trained)
    path = tmp_path / "two.jaxseg"
    export.write(path, {"manifest.json": json.dumps(about).encode(), **parts, "load.py": b""}, False)
    found = loader.load(path)(scan.data, scan.spacing, scan.affine)
    apply = jax.jit(build.task(one.config, one.known).predict)
    expected = predict.predict_case(
        predict.average([build.device_predict(apply, network) for network in networks]),
        scan,
        preprocess.settings_from_json(one.record["settings"]),
        num_classes=3,
        **build.predict_options(one.config),
    ).labels
    assert (found == expected).mean() >= 0.999
    assert (expected != one.predict(scan).labels).any()


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("ensemble.kind", "seeds", "it is an ensemble; export its members"),
        ("task", "instance", "tells objects apart"),
        ("predict.watershed", "watershed(inside=1,border=2)", "without predict.watershed"),
        ("task", "super_resolution", "it makes images"),
        ("task", "refinement", "acts step by step"),
        ("data.previous", "runs/low", "follows an earlier run"),
        ("predict.postprocess", "keep_largest", "add --set predict.postprocess=''"),
    ],
)
def test_runs_that_are_more_than_one_network_are_refused(field, value, words):
    from jaxseg import config as configs

    config = configs.base_config()
    *group, name = field.split(".")
    (config[group[0]] if group else config)[name] = value
    with pytest.raises(UserError, match="runs/x cannot be exported as it is") as told:
        export.check(config, pathlib.Path("runs/x"))
    assert words in str(told.value)


@pytest.mark.parametrize(
    "setting, words",
    [
        ("export.format=torch", "export.format must be jax or onnx, got 'torch'"),
        ("export.platforms=('metal',)", "export.platforms must name some of cpu, cuda, rocm, tpu"),
        ("export.shapes=(64,64,64)", "export.shapes must be a tuple of shapes"),
        ("export.image_shapes=((8,8,8),)", "export.image_shapes must be as many as export.shapes"),
        ("export.shapes=((8,8),)", "must have 3 axes"),
    ],
)
def test_wrong_options_are_one_sentence(trained, tmp_path, setting, words):
    done = clinic.launch("--mode=export", f"--workdir={trained}", f"--output={tmp_path / 'm'}", f"--set={setting}")
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_buckets_follow_the_training_cases(trained):
    one = export.load(arguments_of(trained))
    made = buckets.choose(one, trained)
    cases = [case.record for case in buckets.store.open(one.record["store"])]
    largest = np.max([case["new_shape"] for case in cases], axis=0)
    assert all(size % 8 == 0 and size >= 1.25 * most for size, most in zip(made[-1].grid, largest))
    assert [np.prod(room.grid) for room in made] == sorted(np.prod(room.grid) for room in made)
    one.record["store"] = "/nowhere"
    with pytest.raises(UserError, match=r"say how large images are, but .*; give sizes"):
        buckets.choose(one, pathlib.Path("/nowhere"))
    one.config.export.shapes = ((4, 50, 20), (20, 20, 21))
    one.config.export.image_shapes = ((5, 60, 20), (20, 20, 20))
    made = buckets.choose(one, pathlib.Path("/nowhere"))
    assert made == [((5, 60, 20), (8, 50, 20)), ((20, 20, 20), (20, 20, 21))]  # the window is 8x8x8


def test_the_loader_is_short_and_needs_jax_and_numpy_only():
    text = pathlib.Path(loader.__file__).read_text()
    assert len(text.splitlines()) <= 100
    names = {alias.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for alias in node.names}
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == {"jax", "numpy"}


def test_onnx_without_its_packages_says_what_to_install(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    arguments = arguments_of(trained, tmp_path / "model.onnx")
    arguments.config.export.format = "onnx"
    with pytest.raises(UserError, match=r"needs jax2onnx; pip install -r requirements-onnx\.txt"):
        export.export(arguments)


@pytest.mark.onnx
@pytest.mark.skipif(not importlib.util.find_spec("jax2onnx"), reason="jax2onnx is not installed")
def test_onnxruntime_gives_the_networks_numbers(trained, tmp_path, capsys):
    import onnxruntime

    arguments = arguments_of(trained, tmp_path / "model.onnx")
    arguments.config.export.format = "onnx"
    export.export(arguments)
    assert "3x8x8x8x1 to 3x8x8x8x3; onnxruntime differs from JAX by" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    about = json.loads(session.get_modelmeta().custom_metadata_map["jaxseg"])
    assert about["classes"] == ["background", "shell", "core"]
    image = np.random.default_rng(4).normal(size=(3, 8, 8, 8, 1)).astype(np.float32)
    one = inference.load(trained, workdir.stored_config(trained))
    expected = jax.jit(build.task(one.config, one.known).predict)(one.networks[0], image)
    np.testing.assert_allclose(session.run(None, {"image": image})[0], expected, atol=1e-4)
