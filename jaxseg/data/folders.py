"""Folders of prepared cases: each is whole or absent whenever a run is cut, and no two runs write into one."""

import datetime
import json
import os
import socket
import urllib.parse
from collections.abc import Callable
from typing import Any

from jaxseg import paths
from jaxseg.typing import UserError

STALE_PARTIAL = datetime.timedelta(days=1)


def directory(name: str) -> str:
    """Returns a folder name for any case name: separators are escaped, and no name is hidden or climbs up."""
    quoted = urllib.parse.quote(name, safe=" ()+,=@")
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted


def read_json(path: paths.Path) -> dict[str, Any] | None:
    """Returns None for a file that is absent or was cut short by a full disk or a crash of the machine."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


def put(write: Callable[[paths.Path], None], final: paths.Path, digest: str) -> None:
    """Has an empty folder filled under another name and renames it; in a bucket it is filled in its place.

    `write` puts meta.json in last: what has one is whole.
    """
    if paths.is_remote(final):
        _empty(final)
        write(final)
        return
    # Host and process in the name: two runs on one folder never write into each other's case.
    partial = final.parent / f".partial-{final.name}-{socket.gethostname()}-{os.getpid()}"
    try:
        _empty(partial)
        write(partial)
        _replace(partial, final, digest)
    except OSError as error:
        raise UserError(
            f"{final} cannot be written ({error.strerror}); free some space or choose another folder."
        ) from error
    finally:
        paths.remove_tree(partial)


def _empty(folder: paths.Path) -> None:
    (folder / "meta.json").unlink(missing_ok=True)  # first, where it lies in its final place
    paths.remove_tree(folder)
    folder.mkdir(parents=True)


def _replace(partial: paths.Path, final: paths.Path, digest: str) -> None:
    """Puts a whole case in its place. A stale one is moved away first: a folder cannot be renamed onto a full one."""
    if (read_json(final / "meta.json") or {}).get("digest") == digest:
        return  # another run was faster
    if final.exists():
        stale = partial.with_name(partial.name.replace(".partial-", ".stale-", 1))
        os.replace(final, stale)
        paths.remove_tree(stale)
    os.replace(partial, final)


def remove_leftovers(folder: paths.Path) -> None:
    """Removes what killed runs left: of dead processes of this machine, and anything older than a day."""
    if paths.is_remote(folder):
        return  # cases are written in place there
    now, host = datetime.datetime.now().timestamp(), socket.gethostname()
    for pattern in (".partial-*", ".stale-*"):
        for path in folder.glob(pattern):
            owner, _, process = path.name.rpartition("-")
            dead = owner.endswith(f"-{host}") and process.isdigit() and not _alive(int(process))
            if dead or now - path.stat().st_mtime > STALE_PARTIAL.total_seconds():
                paths.remove_tree(path)


def _alive(process: int) -> bool:
    if os.name != "posix":
        return True  # os.kill(pid, 0) would end the process there; age decides
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
