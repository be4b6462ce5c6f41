"""The prepared store: what is written is what is read, cases are whole or absent, and nothing is done twice."""

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from jaxseg.data import arrays, loader, preprocess, store
from jaxseg.data.preprocess import Settings
from jaxseg.data.volume import identity_affine
from jaxseg.typing import IGNORE, Case, DataSet, Sample, UserError, Volume

SETTINGS = Settings(spacing=(1.0, 1.0, 2.0), normalize=("zscore", "none"))


def dataset(n=3, *, shape=(9, 8, 14), on_load=None, digest=lambda case: case.name, names=None):
    names = names or [f"case{i}" for i in range(n)]

    def load(case):
        if on_load is not None:
            on_load(case)
        rng = np.random.default_rng(sum(map(ord, case.name)))
        image = Volume(rng.normal(size=(*shape, 2)), (1.0,) * len(shape), identity_affine(len(shape)), path=case.name)
        label = rng.integers(-1, 3, size=shape).astype(np.int16)
        return Sample(image, image._replace(data=label))

    cases = tuple(Case(name, (f"{name}.nii",), f"{name}_label.nii", subject=name[:4]) for name in names)
    return DataSet(cases, ("T1", "T2"), ("background", "a", "b"), (0, 1, 2), (), None, load, digest)


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_written_is_what_preprocessing_gives(tmp_path):
    data = dataset()
    seen = []
    summary = store.prepare(data, tmp_path / "deep" / "prepared", SETTINGS, progress=lambda *args: seen.append(args))
    assert summary == (("case0", "case1", "case2"), ())
    assert [row[:2] for row in seen] == [(1, 3), (2, 3), (3, 3)] and {row[2] for row in seen} == set(summary.written)
    assert store.stored_settings(tmp_path / "deep" / "prepared") == SETTINGS
    for case, stored in zip(data.cases, store.open(tmp_path / "deep" / "prepared"), strict=True):
        sample = data.load(case)
        image, record = preprocess.forward(sample.image, SETTINGS)
        label = preprocess.forward_label(sample.label, record, SETTINGS)
        np.testing.assert_array_equal(stored.image.read().result(), image)
        np.testing.assert_array_equal(stored.label.read().result(), label)
        assert (stored.name, stored.subject, stored.shape, stored.channels) == (case.name, "case", (9, 8, 7), 2)
        assert stored.spacing == (1.0, 1.0, 2.0) and stored.record == record
        assert stored.image.dtype.name == "float32" and stored.label.dtype.name == "int16"
        assert stored.counts == {value: (label == value).sum() for value in (IGNORE, 0, 1, 2)}
        for value in (1, 2):
            voxels = stored.foreground[value]
            assert (label[tuple(voxels.T)] == value).all() and len(np.unique(voxels, axis=0)) == (label == value).sum()
        assert sorted(stored.foreground) == [1, 2] and stored.foreground[1].dtype == np.int32


def test_foreground_takes_many_voxels_and_is_reproducible():
    label = np.zeros((1100, 1100), np.int16)
    label[:1050] = 1  # 1,155,000 voxels: 1 % is more than 10,000
    label[1050:1070] = 2  # 22,000
    label[1080, :5] = 3
    label[1090:] = IGNORE
    found = store.sample_foreground(label, "name")
    assert {key: len(value) for key, value in found.items()} == {1: 11_550, 2: 10_000, 3: 5}
    np.testing.assert_array_equal(found[2], store.sample_foreground(label, "name")[2])
    assert (found[2] != store.sample_foreground(label, "another")[2]).any()
    assert abs(found[1][:, 0].mean() - 525) < 15 and found[1][:, 0].max() > 1040


def test_second_prepare_reads_and_writes_nothing(tmp_path):
    store.prepare(dataset(), tmp_path, SETTINGS)
    before = stamps(tmp_path)

    def fail(case):
        raise AssertionError(f"{case.name} is read again")

    summary = store.prepare(dataset(on_load=fail), tmp_path, SETTINGS)
    assert summary == ((), ("case0", "case1", "case2"))
    after = stamps(tmp_path)
    assert {path for path in after if after[path] != before[path]} == {tmp_path / "index.json"}


def test_changed_input_or_settings_are_written_anew(tmp_path):
    store.prepare(dataset(), tmp_path, SETTINGS)
    changed = dataset(digest=lambda case: case.name + ("x" if case.name == "case1" else ""))
    assert store.prepare(changed, tmp_path, SETTINGS) == (("case1",), ("case0", "case2"))
    other = SETTINGS._replace(spacing=None)
    assert len(store.prepare(changed, tmp_path, other).written) == 3
    assert store.open(tmp_path)[0].shape == (9, 8, 14) and not hidden(tmp_path)
    np.testing.assert_array_equal(
        store.open(tmp_path)[0].image.read().result(),
        preprocess.forward(changed.load(changed.cases[0]).image, other)[0],
    )
    relabelled = changed._replace(label_values=(0, 2, 1))
    assert len(store.prepare(relabelled, tmp_path, other).written) == 3


