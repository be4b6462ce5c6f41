"""Prepares the next batches in a background thread while the device computes."""

import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

POLL_SECONDS = 0.05  # how soon a waiting thread notices that it should stop


def prefetch(iterator: Iterable, *, size: int = 2, transfer: Callable[[Any], Any] | None = None) -> "Prefetcher":
    """Runs `iterator` ahead in a thread.

    Args:
      iterator: where batches come from; if it has `close`, it is closed at the end.
      size: batches kept ready; one more may be in the making.
      transfer: applied to each batch in the thread, such as the copy to the devices.

    Returns:
      An iterator of the same batches in the same order, to be closed: `with prefetch(...) as batches:` or `close()`.
      An exception of `iterator` or `transfer` is raised where the batch would have come.
    """
    return Prefetcher(iterator, size=size, transfer=transfer)


class Prefetcher:
    """See `prefetch`; used by one thread."""

    def __init__(self, iterator: Iterable, *, size: int, transfer: Callable[[Any], Any] | None):
        if size < 1:
            raise ValueError(f"size should be at least 1, got {size}.")
        self._source = iter(iterator)
        self._queue: queue.Queue = queue.Queue(maxsize=size)
        self._stop = threading.Event()
        # The thread holds no reference to this object, so one that is dropped unclosed still stops its thread.
        weakref.finalize(self, self._stop.set)
        self._thread = threading.Thread(
            target=_fill, args=(self._source, transfer, self._queue, self._stop), name="jaxseg-prefetch", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> "Prefetcher":
        return self

    def __next__(self) -> Any:
        if self._stop.is_set():
            raise StopIteration
        kind, value = self._queue.get()
        if kind == "item":
            return value
        self.close()
        if kind == "error":
            raise value
        raise StopIteration

    def close(self) -> None:
        """Stops the thread, waits for it and closes the source; what was ready is dropped. May be called again."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        while not self._queue.empty():
            self._queue.get_nowait()
        if hasattr(self._source, "close"):
            self._source.close()

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _fill(source: Iterator, transfer: Callable | None, ready: queue.Queue, stop: threading.Event) -> None:
    try:
        for item in source:
            if not _put(ready, ("item", item if transfer is None else transfer(item)), stop):
                return
        _put(ready, ("end", None), stop)
    except BaseException as error:
        # Any exception, also SystemExit of the source, belongs to the consumer.
        _put(ready, ("error", error), stop)


def _put(ready: queue.Queue, entry: tuple[str, Any], stop: threading.Event) -> bool:
    """Waits for a free place; returns False when told to stop."""
    while not stop.is_set():
        try:
            ready.put(entry, timeout=POLL_SECONDS)
            return True
        except queue.Full:
            continue
    return False
