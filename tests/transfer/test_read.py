"""Files of weights: PyTorch's own files read without it, hostile pickles that stay dead, broken files as sentences."""

import json
import os
import pathlib
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from torch_files import Call, as_dict, as_pickle, body, name, tensor, write_safetensors, write_zip

from jaxseg.transfer import torch_pickle
from jaxseg.transfer.read import MAGIC, PROTOCOL, read_checkpoint, read_weights
from jaxseg.typing import UserError

FLOATS = np.arange(6, dtype="<f4").tobytes()


def write_legacy(path: pathlib.Path, pickled: bytes, *, keys=("0",), storages: bytes = b"") -> pathlib.Path:
    head = [pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, {"little_endian": True})]
    path.write_bytes(b"".join([*head, pickled, pickle.dumps(list(keys), 2), storages]))
    return path


def refused(path: pathlib.Path, words: str) -> str:
    with pytest.raises(UserError, match=words) as caught:
        read_weights(path)
    sentence = str(caught.value)
    assert str(path) in sentence and "\n" not in sentence and len(sentence) < 700
    return sentence


@pytest.mark.parametrize("file", ["torch_zip.pth", "torch_legacy.pth"])
def test_reads_what_pytorch_wrote(file, golden):
    expected, weights = np.load(golden / "torch_weights.npz"), read_weights(golden / file)
    assert list(weights) == expected.files  # in the order of the network, `scale` and the optimiser left out
    for key, array in weights.items():
        assert array.dtype == expected[key].dtype and array.shape == expected[key].shape, key
        np.testing.assert_array_equal(array, expected[key], err_msg=key)
    # Truths that need no reference.
    np.testing.assert_array_equal(weights["part"], [[0.5, 0.625, 0.75], [0.875, 1, 1.125]])
    np.testing.assert_array_equal(weights["every_third"], [0.125, 0.5, 0.875, 1.25])
    assert weights["transposed"][3, 1, 2] == 1 * 12 + 2 * 4 + 3
    np.testing.assert_array_equal(weights["bfloat16"], np.array([1, -3.140625, 2.0**100], np.float32))
    assert weights["norm.num_batches_tracked"] == 7 and weights["norm.num_batches_tracked"].shape == ()
    assert np.shares_memory(weights["whole"], weights["part"])


@pytest.mark.parametrize("file", ["torch_zip.pth", "torch_legacy.pth"])
def test_content_decides_not_the_name(file, golden, tmp_path):
    renamed = tmp_path / "weights.npz"
    renamed.write_bytes((golden / file).read_bytes())
    assert read_weights(str(renamed))["int64"].tolist() == [-(2**40), 3]


