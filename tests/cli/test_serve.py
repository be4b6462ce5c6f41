"""The server of the viewer: what it sends, to whom, and all that it refuses."""

import http.client
import socket
import threading

import pytest

from jaxseg.cli import serve
from jaxseg.typing import UserError


def refused_case():
    raise UserError("Case 7 cannot be read; export it again.")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "inside.txt").write_text("inside")
    (folder / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(folder / "secret.txt")
    table = {
        "": lambda: serve.Reply(b"<p>page</p>", "text/html; charset=utf-8"),
        "inside.txt": lambda: serve.Reply((folder / "inside.txt").read_bytes(), "text/plain"),
        "cases/7.json": refused_case,
        "cases/8.json": lambda: serve.Reply(b"{}"[:0] + str(1 // 0).encode(), "application/json"),
    }
    running, address = serve.start(table)
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield running, address
    running.shutdown()
    running.server_close()


def ask(server, path="", *, method="GET", host="127.0.0.1", raw=None):
    """Sends a request whose path is not touched by any library and returns status, headers and body."""
    running, _ = server
    lines = [f"{method} {raw if raw is not None else running.prefix + path} HTTP/1.1"]
    lines += [f"Host: {name}" for name in ([host] if isinstance(host, str) else host)]
    with socket.create_connection(running.server_address, timeout=20) as stream:
        stream.sendall(("\r\n".join([*lines, "Connection: close", "", ""])).encode())
        reply = http.client.HTTPResponse(stream, method=method)
        reply.begin()
        return reply.status, reply.headers, reply.read()


def test_the_table_is_served_with_headers_that_keep_the_page_to_itself(server):
    status, headers, body = ask(server)
    assert (status, body) == (200, b"<p>page</p>")
    assert headers["Content-Type"] == "text/html; charset=utf-8" and headers["Content-Length"] == "11"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "frame-ancestors 'none'" in policy
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin" and headers["Cache-Control"] == "no-store"
    assert "Python" not in headers["Server"]


def test_head_gives_the_headers_alone(server):
    status, headers, body = ask(server, "inside.txt", method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, "6", b"")


def test_only_this_computer_is_listened_to(server):
    running, address = server
    assert running.server_address[0] == "127.0.0.1" and address.startswith(f"http://127.0.0.1:{running.server_port}/")


@pytest.mark.parametrize(
    "path",
    [
        "../inside.txt", "%2e%2e/inside.txt", "..%2finside.txt", "..\\inside.txt", "./inside.txt", "//inside.txt",
        "inside.txt/", "inside.txt%00", "inside%2etxt", "INSIDE.TXT", "secret.txt", "link.txt", "../../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd", "cases/", "cases", "vendor/", ".", "..",
    ],
)  # fmt: skip
def test_what_is_not_word_for_word_in_the_table_is_not_there(server, path):
    status, _, body = ask(server, path)
    assert status == 404 and b"nothing at this address" in body and b"secret" not in body


@pytest.mark.parametrize(
    "raw", ["/", "/inside.txt", "/etc/passwd", "inside.txt", "http://other.example/inside.txt", "*"]
)
def test_without_the_random_part_nothing_is_there(server, raw):
    assert ask(server, raw=raw)[0] == 404


@pytest.mark.parametrize(
    "host",
    ["other.example", "127.0.0.1.other.example", "localhost.other.example", "[::1]", "127.0.0.1:80:80", "", "0.0.0.0",
     [], ["127.0.0.1", "other.example"]],
)  # fmt: skip
def test_a_page_under_another_name_is_refused(server, host):
    status, _, body = ask(server, host=host)
    assert status == 403 and b"same computer" in body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1:1"])
def test_a_tunnel_may_have_another_port(server, host):
    assert ask(server, host=host)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
def test_nothing_can_be_changed(server, method):
    assert ask(server, method=method)[0] == 501


def test_a_query_is_left_out_of_the_address(server):
    assert ask(server, "inside.txt?x=1")[2] == b"inside"


def test_what_goes_wrong_is_one_sentence(server, capsys):
    status, _, body = ask(server, "cases/7.json")
    assert (status, body) == (500, b'{"error": "Case 7 cannot be read; export it again."}')
    assert not capsys.readouterr().err
    status, _, body = ask(server, "cases/8.json")
    assert status == 500 and b"ZeroDivisionError" in body and b"Traceback" not in body


def test_a_port_that_is_taken_is_told_in_a_sentence(server):
    running, _ = server
    with pytest.raises(UserError, match=f"--port {running.server_port} of 127.0.0.1 cannot be opened"):
        serve.start({}, port=running.server_port)


def test_every_start_has_another_address():
    first, second = serve.start({}), serve.start({})
    try:
        assert first[0].prefix != second[0].prefix and len(first[0].prefix) > 20
    finally:
        first[0].server_close()
        second[0].server_close()
