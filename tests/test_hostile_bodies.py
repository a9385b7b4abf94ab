"""Bodies that no client of ours sends, over a socket to a real server: each is refused, in constant memory."""

import json
import re
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import Server, resident, running

pytestmark = pytest.mark.parametrize(
    "lasting_database_url", ["sqlite"], indirect=True, scope="module"
)

MIB = 1024 * 1024
HUGE = 50 * MIB
PIECE = b" " * (MIB // 4)
QUERY = b'{"query": "{ __typename }"}'
JSON = ("Content-Type: application/json",)
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def server(lasting_database_url: str) -> Iterator[Server]:
    with running(lasting_database_url) as [server]:
        assert ask(server, [QUERY]) == (200, {"__typename": "Query"})
        yield server


def place(server: Server) -> tuple[str, int]:
    url = httpx.URL(server.address)
    return url.host, url.port or 80


def exchange(server: Server, headers: Iterable[str], pieces: Iterable[bytes]) -> bytes:
    """Sends until there is an answer; then reads all there is. b"" where it is hung up on."""
    lines = ("POST /graphql HTTP/1.1", "Host: billing", "Connection: close", *headers, "", "")
    with socket.create_connection(place(server), timeout=30) as client:
        received = b""
        try:
            client.sendall("\r\n".join(lines).encode())
            for piece in pieces:
                if select.select([client], [], [], 0)[0]:
                    break
                client.sendall(piece)
            else:
                client.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass  # it had heard enough; what it said waits to be read
        try:
            while more := client.recv(65536):
                received += more
        except ConnectionError:
            pass
    return received


def read(answer: bytes) -> tuple[int, Any]:
    """The status, and the data or the code of each error."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert b"HTTP/1.1 5" not in answer
    said = json.loads(body)
    if "errors" not in said:
        return status, said["data"]
    return status, {error["extensions"]["code"] for error in said["errors"]}


def ask(server: Server, pieces: list[bytes], *headers: str) -> tuple[int, Any]:
    length = f"Content-Length: {sum(map(len, pieces))}"
    return read(exchange(server, (*JSON, length, *headers), pieces))


def chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


DIGITS = b"1" * 5_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"1",
        b'"x"',
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"query": "\xff"}',
        b'{"query": "\xed\xa0\x80"}',
        b'{"query": "\\ud800"}',
        b'{"query": null}',
        b'{"query": 1}',
        b'{"query": "{ __typename }", "variables": 1}',
        b'{"query": "{ __typename }", "variables": "x"}',
        b'{"query": "{ __typename }", "operationName": 1}',
        b'{"query": "{ __typename }", "extensions": 1}',
        b'{"query": "{ __typename }"',
        b"\x00" * 100,
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"query": "{ __typename }", "variables": {"a": '
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        DIGITS,
        b'{"query": ' + DIGITS + b"}",
        b'{"query": "{ __typename }", "variables": ' + DIGITS + b"}",
    ],
    ids=lambda body: f"{body[:60]!r} of {len(body)}",
)
def test_a_body_that_is_no_request_is_refused(server: Server, body: bytes) -> None:
    assert ask(server, [body]) == (400, {"BAD_USER_INPUT"})


@pytest.mark.parametrize(
    "body",
    [
        b'{"query": "{ __typename }", "variables": {"a": ' + DIGITS + b"}}",
        b'{"query": "query($a: Int) { transactions(mandateId: 1, first: $a) { totalCount } }",'
        b' "variables": {"a": ' + DIGITS + b"}}",
        b'{"query": "{ transactions(mandateId: 1, first: ' + DIGITS + b') { totalCount } }"}',
        b'{"query": "{ mandate(id: ' + DIGITS + b') { id } }"}',
        b'{"query": "' + b"{a" * 1_000 + b'"}',
        b'{"query": "{ mandate(id: ' + b"[" * 10_000 + b'"}',
    ],
    ids=lambda body: f"{body[:90]!r} of {len(body)}",
)
def test_a_request_that_is_hostile_is_no_fault_of_the_server(server: Server, body: bytes) -> None:
    status, said = ask(server, [body])
    assert status in (200, 400, 401)
    assert "INTERNAL" not in said


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ],
)
def test_a_body_of_another_type_is_refused(server: Server, content_type: str) -> None:
    headers = [f"Content-Type: {content_type}"] if content_type else []
    length = f"Content-Length: {len(QUERY)}"
    status, said = read(exchange(server, [*headers, length], [QUERY]))
    assert (status, said) in [(400, {"BAD_USER_INPUT"}), (415, {"BAD_USER_INPUT"})]


def with_length(server: Server) -> bytes:
    headers = (*JSON, f"Content-Length: {HUGE}")
    return exchange(server, headers, (PIECE for _ in range(HUGE // len(PIECE))))


def without_length(server: Server) -> bytes:
    pieces = (PIECE for _ in range(HUGE // len(PIECE)))
    return exchange(server, (*JSON, CHUNKED), chunks(pieces))


def as_a_query(server: Server) -> bytes:
    pieces = [b'{"query": "{ __typename }', *[PIECE] * (HUGE // len(PIECE)), b'"}']
    return exchange(server, (*JSON, f"Content-Length: {sum(map(len, pieces))}"), pieces)


@pytest.mark.parametrize("send", [with_length, without_length, as_a_query])
def test_a_body_of_50_mb_is_refused_in_constant_memory(
    server: Server, send: Callable[[Server], bytes]
) -> None:
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # the peak begins anew
    before = peak(server.pid)
    for _ in range(20):
        assert read(send(server)) == (413, {"BAD_USER_INPUT"})
    assert peak(server.pid) - before < 20


def peak(pid: int) -> float:
    """MiB of memory that a process has held at most."""
    [kibibytes] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kibibytes) / 1024


def test_a_chunked_request_is_answered(server: Server) -> None:
    answer = exchange(server, (*JSON, CHUNKED), chunks([QUERY[:5], QUERY[5:]]))
    assert read(answer) == (200, {"__typename": "Query"})


def test_a_length_that_is_too_short_cuts_the_body(server: Server) -> None:
    answer = exchange(server, (*JSON, "Content-Length: 10"), [QUERY + b"x" * 100])
    assert read(answer) == (400, {"BAD_USER_INPUT"})


@pytest.mark.parametrize("length", [len(QUERY) + 1, HUGE])
def test_a_length_that_is_too_long_is_hung_up_on_or_refused(server: Server, length: int) -> None:
    answer = exchange(server, (*JSON, f"Content-Length: {length}"), [QUERY])
    assert not answer or read(answer)[0] in (400, 413)


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: -1",),
        ("Content-Length: x",),
        ("Content-Length: " + "9" * 100,),
        ("Content-Length: 27", "Content-Length: 5"),
        ("Content-Length: 27", CHUNKED),
        (CHUNKED,),  # and yet in no chunks
    ],
)
def test_a_length_that_makes_no_sense_is_refused(server: Server, headers: tuple[str, ...]) -> None:
    answer = exchange(server, (*JSON, *headers), [QUERY])
    assert not answer or answer.split()[1] in (b"400", b"413")


def test_who_trickles_and_leaves_disturbs_nobody(server: Server) -> None:
    for length in ("Content-Length: 1000", CHUNKED):
        for _ in range(10):
            with socket.create_connection(place(server), timeout=30) as client:
                lines = ("POST /graphql HTTP/1.1", "Host: billing", *JSON, length, "", "")
                client.sendall("\r\n".join(lines).encode())
                for byte in b"4\r\nabcd":
                    client.sendall(bytes([byte]))
                    time.sleep(0.005)
    assert ask(server, [QUERY]) == (200, {"__typename": "Query"})


def test_headers_are_bounded(server: Server) -> None:
    before = resident(server.pid)
    for lines in (["X: " + "x" * (20 * MIB)], [f"X{n}: {'x' * 90}" for n in range(200_000)]):
        answer = exchange(server, lines, [])
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert resident(server.pid) - before < 20
    assert ask(server, [QUERY]) == (200, {"__typename": "Query"})


def test_a_trailer_is_no_header(server: Server) -> None:
    body = b"%x\r\n%s\r\n0\r\nAuthorization: Bearer x\r\nX-Request-Id: trailing\r\n\r\n" % (
        len(QUERY),
        QUERY,
    )
    head = ("POST /graphql HTTP/1.1", "Host: billing", "Connection: close", *JSON, CHUNKED, "", "")
    with socket.create_connection(place(server), timeout=10) as client:
        client.sendall("\r\n".join(head).encode() + body)  # at once: before anything is looked at
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert read(answer) == (200, {"__typename": "Query"})
    assert b"trailing" not in answer


KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


def test_there_are_no_websockets_elsewhere(server: Server) -> None:
    upgrade = ("Upgrade: websocket", "Connection: upgrade", "Sec-WebSocket-Version: 13")
    with socket.create_connection(place(server), timeout=10) as client:
        lines = ("GET /livez?token=x HTTP/1.1", "Host: billing", *upgrade, KEY)
        client.sendall("\r\n".join((*lines, "", "")).encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 403 ")
