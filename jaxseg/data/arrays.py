"""Chunked arrays on disk (TensorStore zarr3, blosc-zstd): a patch reads only the chunks that it touches."""

import functools

import numpy as np
import tensorstore

from jaxseg import paths

CHUNK = {2: (128, 128), 3: (32, 64, 64)}
CACHE_BYTES = 10**9  # decoded chunks kept by this process: small data sets are decoded once


def _chunk_shape(shape: tuple[int, ...]) -> list[int]:
    """Returns chunks of about CHUNK, evened out so that no sliver is left at the end."""
    wanted = CHUNK.get(len(shape), (64,) * len(shape))
    return [-(-size // -(-size // chunk)) for size, chunk in zip(shape, wanted)]


def write(path: paths.Path, array: np.ndarray, *, channels: bool) -> None:
    """Writes an array into a new folder; with `channels` the last axis is not cut into chunks."""
    spatial = array.shape[:-1] if channels else array.shape
    chunk = _chunk_shape(spatial) + ([array.shape[-1]] if channels else [])
    codecs = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "blosc", "configuration": {"cname": "zstd", "clevel": 3, "shuffle": "shuffle"}},
    ]
    metadata = {
        "data_type": str(array.dtype),
        "shape": list(array.shape),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "fill_value": 0,
        "codecs": codecs,
    }
    spec = {"driver": "zarr3", "kvstore": paths.kvstore(path), "metadata": metadata}
    tensorstore.open(spec, create=True, delete_existing=True).result().write(array).result()


@functools.cache
def _context() -> tensorstore.Context:
    """The cache of decoded chunks, one a process."""
    return tensorstore.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})


def open(folder: str | paths.Path, name: str) -> tensorstore.TensorStore:
    """Opens FOLDER/NAME for reading; nothing is read yet."""
    # Prepared cases never change in place: what was read since opening is not looked up on disk again.
    spec = {"driver": "zarr3", "kvstore": paths.kvstore(paths.path(folder) / name)}
    spec.update(recheck_cached_data="open", recheck_cached_metadata="open")
    return tensorstore.open(spec, open=True, read=True, context=_context()).result()