def test_cases_gone_from_the_data_set_are_not_listed(tmp_path):
    store.prepare(dataset(3), tmp_path, SETTINGS)
    assert store.prepare(dataset(2), tmp_path, SETTINGS).written == ()
    assert [case.name for case in store.open(tmp_path)] == ["case0", "case1"] and (tmp_path / "case2").is_dir()
    assert store.prepare(dataset(3), tmp_path, SETTINGS).written == ()


def test_fault_in_the_middle_leaves_whole_cases_and_resumes(tmp_path):
    def fault(case):
        if case.name == "case3":
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        store.prepare(dataset(6, on_load=fault), tmp_path, SETTINGS, processes=1)
    with pytest.raises(UserError, match="prepare"):
        store.open(tmp_path)
    summary = store.prepare(dataset(6), tmp_path, SETTINGS)
    assert set(summary.skipped) >= {"case0", "case1", "case2"} and "case3" in summary.written
    assert len(store.open(tmp_path)) == 6


def test_fault_while_writing_is_never_used(tmp_path, monkeypatch):
    write = arrays.write

    def cut(path, array, *, channels):
        if path.name == "label" and "case1" in str(path):
            raise RuntimeError("cut")
        write(path, array, channels=channels)

    monkeypatch.setattr(arrays, "write", cut)
    with pytest.raises(RuntimeError, match="cut"):
        store.prepare(dataset(), tmp_path, SETTINGS)
    assert not (tmp_path / "case1").exists() and not hidden(tmp_path)


