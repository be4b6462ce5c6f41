"""PyTorch's pickles without PyTorch, and without running what they ask for.

A pickle is a program: it may name any function and have it called. Here it may name only what a tensor is rebuilt
from, and gets a stand-in of ours for each name: strings, named tuples and classes that no pickle can alter.
"""

import functools
import io
import pathlib
import pickle
import pickletools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxseg.typing import UserError

# PyTorch's name -> numpy's type; for bfloat16 and float8, which numpy lacks, see `widened`.
_NAMES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
_EXTENDED = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
DTYPES = {name: np.dtype(name) for name in _NAMES} | {name: np.dtype(getattr(ml_dtypes, name)) for name in _EXTENDED}
STORAGES = {
    **{"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16"},
    **{"LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8"},
    **{"ByteStorage": "uint8", "BoolStorage": "bool"},
    **{"ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128"},
}


class Storage(NamedTuple):
    """A row of `size` numbers in the file; `start` is where a view of it begins."""

    key: str
    dtype: str
    size: int
    start: int = 0

    @property
    def nbytes(self) -> int:
        return self.size * DTYPES[self.dtype].itemsize


class Tensor(NamedTuple):
    """A storage seen with a shape; offset and strides in numbers, not bytes."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class NumpyArray:
    """Stands for numpy.ndarray; its state is (version, shape, dtype, is it in Fortran order, bytes)."""

    __slots__ = ("state",)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _DType:
    """Stands for numpy.dtype, whose own `__setstate__` was not made for a stranger's bytes."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any):
        self.code, self.order = code, "|"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _Dict(dict):
    """Stands for OrderedDict, on which PyTorch sets an attribute `_metadata` (versions of layers, not needed here)."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Function(NamedTuple):
    """What a pickle may call: a pickle can set attributes on a plain function or class, not on a named tuple."""

    call: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any, dtype: Any = "") -> Tensor:
    """Stands for _rebuild_tensor and its successors; refuses what would reach outside the storage.

    As in all stand-ins, an argument may be anything: what is of a wrong type fails here or becomes no array.
    """
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor of no storage")
    shape, strides, dtype = tuple(shape), tuple(strides), dtype or storage.dtype
    if any(type(n) is not int or n < 0 for n in (offset, *shape, *strides)) or len(shape) != len(strides):
        raise pickle.UnpicklingError("a tensor's offset, shape and strides are no counts")
    count = storage.nbytes // DTYPES[dtype].itemsize  # an untyped storage counts bytes; the tensor says of what
    last = storage.start + offset + sum((n - 1) * step for n, step in zip(shape, strides))
    if 0 not in shape and last >= count:
        raise pickle.UnpicklingError(f"a tensor reaches number {last + 1} of a storage of {count}")
    return Tensor(storage, dtype, offset, shape, strides)


def _tensor_v2(storage, offset, shape, strides, requires_grad, hooks, metadata=None) -> Tensor:
    return _tensor_v3(storage, offset, shape, strides, requires_grad, hooks, "", metadata)


def _tensor_v3(storage, offset, shape, strides, requires_grad, hooks, dtype, metadata=None) -> Tensor:
    if metadata:  # {"conj": True} or {"neg": True}: numbers still to be conjugated or negated; no weight is stored so
        raise pickle.UnpicklingError("a tensor that is a conjugated or negated view")
    return _tensor(storage, offset, shape, strides, dtype=dtype)


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any, *axes: Any) -> NumpyArray:
    """Stands for numpy's _frombuffer, which pickle protocol 5 uses."""
    if order not in ("C", "F") or any(axis is not None for axis in axes):
        raise pickle.UnpicklingError("a numpy array in an unknown order")
    array = NumpyArray()
    array.state = (1, shape, dtype, order == "F", buffer)
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    """Stands for _codecs.encode, with which old pickle protocols spell bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("bytes that are not spelt in latin1")
    return text.encode("latin1")


def _opaque(*_: Any) -> None:
    """Stands for what may lie beside the weights and is left out: a device, a single number of numpy's."""


_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")  # numpy 1 and 2
ALLOWED: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Function(lambda *pairs: _Dict(*pairs)),
    ("torch._utils", "_rebuild_tensor"): _Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor_v2),
    ("torch._utils", "_rebuild_tensor_v3"): _Function(_tensor_v3),
    ("torch._utils", "_rebuild_parameter"): _Function(lambda tensor, *_: tensor),
    ("torch._utils", "_rebuild_parameter_with_state"): _Function(lambda tensor, *_: tensor),
    ("torch", "Size"): _Function(tuple),
    ("torch", "device"): _Function(_opaque),
    **{("torch", name): name for name in DTYPES},
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
    **{("torch.storage", name): "uint8" for name in ("UntypedStorage", "TypedStorage")},
    **{(module, "scalar"): _Function(_opaque) for module in _NUMPY},
    **{(module, "_reconstruct"): _Function(lambda *_: NumpyArray()) for module in _NUMPY},
    **{(module, "_frombuffer"): _Function(_from_buffer) for module in ("numpy.core.numeric", "numpy._core.numeric")},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Function(lambda *arguments: _DType(*arguments)),
    ("_codecs", "encode"): _Function(_encode),
    **{(module, "bytes"): _Function(lambda: b"") for module in ("builtins", "__builtin__")},  # how b"" is spelt
}


