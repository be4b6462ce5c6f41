"""Starts launch.py from a process that has imported everything already: a fork a command, not an import a command.

A fork has its own memory, files, environment and exit status, and ends as any Python process does, so that a test sees
what a user sees. JAX starts its threads with the first computation, which only the forks do.
"""

import atexit
import functools
import gc
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch.py"


def launch(arguments: list[str], *, cwd: pathlib.Path, env: dict[str, str], timeout: float):
    """Runs `launch.py arguments` and returns what `subprocess.run(..., capture_output=True, text=True)` would.

    `timeout` is in seconds. Variables that JAX reads while it is imported hold as they were at the first call.
    """
    server = _server()
    with tempfile.TemporaryDirectory() as folder:
        printed = [pathlib.Path(folder) / name for name in ("stdout", "stderr")]
        request = {"arguments": arguments, "cwd": str(cwd), "env": env, "printed": [str(file) for file in printed]}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        if not select.select([server.stdout], [], [], timeout)[0]:
            _end(server)
            _server.cache_clear()
            raise subprocess.TimeoutExpired(arguments, timeout, *(file.read_text() for file in printed))
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(arguments, status, *(file.read_text() for file in printed))


@functools.cache
def _server() -> subprocess.Popen:
    """One a test process, in a session of its own, so that it ends together with its forks."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    server = subprocess.Popen([sys.executable, __file__], cwd=ROOT, start_new_session=True, **pipes)
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _import_all() -> None:
    """What the modes import, now or at their first use."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # as launch.py does before it imports JAX
    import importlib

    import grain  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import nibabel  # noqa: F401
    import PIL.Image  # noqa: F401
    import rich.progress  # noqa: F401
    import scipy.optimize
    import scipy.stats  # noqa: F401
    import tensorboardX  # noqa: F401

    from jaxseg.cli import main

    for modes in (main.MODES, main.OF_FOLDS, main.OF_MEMBERS):
        for target in modes.values():
            importlib.import_module(target.partition(":")[0])


def _wait_for_requests() -> None:
    """Forks for each line of the standard input; returns in the forks."""
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if process == 0:
            _become(request)
            return
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    os._exit(0)


def _become(request: dict) -> None:
    """Gives this process the arguments, folder, environment and files of the request."""
    for number, (name, mode) in enumerate(((os.devnull, "rb"), *((name, "wb") for name in request["printed"]))):
        with open(name, mode) as file:
            os.dup2(file.fileno(), number)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = [str(LAUNCH), *request["arguments"]]


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    _import_all()
    # What has been imported stays: no garbage collection of a fork, above all that at its end, looks through it again.
    gc.collect()
    gc.freeze()
    _wait_for_requests()
    import runpy

    runpy.run_path(str(LAUNCH), run_name="__main__")
