"""--mode view: cases in the browser, served to this computer alone, or written as a folder that needs no server."""

import functools
import json
import pathlib
import signal
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from jaxseg import paths
from jaxseg.cli import serve, view_cases, workdir
from jaxseg.cli.evaluate import report
from jaxseg.evaluate.report import REPORT, VIEWER
from jaxseg.typing import UserError
from jaxseg.viz import viewer


def view(arguments: workdir.Arguments) -> None:
    """Serves the page until Ctrl-C, or writes it into --output.

    Raises:
      UserError: nothing to show, wrong flags, a port that is taken, or an --output that cannot be written.
    """
    if arguments.pairs < 0 or not 0 <= arguments.port <= 65535:
        raise UserError(f"--n should be 0 or more and --port 0 to 65535, got {arguments.pairs} and {arguments.port}.")
    source = view_cases.source(arguments)
    if arguments.pairs:
        source = source._replace(cases=source.cases[: arguments.pairs])
    if arguments.output:
        _write(arguments, source)
    else:
        _serve(arguments, source)


def _listed(source: view_cases.Source, *, embedded: bool) -> dict[str, Any]:
    return viewer.manifest(
        [case.listed for case in source.cases],
        title=source.title,
        classes=source.classes,
        ranking=source.ranking,
        metrics=source.metrics,
        note=source.note,
        embedded=embedded,
    )


def _write(arguments: workdir.Arguments, source: view_cases.Source) -> None:
    assert arguments.output is not None
    folder = pathlib.Path(arguments.output)
    made = (functools.partial(source.make, case) for case in source.cases)
    size = viewer.write_folder(folder, _listed(source, embedded=True), made, overwrite=arguments.overwrite)
    print(f"{_count(source)}, {size / 1e6:.1f} MB; open {folder / 'index.html'}")
    beside = paths.path(folder.absolute().parent)
    if folder.name == VIEWER and (beside / REPORT).is_file():
        report(arguments._replace(workdir=beside))  # which links to it


def _serve(arguments: workdir.Arguments, source: view_cases.Source) -> None:
    with tempfile.TemporaryDirectory(prefix="jaxseg-view-", ignore_cleanup_errors=True) as folder:
        server, address = serve.start(_table(source, pathlib.Path(folder)), port=arguments.port)
        before = signal.signal(signal.SIGTERM, _interrupt)  # so that the files go then, too
        try:
            print(f"{_count(source)} at {address}\nCtrl-C ends it", flush=True)
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            print("\nthe viewer has ended")
        finally:
            signal.signal(signal.SIGTERM, before)
            server.server_close()


def _count(source: view_cases.Source) -> str:
    return "1 case" if len(source.cases) == 1 else f"{len(source.cases)} cases"


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _table(source: view_cases.Source, folder: pathlib.Path) -> dict[str, Callable[[], serve.Reply]]:
    """Returns address -> reply of the page and of every case; the files of a case come in when it is first opened."""
    table: dict[str, Callable[[], serve.Reply]] = {
        name: functools.partial(_asset, name, kind) for name, kind in viewer.ASSETS.items()
    }
    table[""] = table["index.html"]
    listed = viewer.script("manifest", _listed(source, embedded=False))
    table["manifest.js"] = lambda: serve.Reply(listed, viewer.ASSETS["viewer.js"])
    one_at_a_time = threading.Lock()  # a case is made once, and memory holds one
    made: dict[int, serve.Reply] = {}

    def open_case(number: int) -> serve.Reply:
        with one_at_a_time:
            if number not in made:
                content, files = source.make(source.cases[number])
                for file in files:
                    path = folder / f"{number}_{file.name}"
                    path.write_bytes(file.data)
                    table[f"cases/{number}/{file.name}"] = functools.partial(_file, path)
                made[number] = serve.Reply(json.dumps(content, allow_nan=False).encode(), "application/json")
            return made[number]

    for number in range(len(source.cases)):
        table[f"cases/{number}.json"] = functools.partial(open_case, number)
    return table


def _asset(name: str, kind: str) -> serve.Reply:
    return serve.Reply(viewer.asset(name), kind)


def _file(path: pathlib.Path) -> serve.Reply:
    return serve.Reply(path.read_bytes(), "application/octet-stream")