class _Unpickler(pickle.Unpickler):
    """Knows the names in ALLOWED and no other, and collects the storages that the pickle mentions."""

    def __init__(self, path: pathlib.Path, data: bytes):
        super().__init__(io.BytesIO(data), encoding="latin1")  # Python 2's strings: every byte has a letter
        self.path = path
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise UserError(
                f"{self.path} holds more than named tensors: it asks for {f'{module}.{name}'[:100]!r}, and nothing "
                "that a file names is run here; in PyTorch, if you trust the file, save the weights alone: "
                "torch.save(model.state_dict(), new_file)."
            )
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, count, *view = pid
        # Before PyTorch 0.4 a view of a storage was a storage of its own: (its key, its start, its count).
        start = view[0][1] if view and view[0] else 0
        counts = all(type(n) is int and n >= 0 for n in (count, start))
        if kind != "storage" or dtype not in DTYPES or type(key) is not str or not counts:
            raise pickle.UnpicklingError("a storage is described in an unknown way")
        storage = self.storages.setdefault(key, Storage(key, dtype, count))
        if storage != Storage(key, dtype, count):
            raise pickle.UnpicklingError(f"storage {key} is described in two ways")
        return storage._replace(start=start)


def next_pickle(stream: io.BytesIO) -> bytes:
    """Returns the pickle that begins here, having looked at its opcodes; the stream is left behind it.

    Raises:
      pickle.UnpicklingError, ValueError: it is none, it is cut short, or it would fill the memory.
    """
    start = stream.tell()
    for position, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        # The unpickler makes room up to the highest index that is named, even for a single entry.
        if opcode.name.endswith("PUT") and argument is not None and argument > position:
            raise pickle.UnpicklingError(f"memo entry {argument} of a pickle of {position} steps")
    end = stream.tell()
    stream.seek(start)
    return stream.read(end - start)


def unpickle(path: pathlib.Path, stream: io.BytesIO) -> tuple[Any, dict[str, Storage]]:
    """Returns the next object, with `Tensor` and `NumpyArray` in place of arrays, and the storages it mentions by key.

    Raises:
      UserError: it names something that no tensor is made of. Any other exception: the pickle is broken.
    """
    unpickler = _Unpickler(path, next_pickle(stream))
    return unpickler.load(), unpickler.storages


def is_array(entry: Any) -> bool:
    """Tells a tensor or a numpy array of numbers from everything else."""
    if not isinstance(entry, NumpyArray):
        return isinstance(entry, Tensor)
    code = entry.state[2].code
    return isinstance(code, str) and re.fullmatch("b1|[iu][1248]|f[248]|c8|c16", code) is not None


def arrays(entries: Mapping[str, Tensor | NumpyArray], fetch: Callable[[str], bytes]) -> dict[str, np.ndarray]:
    """The entries with their numbers; `fetch` returns a storage's bytes by its key, little-endian.

    Tensors are read-only views: a wide view of a small storage takes no memory, and names that share one still do.
    """

    @functools.cache
    def stored(key: str, dtype: str) -> np.ndarray:
        return widened(np.frombuffer(fetch(key), DTYPES[dtype]))

    def numbers(entry: Tensor | NumpyArray) -> np.ndarray:
        if isinstance(entry, NumpyArray):
            return _numpy_array(*entry.state)
        row = stored(entry.storage.key, entry.dtype)[entry.storage.start + entry.offset :]
        strides = [step * row.itemsize for step in entry.strides]
        return np.lib.stride_tricks.as_strided(row, entry.shape, strides, writeable=False)

    return {name: numbers(entry) for name, entry in entries.items()}


def widened(array: np.ndarray) -> np.ndarray:
    """bfloat16 and float8, which are not numpy's own, as float32; everything else as it is."""
    return array.astype(np.float32) if array.dtype.name in _EXTENDED else array


def _numpy_array(_: Any, shape: Any, dtype: _DType, fortran: Any, data: Any) -> np.ndarray:
    raw = data.encode("latin1") if isinstance(data, str) else data  # Python 2 had no bytes
    order = ">" if dtype.order == ">" else "<"
    array = np.frombuffer(raw, np.dtype(order + dtype.code)).reshape(shape, order="F" if fortran else "C")
    return array.astype(array.dtype.newbyteorder("="))
