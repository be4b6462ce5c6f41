"""A file of named arrays, from whatever program, without running any code in it.

PyTorch's formats are those of torch/serialization.py: a zip archive (`*/data.pkl` and one `*/data/<key>` a storage),
and before 1.6 a row of pickles with the storages behind them.
"""

import io
import json
import math
import pathlib
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxseg.transfer import torch_pickle
from jaxseg.typing import UserError

FORMATS = "a PyTorch file (.pth, .pt, .th, .bin, .ckpt), a .safetensors or .npz file or a TensorFlow.js model.json"
CONTAINERS = ("state_dict", "model_state_dict", "model_state", "network_weights", "model", "net", "params")
PLAIN = (str, int, float, bool, type(None))
DEPTH = 3  # containers within containers; a dict may also hold itself, so there must be an end
PREFIXES = ("module.", "_orig_mod.")  # of torch.nn.DataParallel and of torch.compile
SHOWN = 6  # names a message lists
MAGIC = 0x1950A86A20F9469CFC6C  # first object of a PyTorch file before 1.6
PROTOCOL = 1001  # its second object
SAFETENSORS = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "BOOL": "bool"},
    **{"U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
}


class _Pickled(NamedTuple):
    """What a PyTorch file holds, with stand-ins for arrays, and how a storage's bytes are fetched."""

    found: Any
    fetch: Callable[[str], bytes]


def read_weights(path: Any) -> dict[str, np.ndarray]:
    """Reads a file of named arrays: PyTorch's (new, old, or a plain pickle of numpy arrays), safetensors, npz, TF.js.

    The content decides which format it is, not the name. A training checkpoint is searched for its state dict
    (`CONTAINERS`); what is no array of numbers is left out; `module.` or `_orig_mod.` is cut off where every name has
    it. bfloat16 and float8 become float32, other types stay. Arrays of a PyTorch file may be read-only, and names that
    shared a storage still share it.

    Raises:
      UserError: the file is missing, a folder, empty, damaged or of another format; it holds no dict of arrays; or its
        pickle names something that no tensor is made of.
    """
    return read_checkpoint(path)[0]


def read_checkpoint(path: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the weights of a training checkpoint, as `read_weights` does, and what lies beside them.

    Beside them are the plain values of the outermost dict of a PyTorch file: text, numbers, and lists, tuples and dicts
    of these, three deep; anything else, and what lies deeper, is None. Other formats have nothing there.

    Raises:
      UserError: as `read_weights`.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; expected {FORMATS}: give the file in it.")
    if not path.exists():
        raise UserError(f"There is no file {path}; expected {FORMATS}.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the permissions and the disk.") from error
    if not data:
        raise UserError(f"{path} is empty; expected {FORMATS}: copy or download it again.")
    try:
        loaded, beside = _reader(path, data)(path, data), {}
        if isinstance(loaded, _Pickled):
            arrays = torch_pickle.arrays(_state_dict(path, loaded.found), loaded.fetch)
            beside = _plain(loaded.found)
        else:
            arrays = loaded
    except UserError:
        raise
    except Exception as error:  # broken bytes make their parsers fail in any way, MemoryError and RecursionError too
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path} is damaged or was cut short ({reason}); copy or download it again.") from error
    if not arrays:
        raise UserError(f"{path} holds no arrays of numbers; expected the named weights of a network.")
    return _without_prefixes(arrays), beside if isinstance(beside, dict) else {}


def _plain(found: Any, depth: int = 0) -> Any:
    """The plain values in what was unpickled; exact types, since stand-ins for tensors are tuples too."""
    if type(found) in PLAIN:
        return found
    if depth > DEPTH:
        return None
    if isinstance(found, dict):
        return {key: _plain(value, depth + 1) for key, value in found.items() if type(key) in PLAIN}
    return type(found)(_plain(value, depth + 1) for value in found) if type(found) in (list, tuple) else None