def test_storages_of_another_byte_order(tmp_path):
    pickled = as_pickle(
        as_dict(a=tensor(), b=tensor(storage="ComplexFloatStorage", key="1", count=1, shape=(), strides=()))
    )
    numbers = {"_0": np.arange(6, dtype=">f4").tobytes(), "_1": np.array(2 - 3j, ">c8").tobytes()}
    weights = read_weights(write_zip(tmp_path / "a.pth", pickled, byteorder=b"big", **numbers))
    assert weights["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and weights["b"] == 2 - 3j


def test_views_of_old_storages(tmp_path):
    pickled = as_pickle(as_dict(a=tensor(view=[("view", 2, 4)], shape=(2, 2), strides=(1, 2))))
    path = write_legacy(tmp_path / "a.th", pickled, storages=struct.pack("<q", 6) + FLOATS)
    assert read_weights(path)["a"].tolist() == [[2, 4], [3, 5]]
    write_legacy(path, pickled.replace(b"K\x02K\x04\x87", b"J\xfe\xff\xff\xffK\x04\x87"))  # the view's start: -2
    refused(path, "described in an unknown way")


def test_plain_pickles_of_numpy_arrays(tmp_path):
    path = tmp_path / "model.bin"
    arrays = {"a": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "b": np.array([1, -2], ">i2"), "c": np.array(True)}
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps({"model": {**arrays, "names": np.array(["x"])}, "best": np.float32(1)}, protocol))
        weights = read_weights(path)
        assert list(weights) == ["a", "b", "c"] and weights["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert weights["b"].tolist() == [1, -2] and weights["b"].dtype == np.int16 and weights["c"].dtype == bool
    no_function = as_pickle(as_dict(a=body(np.zeros(1))).replace(b"c_codecs\nencode\n", b"cnumpy\nndarray\n"))
    path.write_bytes(no_function)
    refused(path, "damaged")


@pytest.mark.parametrize(
    "container", ["state_dict", "model_state_dict", "model_state", "network_weights", "model", "net", "params"]
)
def test_containers_are_opened(container, tmp_path):
    path, inner = tmp_path / "a.pth", {"module._orig_mod.x": np.ones(2), "module._orig_mod.y": np.zeros(())}
    path.write_bytes(pickle.dumps({"epoch": 3, container: inner, "optimizer": {"x": np.ones(5)}}, 2))
    assert {key: array.shape for key, array in read_weights(path).items()} == {"x": (2,), "y": ()}
    path.write_bytes(pickle.dumps({"model": {container: inner | {"z": np.ones(1)}}}, 2))  # no common prefix any more
    assert list(read_weights(path)) == [*inner, "z"]


def test_plain_values_lie_beside_the_weights(tmp_path):
    about = {"epoch": 3, "axes": (0, 1), "deep": {"deep": {"deep": {"deep": 1}}}, "nothing": None}
    weights = as_dict(weight=tensor())
    path = write_zip(tmp_path / "a.pth", as_pickle(as_dict(network_weights=weights, about=body(about))), _0=FLOATS)
    arrays, beside = read_checkpoint(path)
    np.testing.assert_array_equal(arrays["weight"], np.arange(6.0).reshape(2, 3))
    expected = {**about, "deep": {"deep": {"deep": None}}}
    assert beside == {"network_weights": {"weight": None}, "about": expected}


def test_what_is_no_dict_of_arrays_is_refused(tmp_path):
    path, itself = tmp_path / "a.pth", {}
    itself["state_dict"] = itself
    for content, words in [
        (itself, "a dict with state_dict"),
        ({}, "a dict with nothing in it"),
        ({f"name{n}": n for n in range(9)}, "name0, .*name5 and 3 more"),
        ([np.ones(2)], "one list"),
        (np.ones(2), "one NumpyArray"),
        ({"generator": {"x": np.ones(2)}}, "a dict with generator"),
    ]:
        path.write_bytes(pickle.dumps(content, 2))
        assert "model.state_dict()" in refused(path, words)


@pytest.mark.parametrize("wrap", ["plain", "zip", "legacy", "inside"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["posix.system", "builtins.eval", "builtins.exec"])
def test_hostile_pickles_stay_dead(kind, protocol, wrap, tmp_path):
    ran = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(ran)!r}).touch()"
    call = {
        "posix.system": Call(os.system, f"touch {ran}"),
        "builtins.eval": Call(eval, code),
        "builtins.exec": Call(exec, code),
    }[kind]
    pickled = pickle.dumps(
        {"state_dict": {"weight": np.ones(2), "x": [(call,)]}} if wrap == "inside" else call, protocol
    )
    path = tmp_path / "a.pth"
    if wrap == "zip":
        write_zip(path, pickled)
    elif wrap == "legacy":
        write_legacy(path, pickled)
    else:
        path.write_bytes(pickled)
    module, _, function = kind.partition(".")
    module = "(builtins|__builtin__)" if module == "builtins" else module  # the latter before protocol 3
    assert "model.state_dict()" in refused(path, f"asks for '{module}.{function}'") and not ran.exists()
    pickle.loads(pickled)
    assert ran.exists()  # the trap was a live one


def test_hostile_opcodes_stay_dead(tmp_path):
    ran, path = tmp_path / "ran", tmp_path / "a.pth"
    argument = body(f"touch {ran}")
    for opcodes, words in [
        (name("os", "system") + argument + b"\x85R", "'os.system'"),
        (b"(" + argument + b"ios\nsystem\n", "'os.system'"),  # INST
        (b"(" + name("os", "system") + argument + b"o", "'os.system'"),  # OBJ
        (name("nt", "system"), "'nt.system'"),
        (b"\x8c\x08builtins\x8c\x04eval\x93" + argument + b"\x85R", "'builtins.eval'"),  # STACK_GLOBAL
        (name("builtins", "getattr"), "'builtins.getattr'"),
        (b"\x8c\x05torch\x8c\x10serialization.os\x93", "'torch.serialization.os'"),
        (name("torch", "load"), "'torch.load'"),
        (name("torch.storage", "_load_from_bytes"), "'torch.storage._load_from_bytes'"),
        (name("collections", "OrderedDict.__init__"), "'collections.OrderedDict.__init__'"),
        (name("torch.nn.modules.linear", "Linear"), "'torch.nn.modules.linear.Linear'"),
        (b"\x82\x01", "damaged"),  # an entry of copyreg's table
    ]:
        path.write_bytes(b"\x80\x04" + opcodes + b".")
        assert "\x00" not in refused(path, words) and not ran.exists()
    path.write_bytes(name("os", "system") + argument + b"\x85R.")  # protocol 0: nothing tells it from a text
    refused(path, "no format known")
    assert not ran.exists()


