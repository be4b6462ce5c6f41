"""The page as a folder that opens without a server: its own files, and every case as one script."""

import base64
import pathlib
import shutil
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from jaxseg.typing import UserError
from jaxseg.viz.viewer.layers import File
from jaxseg.viz.viewer.manifest import script

HERE = pathlib.Path(__file__).parent
# Name in the page's folder -> media type; nothing else of this package is ever handed out.
ASSETS = {
    "index.html": "text/html; charset=utf-8",
    "viewer.css": "text/css; charset=utf-8",
    "source.js": "text/javascript; charset=utf-8",
    "labels.js": "text/javascript; charset=utf-8",
    "volume.js": "text/javascript; charset=utf-8",
    "picture.js": "text/javascript; charset=utf-8",
    "panel.js": "text/javascript; charset=utf-8",
    "viewer.js": "text/javascript; charset=utf-8",
    "vendor/niivue.umd.js": "text/javascript; charset=utf-8",
    "vendor/LICENSES.txt": "text/plain; charset=utf-8",
}
MANIFEST, CASES = "manifest.js", "cases"
LARGEST_BYTES = 200_000_000  # of a folder: what can still be copied and opened without care


def asset(name: str) -> bytes:
    """Returns a file of the page; `name` is one of ASSETS."""
    if name not in ASSETS:
        raise KeyError(name)
    return (HERE / name).read_bytes()


def write_folder(
    folder: str | pathlib.Path,
    listed: dict[str, Any],
    cases: Iterable[Callable[[], tuple[dict[str, Any], list[File]]]],
    *,
    largest: int = LARGEST_BYTES,
    overwrite: bool = False,
) -> int:
    """Writes the page with all cases, under another name first: a folder that exists is whole.

    Args:
      folder: a new one, or with `overwrite` one that this function has made.
      listed: from `manifest`, embedded.
      cases: what makes each case, in the order of the list; one is in memory at a time.
      largest: bytes that the folder may hold.
      overwrite: replace a folder of this kind.

    Returns:
      The bytes of all files.

    Raises:
      UserError: the folder exists, cannot be written, or would hold more than `largest`.
    """
    folder = pathlib.Path(folder)
    _check(folder, overwrite)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        size = _fill(partial, listed, cases, largest)
        if folder.exists():
            shutil.rmtree(folder)
        partial.replace(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error}; choose a folder with space and write access.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return size


def _check(folder: pathlib.Path, overwrite: bool) -> None:
    """Refuses a folder that holds anything but an earlier page, or that may not be replaced."""
    if not folder.exists():
        return
    ours = {*(pathlib.PurePath(name).parts[0] for name in ASSETS), MANIFEST, CASES}
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if others := sorted(there - ours):
        raise UserError(f"{folder} holds {others[0]}, which is not of the viewer; choose a new --output.")
    if there and not overwrite:
        raise UserError(f"{folder} holds a viewer already; add --overwrite, or choose another --output.")


def _fill(folder: pathlib.Path, listed: dict[str, Any], cases: Iterable[Callable], largest: int) -> int:
    (folder / "vendor").mkdir(parents=True)
    (folder / CASES).mkdir()
    size = 0
    for name in ASSETS:
        size += _write(folder / name, asset(name))
    size += _write(folder / MANIFEST, script("manifest", listed))
    for number, make in enumerate(cases):
        content, files = make()
        embedded = {file.name: base64.b64encode(file.data).decode() for file in files}
        size += _write(folder / CASES / f"{number}.js", script(f"{number}", {**content, "files": embedded}))
        if size > largest:
            raise UserError(
                f"The folder would hold more than {largest / 1e6:.0f} MB with {number + 1} of "
                f"{len(listed['cases'])} cases; leave out --output to view them all"
                + (f", or write the worst {number} with --n={number}." if number else ".")
            )
    return size


def _write(path: pathlib.Path, data: bytes) -> int:
    path.write_bytes(data)
    return len(data)
