"""Paths on a disk or in a bucket: gs://, s3:// through etils.epath; file:// takes the same road on this disk."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from etils import epath

if TYPE_CHECKING:
    Path = pathlib.Path  # epath.Path offers the methods of it that are used here, but is no subclass
else:
    Path = pathlib.Path | epath.Path
BUCKETS = {"gs": "gcs", "s3": "s3"}  # scheme -> TensorStore's driver


def path(place: str | os.PathLike) -> Path:
    """Returns a `pathlib.Path`, or an `epath.Path` for an address such as gs://bucket/folder."""
    if isinstance(place, epath.Path):
        return place
    text = os.fspath(place)
    if "://" not in text:
        return pathlib.Path(text)
    return epath.Path(text.removeprefix("file://"))


def is_remote(place: Path) -> bool:
    """Whether folders cannot be renamed and files not be appended to: an object store has neither."""
    return not isinstance(place, pathlib.Path)


def write_text(target: Path, text: str) -> None:
    """Writes a text file so that no reader sees half of it: under a temporary name, which is then given up.

    An object store shows a file once it is complete.
    """
    write_bytes(target, text.encode())


def write_bytes(target: Path, content: bytes) -> None:
    """As `write_text`."""
    if is_remote(target):
        target.write_bytes(content)
        return
    temporary = target.with_name(f".{target.name}-{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(target)


def remove_tree(folder: Path) -> None:
    """Removes a folder and what is in it; one that is absent, or a file that resists, is left."""
    if is_remote(folder):
        epath.Path(folder).rmtree(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def local(source: Path) -> Iterator[pathlib.Path]:
    """Yields a file of this disk with the content and the name of `source`, for readers that need one."""
    if not is_remote(source):
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / source.name
        copy.write_bytes(source.read_bytes())
        yield copy


def upload(folder: pathlib.Path, target: Path) -> None:
    """Copies every file under a folder of this disk to the same place under `target`."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            place = target / file.relative_to(folder).as_posix()
            place.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(place, file.read_bytes())


def kvstore(place: str | os.PathLike) -> dict[str, Any]:
    """Returns TensorStore's description of a folder."""
    text = os.fspath(path(place))
    scheme, _, rest = text.partition("://")
    if not rest:
        return {"driver": "file", "path": text}
    bucket, _, inside = rest.partition("/")
    return {"driver": BUCKETS[scheme], "bucket": bucket, "path": inside}


def kvstore_url(place: str | os.PathLike) -> str:
    """Returns a folder as TensorStore's address of it."""
    text = os.fspath(path(place))
    return f"{text}/" if "://" in text else f"file://{text}/"


def absolute(place: str | os.PathLike) -> Path:
    """Returns a path that does not depend on the current folder; an address does not anyway."""
    place = path(place)
    return place if "://" in os.fspath(place) else place.absolute()