@pytest.mark.parametrize("allowed", sorted(torch_pickle.ALLOWED))
def test_stand_ins_cannot_be_altered(allowed, golden, tmp_path):
    path, state = tmp_path / "a.pth", body({"call": 1, "__call__": 1, "__doc__": 1, "state": 1})
    for change in (state + b"b", b"N" + state + b"\x86b", state + b"s", b"(" + state + b"e"):  # BUILD, SETITEM, APPENDS
        path.write_bytes(as_pickle(name(*allowed) + change))
        refused(path, "damaged|holds one")
    assert len(read_weights(golden / "torch_zip.pth")) == 14


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"offset": 1}, "reaches number 7 of a storage of 6"),
        ({"strides": (4, 1)}, "reaches number 7"),
        ({"shape": (2**40, 2**40)}, "of a storage of 6"),
        ({"offset": -1}, "no counts"),
        ({"strides": (-3, 1)}, "no counts"),
        ({"shape": (2.0, 3)}, "no counts"),
        ({"strides": (1,)}, "no counts"),
        ({"count": 2**40, "offset": 2**39}, "has 24 bytes, its tensors expect"),
        ({"count": -6}, "unknown way"),
        ({"key": "1"}, "archive/data/1"),
        ({"storage": "DoubleStorage"}, "has 24 bytes, its tensors expect 48"),
        ({"storage": "Size"}, "unknown way"),
    ],
)
def test_tensors_stay_inside_their_storage(fields, words, tmp_path):
    path = write_zip(tmp_path / "a.pth", as_pickle(as_dict(a=tensor(**fields))), _0=FLOATS)
    refused(path, words)
    write_legacy(path, as_pickle(as_dict(a=tensor(**fields))), storages=struct.pack("<q", 6) + FLOATS)
    refused(path, "damaged")


def test_claims_cost_no_memory(tmp_path):
    path = write_zip(tmp_path / "a.pth", as_pickle(as_dict(a=tensor(shape=(2**20, 2**20), strides=(0, 0)))), _0=FLOATS)
    assert read_weights(path)["a"].shape == (2**20, 2**20)  # one number seen often, as PyTorch's expand does
    path.write_bytes(as_pickle(b"}r\xff\xff\xff\x7f"))
    refused(path, "memo entry 2147483647 of a pickle of 2 steps")
    path.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.")  # a bytearray of a terabyte
    refused(path, "damaged")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", as_pickle(as_dict(a=tensor())))
        archive.writestr("archive/data/0", bytes(2**20))
    refused(path, "its entries claim 1048")
    write_legacy(path, as_pickle(as_dict(a=tensor(count=2**40))), storages=struct.pack("<q", 2**40) + FLOATS)
    refused(path, "1099511627776 numbers in 4398046511104 bytes.*24 bytes are left")
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000000,)}\n"
    write_npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", write_npy)
    refused(path, "damaged")


@pytest.mark.parametrize("file", ["torch_zip.pth", "torch_legacy.pth", "torch_weights.npz"])
def test_every_cut_is_one_sentence(file, golden, tmp_path):
    content, path = (golden / file).read_bytes(), tmp_path / file
    for length in range(1, len(content), 13):
        path.write_bytes(content[:length])
        refused(path, "damaged or was cut short|no format known")
    path.write_bytes(content[:-1])
    refused(path, "damaged or was cut short")


@pytest.mark.parametrize("file", ["torch_zip.pth", "torch_legacy.pth"])
def test_every_flipped_byte_is_read_or_one_sentence(file, golden, tmp_path):
    content, path, kept = (golden / file).read_bytes(), tmp_path / file, 0
    for place in range(0, len(content), 11):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            kept += all(isinstance(array, np.ndarray) for array in read_weights(path).values())
        except UserError as error:
            assert str(path) in str(error)
    assert 0 < kept < len(content) / 11  # padding and numbers may change, structure may not


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    refused(tmp_path / "none.pth", "There is no file")
    refused(tmp_path, "is a folder")
    path = tmp_path / "a.pth"
    path.write_bytes(b"")
    refused(path, "is empty")
    for content in (b"x", b"version https://git-lfs.github.com/spec/v1", b"\x89HDF\r\n\x1a\n" + bytes(64)):
        path.write_bytes(content)
        refused(path, "no format known")
    write_zip(path, as_pickle(as_dict(a=tensor())), **{"constants.pkl": b"", "code/__torch__.py": b"", "_0": FLOATS})
    assert "torch.jit.load" in refused(path, "TorchScript")
    with zipfile.ZipFile(path, "w"):
        pass
    refused(path, "nothing in it")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "")
    refused(path, "word/document.xml")
    head = [pickle.dumps(value, 2) for value in (MAGIC, 1002)]
    path.write_bytes(b"".join(head))
    refused(path, "protocol 1001")


