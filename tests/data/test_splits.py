"""Folds equal scikit-learn's, keep subjects whole, and are picked by a string."""

import numpy as np
import pytest
from sklearn.model_selection import KFold

from jaxseg.data import splits
from jaxseg.typing import UserError


@pytest.mark.parametrize("n", [5, 23, 260])
def test_nnunet_split_is_sklearns(n):
    names = np.array([f"hippocampus_{i:03d}" for i in range(n)])
    shuffled = np.random.default_rng(0).permutation(names)
    expected = KFold(5, shuffle=True, random_state=12345).split(names)
    for (train, validation), (i, j) in zip(splits.folds(shuffled.tolist()), expected, strict=True):
        assert train == tuple(names[i]) and validation == tuple(names[j])


@pytest.mark.parametrize("kind", ["nnunet", "subject", "blocks"])
def test_subjects_do_not_part(kind):
    names = [f"case{i:02d}" for i in range(20)]
    subjects = [f"patient{i % 7}" for i in range(20)]
    of = dict(zip(names, subjects))
    parts = splits.folds(names, subjects, n_folds=3, kind=kind)
    assert sorted(name for _, validation in parts for name in validation) == names
    for train, validation in parts:
        assert not {of[name] for name in train} & {of[name] for name in validation}
        assert sorted(train + validation) == names


def test_subjects_are_split_as_sklearn_splits_them():
    names, subjects = ["a1", "a2", "b1", "c1", "d1", "d2"], ["a", "a", "b", "", "d", "d"]
    unique = np.array(["a", "b", "c1", "d"])  # no subject: the case stands for itself
    expected = [set(unique[j]) for _, j in KFold(2, shuffle=True, random_state=7).split(unique)]
    found = splits.folds(names, subjects, n_folds=2, seed=7)
    of = dict(zip(names, ["a", "a", "b", "c1", "d", "d"]))
    assert [{of[name] for name in validation} for _, validation in found] == expected


def test_blocks_are_contiguous():
    names = [f"slice{i:02d}" for i in range(11)]
    parts = splits.blocks(names[::-1], n_folds=3)
    assert [validation for _, validation in parts] == [tuple(names[:4]), tuple(names[4:8]), tuple(names[8:])]


def test_select():
    parts = splits.folds(["a", "b", "c"], n_folds=3)
    assert splits.select(parts, "2") == splits.select(parts, 2) == parts[2]
    assert splits.select(parts, "none") == (("a", "b", "c"), ())
    for wrong in ("3", "-1", "first", ""):
        with pytest.raises(UserError, match=r"data\.fold"):
            splits.select(parts, wrong)


def test_folds_from_a_file(tmp_path):
    path = tmp_path / "splits_final.json"
    path.write_text('[{"train": ["c", "a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]')
    assert splits.read(str(path), ["a", "b", "c"], n_folds=2) == [(("a", "c"), ("b",)), (("b",), ("a",))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("[{", "JSON list"),
        ('{"train": [], "val": []}', "JSON list"),
        ('[{"train": ["a"], "validation": ["b"]}]', "JSON list .*'val'"),
        ('[{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]', "2 folds; set data.folds=2"),
        ('[{"train": ["a"], "val": ["hippocampus_9"]}]', "names 1 cases that are not in the data: hippocampus_9; .* a"),
        ('[{"train": ["a", "b"], "val": ["b"]}]', "same cases, such as b"),
    ],
)
def test_wrong_split_files_are_told(tmp_path, text, message):
    path = tmp_path / "splits.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        splits.read(str(path), ["a", "b"], n_folds=1)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((["a", "b"],), {}, "2 cases"),
        ((["a", "b", "c"], ["p", "p", "q"]), {"n_folds": 3}, "2 subjects"),
        ((["a", "b", "a"],), {"n_folds": 2}, "unique"),
        ((["a", "b"],), {"n_folds": 2, "kind": "random"}, "kind of split"),
        ((["a", "b"],), {"n_folds": 2, "kind": "subject"}, "subject table"),
        ((["a", "b"], ["p"]), {"n_folds": 2}, "one subject a case"),
        ((["a", "b"],), {"n_folds": 1}, "at least 2"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(UserError, match=message):
        splits.folds(*arguments, **options)
