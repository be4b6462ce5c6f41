"""Addresses in place of paths: file:// goes the road of a bucket on this disk; gs:// meets a bucket in memory."""

import json
from typing import ClassVar

import clinic
import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from jaxseg import evaluate, metrics, paths
from jaxseg.data import datasets, store
from jaxseg.data.preprocess import Settings
from jaxseg.train import checkpoint, logging

SETTINGS = Settings(spacing=None, normalize=("zscore",))


class Bucket(MemoryFileSystem):
    """What fsspec knows of gs:// in these tests; like an object store it has no folders to rename."""

    protocol = ("gs", "gcs")
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs://").removeprefix("gcs://"))

    def mv(self, *args, **options):
        raise AssertionError("nothing should be renamed in a bucket")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """gs://bucket, whose TensorStore arrays lie in a folder of this disk."""
    fsspec.register_implementation("gcs", Bucket, clobber=True)
    place = paths.kvstore

    def kvstore(address):
        found = place(address)
        return found if found["driver"] == "file" else {"driver": "file", "path": str(tmp_path / found["path"])}

    monkeypatch.setattr(paths, "kvstore", kvstore)
    yield "gs://bucket/run"
    Bucket.store.clear()


def address(kind, tmp_path, request):
    return request.getfixturevalue("bucket") if kind == "gs" else f"file://{tmp_path}/run"


def test_what_an_address_is(tmp_path):
    assert paths.path("a/b") == paths.path(paths.path("a/b")) and not paths.is_remote(paths.path("a/b"))
    remote = paths.path("gs://bucket/a") / "b"
    assert isinstance(remote, epath.Path) and paths.is_remote(remote) and str(remote) == "gs://bucket/a/b"
    assert paths.absolute(remote) == remote and paths.absolute("a").is_absolute()
    assert paths.kvstore(remote) == {"driver": "gcs", "bucket": "bucket", "path": "a/b"}
    assert paths.kvstore(tmp_path) == {"driver": "file", "path": str(tmp_path)}
    assert paths.kvstore_url(remote) == "gs://bucket/a/b/" and paths.kvstore_url(tmp_path) == f"file://{tmp_path}/"


@pytest.mark.parametrize("kind", ["file", "gs"])
def test_prepared_cases(tmp_path, request, kind):
    raw = clinic.msd(tmp_path / "task", cases=2)
    root = f"file://{raw}"
    folder = f"{address(kind, tmp_path, request)}/prepared"
    if kind == "gs":
        root = "gs://bucket/task"
        paths.upload(raw, paths.path(root))
    local, remote = (datasets.load("msd", root=place) for place in (str(raw), root))
    assert local.digest(local.cases[0]) == remote.digest(remote.cases[0])
    assert remote.load(remote.cases[0]).image.path == remote.cases[0].images[0]
    store.prepare(local, tmp_path / "plain", SETTINGS)
    assert store.prepare(remote, folder, SETTINGS).written == ("case_00", "case_01")
    assert store.prepare(remote, folder, SETTINGS).skipped == ("case_00", "case_01")
    for found, expected in zip(store.open(folder), store.open(tmp_path / "plain"), strict=True):
        for left, right in zip(*(store.read_patch(case, (0, 0, 0), case.shape) for case in (found, expected))):
            np.testing.assert_array_equal(left, right)
        assert found.foreground.keys() == expected.foreground.keys()
    other = SETTINGS._replace(normalize=("unit",))
    assert store.prepare(remote, folder, other).written == ("case_00", "case_01")  # stale cases are written again


@pytest.mark.parametrize("kind", ["file", "gs"])
def test_log_and_tables(tmp_path, request, kind):
    workdir = paths.path(address(kind, tmp_path, request))
    workdir.mkdir(parents=True, exist_ok=True)
    for step in (1, 2):
        with logging.writer(workdir) as write:
            write(step, {"train/loss": 0.5})
    assert [row["step"] for row in logging.read(workdir / logging.METRICS)] == [1, 2]
    logging.truncate(workdir / logging.METRICS, step=1)
    assert [json.loads(line)["step"] for line in (workdir / logging.METRICS).read_text().splitlines()] == [1]
    assert any(path.name.startswith("events") for path in (workdir / "tensorboard").iterdir())
    rows = [{"case": "007", "class": "ä", "dice": 0.5}]
    summary = metrics.aggregate(rows)
    evaluate.write(workdir, rows, summary)
    assert evaluate.read_cases(workdir / "evaluation" / "cases.csv") == rows
    assert evaluate.read_summary(workdir / "evaluation" / "summary.json").keys() == summary.keys()
    assert evaluate.write_report(workdir).exists()


def test_checkpoints(tmp_path):
    _, state = toys.make()
    checkpoints = checkpoint.Checkpoints(f"file://{tmp_path}/run")
    checkpoints.save(state._replace(step=jnp.int32(3)), {"batch_size": 4})
    checkpoints.close()
    again = checkpoint.Checkpoints(paths.path(f"file://{tmp_path}/run"))
    restored = again.restore(state, step=again.pick("latest"))
    again.close()
    assert restored.step == 3 and restored.metadata == {"batch_size": 4}
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (restored.state.params, state.params))))
