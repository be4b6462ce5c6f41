"""The background thread: order, bounds, exceptions, and no thread left behind."""

import gc
import itertools
import threading
import time

import pytest

from jaxseg.data.prefetch import prefetch


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "jaxseg-prefetch"]


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    assert not threads()


def wait_until(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_order_and_transfer_in_the_thread():
    names = set()

    def transfer(value):
        names.add(threading.current_thread().name)
        return 10 * value

    assert list(prefetch(range(7), size=3, transfer=transfer)) == [0, 10, 20, 30, 40, 50, 60]
    assert names == {"jaxseg-prefetch"}


def test_runs_ahead_by_size_and_no_more():
    made = []
    source = (made.append(i) or i for i in itertools.count())
    with prefetch(source, size=2) as batches:
        wait_until(lambda: len(made) == 3)  # two ready, one waiting for a place
        time.sleep(0.15)
        assert len(made) == 3
        assert next(batches) == 0
        wait_until(lambda: len(made) == 4)


def test_exception_comes_where_the_item_would():
    def source():
        yield 1
        yield 2
        raise KeyError("the disk is gone")

    batches = prefetch(source())
    assert [next(batches), next(batches)] == [1, 2]
    with pytest.raises(KeyError, match="the disk is gone"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


def test_exception_of_transfer():
    with prefetch([1, 0], transfer=lambda value: 1 / value) as batches:
        assert next(batches) == 1
        with pytest.raises(ZeroDivisionError):
            next(batches)


def test_close_in_the_middle_closes_the_source():
    closed = []

    def source():
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    batches = prefetch(source())
    assert next(batches) == 0 and len(threads()) == 1
    batches.close()
    batches.close()
    assert closed == [True] and not threads()
    with pytest.raises(StopIteration):
        next(batches)


def test_dropped_without_close():
    batches = prefetch(itertools.count())
    assert next(batches) == 0
    del batches
    gc.collect()
    wait_until(lambda: not threads())


def test_size_is_checked():
    with pytest.raises(ValueError, match="size"):
        prefetch([], size=0)