def test_reads_npz(tmp_path):
    path = tmp_path / "a.npz"
    for save in (np.savez, np.savez_compressed):
        save(
            path,
            **{"module.a": np.zeros((100, 2), np.float16), "module.n": np.array(3), "module.names": np.array(["x"])},
        )
        weights = read_weights(path)
        assert {key: (array.dtype, array.shape) for key, array in weights.items()} == {
            "a": (np.float16, (100, 2)),
            "n": (np.int64, ()),
        }
    ran = tmp_path / "ran"
    np.savez(path, a=np.array([Call(os.system, f"touch {ran}")], object))
    refused(path, "allow_pickle=False")
    assert not ran.exists()
    np.savez(path, a=np.ones(2, ml_dtypes.bfloat16))
    refused(path, r"a as \|V2.*float32")
    np.savez(path, names=np.array(["x"]))
    refused(path, "no arrays of numbers")


def test_reads_safetensors(tmp_path):
    bfloat16 = np.array([1, -3.140625], np.float32).view("<u4") >> 16  # the upper half of a float32
    numbers = FLOATS + bfloat16.astype("<u2").tobytes() + b"\x01"
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [2], "data_offsets": [24, 28]},
        "c": {"dtype": "BOOL", "shape": [], "data_offsets": [28, 29]},
    }
    path = write_safetensors(tmp_path / "a.safetensors", header, numbers)
    weights = read_weights(path)
    assert {key: array.tolist() for key, array in weights.items()} == {
        "a": [[0, 1], [2, 3], [4, 5]],
        "b": [1, -3.140625],
        "c": True,
    }
    assert [weights[key].dtype for key in "abc"] == [np.float32, np.float32, bool]
    content = path.read_bytes()
    for length in range(9, len(content)):
        path.write_bytes(content[:length])
        refused(path, "damaged or was cut short")
    # A header of 0x80 bytes begins as a pickle does.
    padded = header | {"__metadata__": {"format": "p" * (0x180 - len(json.dumps(header)) + 2)}}
    assert write_safetensors(path, padded, numbers).read_bytes()[0] == 0x80
    assert len(read_weights(path)) == 3
    write_safetensors(path, {"a": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}, b"\0")
    refused(path, "a as F8_E8M0")


@pytest.mark.realdata
@pytest.mark.parametrize("file, depth", [("resnet20-12fca82f.th", 20), ("resnet56-4bfd9763.th", 56)])
def test_residual_networks_of_cifar10(file, depth, data_root):
    weights = read_weights(data_root / "pretrained_weights" / "cifar10_resnet" / file)
    n = depth // 6  # blocks a stage, two convolutions each; shortcuts have no parameters (He et al. 2016, section 4.2)
    kernels = 9 * (3 * 16 + 2 * n * 16 * 16 + 16 * 32 + (2 * n - 1) * 32 * 32 + 32 * 64 + (2 * n - 1) * 64 * 64)
    norms = 2 * ((2 * n + 1) * 16 + 2 * n * 32 + 2 * n * 64)
    counted = sum(array.size for key, array in weights.items() if "running" not in key and "tracked" not in key)
    assert counted == kernels + norms + 64 * 10 + 10
    assert weights["conv1.weight"].shape == (16, 3, 3, 3) and weights["linear.weight"].shape == (10, 64)
    assert all(np.isfinite(array).all() for array in weights.values())
    assert all((array >= 0).all() for key, array in weights.items() if key.endswith("running_var"))


@pytest.mark.realdata
def test_little_w_net(data_root):
    weights = read_weights(data_root / "pretrained_weights" / "lwnet_drive" / "model_checkpoint.pth")

    def convs(inputs, outputs):  # two 3x3 convolutions with bias and a normalisation each, and a 1x1 shortcut with one
        return 9 * outputs * (inputs + outputs) + 6 * outputs + outputs * inputs + 2 * outputs

    def up(inputs, outputs):  # transposed 2x2 convolution, 3x3 convolution over the skip connection, then as above
        return 4 * inputs * outputs + outputs + 9 * outputs**2 + 3 * outputs + convs(2 * outputs, outputs)

    def net(inputs):
        return convs(inputs, 8) + convs(8, 16) + convs(16, 32) + up(32, 16) + up(16, 8) + 8 + 1

    counted = sum(array.size for key, array in weights.items() if "running" not in key and "tracked" not in key)
    assert (
        counted == net(3) + net(4) == 68482
    )  # as the paper says (Galdran et al. 2022); the second net sees the first's
    assert weights["unet1.final.bias"].shape == (1,) and weights["unet2.first.shortcut.0.weight"].shape == (8, 4, 1, 1)
    assert all(np.isfinite(array).all() for array in weights.values())