def test_kill_9_in_the_middle(tmp_path):
    """A process is killed while a case is half written; the next run finishes and gives the bytes of an uncut one."""
    script = textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import test_store
        from jaxseg.data import arrays, store
        write = arrays.write
        def slow(path, array, *, channels):
            write(path, array, channels=channels)
            if path.name == "image" and "case2" in str(path):
                print("half written", flush=True)
                time.sleep(60)
        arrays.write = slow
        store.prepare(test_store.dataset(4), sys.argv[1], test_store.SETTINGS, processes=1)
    """)
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, "-c", script, str(cut)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "half written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert sorted(path.name for path in cut.iterdir() if path.name[0] != ".") == ["case0", "case1"]
    assert any(name.startswith(".partial-case2") for name in hidden(cut))
    assert store.prepare(dataset(4), cut, SETTINGS) == (("case2", "case3"), ("case0", "case1"))
    assert not hidden(cut)
    store.prepare(dataset(4), whole, SETTINGS)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(cut) for path in cut.rglob("*") if path.is_file())
    for file in files:
        if file.suffix != ".npz":  # zip archives carry the time
            assert (cut / file).read_bytes() == (whole / file).read_bytes(), file


def test_all_bad_cases_are_listed_together(tmp_path):
    def damaged(case):
        if case.name in ("case0", "case2"):
            raise UserError(f"{case.name}.nii is damaged; export it again.")

    data = dataset(4, on_load=damaged)
    unlabelled = data._replace(
        load=lambda case: data.load(case)._replace(label=None) if case.name == "case3" else data.load(case)
    )
    with pytest.raises(UserError) as caught:
        store.prepare(unlabelled, tmp_path, SETTINGS)
    message = str(caught.value)
    assert message.startswith("3 of 4 cases")
    assert all(part in message for part in ("case0.nii is damaged", "case2.nii is damaged", "case3.nii has no label"))
    assert (tmp_path / "case1").is_dir() and not (tmp_path / "index.json").exists()


def without_labels(data, *names):
    return data._replace(
        load=lambda case: data.load(case)._replace(label=None) if case.name in names else data.load(case)
    )


def test_optional_labels_are_zero_where_there_are_none(tmp_path):
    data = dataset(2, shape=(9, 8, 14))
    summary = store.prepare(without_labels(data, "case1"), tmp_path / "some", SETTINGS, labels="optional")
    assert summary.written == ("case0", "case1")
    store.prepare(data, tmp_path / "all", SETTINGS)
    (first, second), (same, other) = store.open(tmp_path / "some"), store.open(tmp_path / "all")
    np.testing.assert_array_equal(first.label.read().result(), same.label.read().result())
    np.testing.assert_array_equal(second.image.read().result(), other.image.read().result())
    assert second.shape == (9, 8, 7) and second.counts == {0: 9 * 8 * 7} and second.foreground == {}
    label = second.label.read().result()
    assert label.dtype == np.int16 and label.shape == second.shape and not label.any()
    batch = next(iter(loader.batches([second], ndim=3, patch_size=(4, 5, 6), batch_size=3, seed=0, foreground=1.0)))
    assert batch["image"].shape == (3, 4, 5, 6, 2) and batch["image"].std() > 0.5 and not batch["label"].any()


def test_what_was_prepared_without_labels_is_no_labelled_set(tmp_path):
    data = without_labels(dataset(2), "case1")
    store.prepare(data, tmp_path, SETTINGS, labels="optional")
    assert store.prepare(data, tmp_path, SETTINGS, labels="optional").written == ()
    with pytest.raises(UserError, match=r"1 of 2 cases.*\n.*case1\.nii has no label"):
        store.prepare(data, tmp_path, SETTINGS)
    assert store.prepare(dataset(2), tmp_path, SETTINGS).written == ("case1",)
    assert store.open(tmp_path)[1].label.read().result().max() == 2
    assert store.prepare(data, tmp_path, SETTINGS, labels="optional").written == ()  # a label does no harm


def test_what_earlier_versions_have_prepared_stays_good(tmp_path):
    store.prepare(dataset(1), tmp_path, SETTINGS)
    meta = json.loads((tmp_path / "case0" / "meta.json").read_text())
    assert meta["digest"] == "b8114c9a2fb96ea19754a5ecbdc09a73aa16cab2ada4836bb30c6e0c35487d46"
    assert set(meta) == {"name", "subject", "shape", "spacing", "channels", "record", "counts", "digest"}


def test_bad_folders_and_names(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        store.prepare(dataset(), tmp_path / "file", SETTINGS)
    with pytest.raises(UserError, match="unique"):
        store.prepare(dataset(names=["a", "b", "a"]), tmp_path / "x", SETTINGS)
    for folder in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(UserError, match="prepare"):
            store.open(folder)
        with pytest.raises(UserError, match="prepare"):
            store.stored_settings(folder)
    names = ["../up", "site/case 1", ".hidden", "ünïcode", "50%"]
    store.prepare(dataset(names=names), tmp_path / "odd", SETTINGS)
    assert [case.name for case in store.open(tmp_path / "odd")] == sorted(names)
    assert len([path for path in (tmp_path / "odd").iterdir() if path.is_dir()]) == 5 and not hidden(tmp_path / "odd")


def test_a_lost_case_and_another_version_say_so(tmp_path):
    store.prepare(dataset(), tmp_path, SETTINGS)
    (tmp_path / "case1" / "meta.json").write_text('{"name": "ca')
    with pytest.raises(UserError, match="case1"):
        store.open(tmp_path)
    assert store.prepare(dataset(), tmp_path, SETTINGS).written == ("case1",)
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**index, "version": 0}))
    with pytest.raises(UserError, match="version"):
        store.open(tmp_path)


@pytest.mark.parametrize("start", [(0, 0, 0), (3, 2, 4), (-4, -2, 12), (7, 6, -3), (-30, 0, 0), (9, 0, 0)])
def test_patches_equal_slices_of_the_padded_volume(tmp_path, start):
    store.prepare(dataset(1), tmp_path, SETTINGS._replace(spacing=None))
    (case,) = store.open(tmp_path)
    size = (5, 9, 6)
    image, label = store.read_patch(case, start, size)
    place = tuple(slice(a + 40, a + 40 + n) for a, n in zip(start, size))
    padded = np.pad(case.image.read().result(), [(40, 40)] * 3 + [(0, 0)]), np.pad(case.label.read().result(), 40)
    np.testing.assert_array_equal(image, padded[0][place])
    np.testing.assert_array_equal(label, padded[1][place])
    assert image.dtype == np.float32 and label.dtype == np.int32


def test_only_touched_chunks_are_read(tmp_path):
    data = dataset(1, shape=(70, 40, 130))
    store.prepare(data, tmp_path, SETTINGS._replace(spacing=None))
    (case,) = store.open(tmp_path)
    chunk = case.image.chunk_layout.read_chunk.shape
    assert chunk == (24, 40, 44, 2)  # 70 in three, 130 in three: no slivers
    chunks = [path for path in (tmp_path / "case0" / "image" / "c").rglob("*") if path.is_file()]
    assert len(chunks) == 9
    for path in chunks:
        if path.parts[-4:] not in [("0", "0", "0", "0"), ("0", "0", "1", "0")]:
            path.write_bytes(b"broken")
    image, _ = store.read_patch(case, (2, 3, 30), (20, 30, 40))
    expected, _ = preprocess.forward(data.load(data.cases[0]).image, SETTINGS._replace(spacing=None))
    np.testing.assert_array_equal(image, expected[2:22, 3:33, 30:70])
    with pytest.raises(ValueError):
        store.read_patch(case, (2, 3, 60), (20, 30, 40))


def test_stored_case_travels_to_another_process(tmp_path):
    store.prepare(dataset(1), tmp_path, SETTINGS)
    (case,) = store.open(tmp_path)
    whole = case.image.read().result()
    copy = pickle.loads(pickle.dumps(case))
    assert copy == case and "image" not in vars(copy)
    np.testing.assert_array_equal(copy.image.read().result(), whole)


def test_two_dimensional_cases(tmp_path):
    data = dataset(2, shape=(20, 31))
    store.prepare(data, tmp_path, Settings(normalize=("rgb", "unit")))
    case = store.open(tmp_path)[1]
    image, label = store.read_patch(case, (-2, 25), (10, 12))
    assert image.shape == (10, 12, 2) and label.shape == (10, 12) and not image[:2].any() and not image[:, 6:].any()
    np.testing.assert_array_equal(label[2:, :6], data.load(data.cases[1]).label.data[:8, 25:])
