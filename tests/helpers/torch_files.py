"""Files of weights as PyTorch and safetensors write them, and hostile ones, made without either."""

import json
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Mapping

import numpy as np


def body(value) -> bytes:
    """The opcodes of a plain value, without the pickle's first and last."""
    return pickle.dumps(value, 2)[2:-1]


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def tensor(*, storage="FloatStorage", key="0", count=6, view=(), offset=0, shape=(2, 3), strides=(3, 1)) -> bytes:
    """The opcodes of a tensor, as torch.save writes them."""
    pid = [body("storage"), name("torch", storage), body(key), body("cpu"), body(count), *map(body, view)]
    arguments = [b"(", *pid, b"tQ", body(offset), body(shape), body(strides), body(False), body(None)]
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + b"".join(arguments) + b"tR"


def as_dict(**values: bytes) -> bytes:
    return b"}(" + b"".join(body(key) + value for key, value in values.items()) + b"u"


def as_pickle(opcodes: bytes) -> bytes:
    return b"\x80\x02" + opcodes + b"."


def write_zip(path: pathlib.Path, pickled: bytes, **entries: bytes) -> pathlib.Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, content in entries.items():
            archive.writestr("archive/" + (f"data/{key[1:]}" if key[0] == "_" else key), content)
    return path


def write_safetensors(path: pathlib.Path, header: dict, numbers: bytes) -> pathlib.Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + numbers)
    return path


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def save_zip(path: pathlib.Path, weights: Mapping[str, np.ndarray]) -> pathlib.Path:
    """Writes a state dict of float32 arrays as `torch.save` does."""
    tensors, storages = {}, {}
    for number, (key, array) in enumerate(weights.items()):
        array = np.ascontiguousarray(array, "<f4")
        strides = tuple(step // 4 for step in array.strides)
        tensors[key] = tensor(key=str(number), count=array.size, shape=array.shape, strides=strides)
        storages[f"_{number}"] = array.tobytes()
    return write_zip(path, as_pickle(as_dict(**tensors)), **storages)


def save_safetensors(path: pathlib.Path, weights: Mapping[str, np.ndarray]) -> pathlib.Path:
    """Writes float32 arrays one after the other behind their header."""
    header, numbers = {}, b""
    for key, array in weights.items():
        content = np.ascontiguousarray(array, "<f4").tobytes()
        offsets = [len(numbers), len(numbers) + len(content)]
        header[key] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": offsets}
        numbers += content
    return write_safetensors(path, header, numbers)