def _reader(path: pathlib.Path, data: bytes) -> Callable[[pathlib.Path, bytes], dict[str, np.ndarray] | _Pickled]:
    # safetensors: the header's length in 8 bytes, then JSON. Asked first, since a length may begin as a pickle does.
    if data[7:9] == b"\0{":
        return _read_safetensors
    if data[:2] == b"PK":
        return _read_zip
    if data[:1] == b"\x80":
        return _read_pickles
    if data.lstrip()[:1] == b"{":
        return _read_tensorflow_js
    raise UserError(f"{path} is of no format known here (it begins with {data[:8]!r}); give {FORMATS}.")


def _read_safetensors(path: pathlib.Path, data: bytes) -> dict[str, np.ndarray]:
    try:
        import safetensors
    except ImportError as error:
        raise UserError(f"Reading {path} needs the package safetensors: pip install safetensors.") from error
    arrays = {}
    for name, entry in safetensors.deserialize(data):  # safetensors.numpy knows no bfloat16
        if entry["dtype"] not in SAFETENSORS:
            raise UserError(f"{path} holds {name} as {entry['dtype']}, which has no numpy type; save it as F32.")
        row = np.frombuffer(entry["data"], torch_pickle.DTYPES[SAFETENSORS[entry["dtype"]]])
        arrays[name] = torch_pickle.widened(row).reshape(entry["shape"])
    return arrays


def _read_tensorflow_js(path: pathlib.Path, data: bytes) -> dict[str, np.ndarray]:
    """A layers model: JSON that lists arrays by name, shape and type in the order of the files of bytes beside it."""
    content = json.loads(data)
    if not isinstance(content, dict) or "weightsManifest" not in content:
        raise UserError(f"{path} is JSON without a weightsManifest; expected {FORMATS}.")
    arrays = {}
    for group in content["weightsManifest"]:
        files = [path.parent / pathlib.Path(name).name for name in group["paths"]]  # beside it, wherever they point
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise UserError(f"{path} names files of weights that are not beside it: {_some(missing)}; copy them there.")
        raw, start = b"".join(file.read_bytes() for file in files), 0
        for entry in group["weights"]:
            if "quantization" in entry:
                raise UserError(f"{path} holds {entry['name']} quantised; export the model without quantisation.")
            dtype = torch_pickle.DTYPES[entry["dtype"]]
            size = math.prod(entry["shape"]) * dtype.itemsize
            if len(raw) - start < size:
                raise UserError(
                    f"{path} lists more numbers than {_some(file.name for file in files)} hold; copy them again."
                )
            arrays[entry["name"]] = np.frombuffer(raw[start : start + size], dtype).reshape(entry["shape"])
            start += size
    return arrays


