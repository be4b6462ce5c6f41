"""One command at a time in a workdir: two that train there would write into each other's checkpoints."""

import contextlib
import os
from collections.abc import Iterator

from jaxseg import paths
from jaxseg.typing import UserError


@contextlib.contextmanager
def alone(folder: paths.Path) -> Iterator[None]:
    """Keeps other commands out of a workdir; the lock goes with the process, however it ends.

    The folder itself is locked (`flock`), so that it holds nothing but the run; one that was made for this and is still
    empty is removed again. Where folders cannot be locked (buckets, Windows, some network disks) nobody is kept out.

    Raises:
      UserError: another command is at work there.
    """
    fresh = not folder.exists()
    lock = _lock(folder)
    if lock is None:
        yield
        return
    try:
        yield
    finally:
        if fresh:
            with contextlib.suppress(OSError):  # there is something in it
                os.rmdir(folder)
        os.close(lock)


def _lock(folder: paths.Path) -> int | None:
    """Returns the open folder that holds the lock, or None where there cannot be one."""
    try:
        import fcntl
    except ImportError:
        return None
    if paths.is_remote(folder):
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError:  # who writes there first tells it
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if not isinstance(error, BlockingIOError):
            return None
        raise UserError(f"Another command is at work in {folder}; wait for it, or name another --workdir.") from error
    return lock
