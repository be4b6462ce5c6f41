"""XLA's persistent compilation cache, on by default, and mended after a killed process."""

import os
import pathlib
import zlib

import jax


def enable() -> pathlib.Path | None:
    """Turns the cache on in JAXSEG_CACHE (default ~/.cache/jaxseg/xla); "off" leaves it off.

    A process killed while it wrote an entry leaves it cut short; JAX would warn about it on every later run and never
    write it again. Entries younger than the last clean exit are therefore read once, and removed if they are broken.
    """
    place = os.environ.get("JAXSEG_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "jaxseg", "xla")
    if place == "off":
        return None
    folder = pathlib.Path(place)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None  # a read-only home: compile every time, as without a cache
    remove_broken(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return folder


def remove_broken(folder: pathlib.Path) -> list[str]:
    """Deletes entries that do not decompress, of those written since the last look; returns their names."""
    marker = folder / ".checked"
    since = marker.stat().st_mtime if marker.exists() else 0.0
    removed = []
    for entry in folder.glob("*-cache"):
        try:
            if entry.stat().st_mtime >= since and not _readable(entry.read_bytes()):
                entry.unlink()
                removed.append(entry.name)
        except FileNotFoundError:
            continue  # another process evicted it
    marker.touch()
    return removed


def _readable(content: bytes) -> bool:
    """JAX compresses with zstandard where that is installed, else with zlib."""
    if content[:4] == b"\x28\xb5\x2f\xfd":
        import zstandard

        try:
            zstandard.ZstdDecompressor().decompress(content)
        except zstandard.ZstdError:
            return False
        return True
    try:
        zlib.decompress(content)
    except zlib.error:
        return False
    return True