def _read_zip(path: pathlib.Path, data: bytes) -> dict[str, np.ndarray] | _Pickled:
    archive = zipfile.ZipFile(io.BytesIO(data))  # stays open: storages are fetched later
    names = archive.namelist()
    if names and all(name.endswith(".npy") for name in names):
        return _read_npz(path, data)
    roots = [name.removesuffix("data.pkl") for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(roots) != 1:
        raise UserError(
            f"{path} is a zip archive with {_some(names) or 'nothing in it'}; expected one data.pkl, as PyTorch "
            "writes it, or .npy files alone."
        )
    root = roots[0]
    if f"{root}constants.pkl" in names and any(name.startswith(f"{root}code/") for name in names):
        raise UserError(
            f"{path} is a TorchScript archive, a program with its weights inside; expected the weights alone: in "
            "PyTorch, torch.save(torch.jit.load(file).state_dict(), new_file)."
        )
    # PyTorch stores without compression: an archive that unpacks to more than itself is a trap or repacked.
    claimed = sum(entry.file_size for entry in archive.infolist())
    if claimed > len(data):
        raise pickle.UnpicklingError(f"its entries claim {claimed} bytes, the file has {len(data)}")
    is_swapped = f"{root}byteorder" in names and archive.read(f"{root}byteorder") == b"big"
    found, storages = torch_pickle.unpickle(path, io.BytesIO(archive.read(f"{root}data.pkl")))

    def fetch(key: str) -> bytes:
        raw, expected = archive.read(f"{root}data/{key}"), storages[key].nbytes
        if len(raw) != expected:
            raise pickle.UnpicklingError(f"storage {key} has {len(raw)} bytes, its tensors expect {expected}")
        return _swapped(raw, torch_pickle.DTYPES[storages[key].dtype]) if is_swapped else raw

    return _Pickled(found, fetch)


def _read_npz(path: pathlib.Path, data: bytes) -> dict[str, np.ndarray]:
    arrays = {}
    with np.load(io.BytesIO(data), allow_pickle=False) as content:
        for name in content.files:
            array = content[name]
            if array.dtype.kind == "V":  # bfloat16, for one, loses its name in an npz
                raise UserError(f"{path} holds {name} as {array.dtype}; expected numbers: save it as float32.")
            if array.dtype.kind in "biufc":
                arrays[name] = array
    return arrays


def _read_pickles(path: pathlib.Path, data: bytes) -> _Pickled:
    stream = io.BytesIO(data)
    found, storages = torch_pickle.unpickle(path, stream)
    if type(found) is not int or found != MAGIC:  # a plain pickle: numpy arrays at best, it has no storages
        return _Pickled(found, dict[str, bytes]().__getitem__)
    protocol, _ = torch_pickle.unpickle(path, stream)
    if type(protocol) is not int or protocol != PROTOCOL:
        raise pickle.UnpicklingError(f"it is not of PyTorch's protocol {PROTOCOL}")
    torch_pickle.next_pickle(stream)  # about the writer's machine; storages are little-endian whatever it says
    found, storages = torch_pickle.unpickle(path, stream)
    keys, _ = torch_pickle.unpickle(path, stream)
    start, places = stream.tell(), {}
    for key in keys:
        storage = storages[key]
        count, left = int.from_bytes(data[start : start + 8], "little", signed=True), len(data) - start - 8
        if count != storage.size or storage.nbytes > left:
            raise pickle.UnpicklingError(
                f"storage {key} should have {storage.size} numbers in {storage.nbytes} bytes, it says {count} and "
                f"{max(left, 0)} bytes are left"
            )
        places[key] = slice(start + 8, start + 8 + storage.nbytes)
        start = places[key].stop
    return _Pickled(found, lambda key: data[places[key]])


def _swapped(raw: bytes, dtype: np.dtype) -> bytes:
    part = dtype.itemsize // (2 if dtype.kind == "c" else 1)  # a complex number is two numbers, in this order anyway
    return np.frombuffer(raw, f">u{part}").astype(f"<u{part}").tobytes()


def _state_dict(path: pathlib.Path, found: Any) -> dict[str, Any]:
    """The state dict in what was unpickled; storages of an optimiser beside it are never read."""
    if entries := _unwrapped(found):
        return entries
    if isinstance(found, dict):
        came = f"a dict with {_some(found) or 'nothing in it'}"
    else:
        came = f"one {type(found).__name__}"
    raise UserError(
        f"{path} holds {came}; expected a dict of named tensors, alone or as one of {', '.join(CONTAINERS)}: in "
        "PyTorch, torch.save(model.state_dict(), new_file)."
    )


def _unwrapped(found: Any, depth: int = 0) -> dict[str, Any]:
    if not isinstance(found, dict):
        return {}
    if depth < DEPTH:
        for name in CONTAINERS:
            if inner := _unwrapped(found.get(name), depth + 1):
                return inner
    return {name: entry for name, entry in found.items() if isinstance(name, str) and torch_pickle.is_array(entry)}


def _without_prefixes(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    arrays = dict(arrays)
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in arrays)), ""):
        arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    return arrays


def _some(names: Iterable[Any]) -> str:
    shown = [" ".join(name[:60].split()) if isinstance(name, str) else type(name).__name__ for name in names]
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")
