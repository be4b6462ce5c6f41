"""Files of this computer for a browser on this computer: a fixed table of addresses, read only, nobody else asked in.

Only what the table holds is ever sent, so no address can lead to another file. The first part of every address is drawn
at random for each start: other users of a shared computer, and pages of other origins, do not know it.
"""

import http.server
import json
import secrets
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxseg.typing import UserError

ADDRESS = "127.0.0.1"
# What a browser may call this computer; another name in the Host header is that of a page that points to us.
HOSTS = ("127.0.0.1", "localhost")
WAIT_SECONDS = 60  # for a request to arrive whole
HEADERS = {
    # NiiVue draws its letters from pictures in its own script, and reads flat images from blobs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' data:; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Reply(NamedTuple):
    """What is sent: bytes and their media type."""

    body: bytes
    kind: str


Table = Mapping[str, Callable[[], Reply]]


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    table: Table
    prefix: str

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves before it has everything is no fault."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def start(table: Table, *, port: int = 0) -> tuple[_Server, str]:
    """Opens the port and returns the server, which serves from `serve_forever` on, and the address to open.

    Args:
      table: path behind the random part, such as "index.html" -> what makes the reply; "" is the page itself. It may
        grow while the server runs.
      port: of 127.0.0.1; 0 takes a free one.

    Raises:
      UserError: the port is taken or not allowed.
    """
    try:
        server = _Server((ADDRESS, port), _Handler)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--port {port} of {ADDRESS} cannot be opened ({error}); leave it out, and a free one is taken."
        ) from error
    server.table = table
    server.prefix = f"/{secrets.token_urlsafe(16)}/"
    return server, f"http://{ADDRESS}:{server.server_port}{server.prefix}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "jaxseg", ""
    timeout = WAIT_SECONDS

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        status, reply = self._reply()
        self.send_response(status)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(reply.body)

    def _reply(self) -> tuple[int, Reply]:
        """Looks the address up as it came, undecoded: what is not word for word in the table is not there."""
        if not _is_here(self.headers.get_all("Host", [])):
            return 403, said("This page is for a browser on the same computer.")
        table, prefix = self.server.table, self.server.prefix
        wanted = self.path.partition("?")[0]
        make = table.get(wanted[len(prefix) :]) if wanted.startswith(prefix) else None
        if make is None:
            return 404, said("There is nothing at this address.")
        try:
            return 200, make()
        except UserError as error:
            return 500, said(str(error))
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            return 500, said(f"A fault of the program: {type(error).__name__}; see its terminal.")

    def log_message(self, format: str, *args: Any) -> None:
        """No log: addresses are of no use to anybody, and the terminal belongs to the user."""


def said(sentence: str) -> Reply:
    """Returns a sentence for the page."""
    return Reply(json.dumps({"error": sentence}).encode(), "application/json")


def _is_here(hosts: list[str]) -> bool:
    """Whether a request names this computer, and once; the port may be that of a tunnel."""
    if len(hosts) != 1:
        return False
    name, _, port = hosts[0].partition(":")
    return name.lower() in HOSTS and (not port or port.isdigit())
