"""Subscriptions as clients meet them: over graphql-transport-ws and as server-sent events, of a real server."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from string import ascii_letters
from typing import Any

import httpx
import orjson
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from app.auth import issue_token
from app.billing.enums import MembershipRole
from app.config import Settings
from app.database import Database
from app.trusted_documents import hash_of
from tests.servers import Server, running
from tests.world import (
    MANDATE,
    OTHER_MANDATE,
    PREPAY_USER,
    add_mandate,
    add_member,
    add_user,
    credit,
)

pytestmark = pytest.mark.anyio

BALANCE = "subscription ($m: ID!, $u: ID) { balanceChanged(mandateId: $m, userId: $u) { balance } }"
ADDED = "subscription ($m: ID!) { transactionAdded(mandateId: $m) { amount user { id } } }"
QUICK = "from app.server import streams; streams.SEND_SECONDS = streams.INIT_SECONDS = 0.5"
SECONDS = 10
Message = dict[str, Any]


def token(user_id: str, seconds: int = 60) -> str:
    return issue_token(Settings(), user_id, seconds)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server writes."""
    return tmp_path_factory.mktemp("subscriptions") / "output"


@pytest.fixture(scope="module")
def server(lasting_database_url: str, output: Path) -> Iterator[Server]:
    """A server that drops slow clients soon; alice and bob are members of MANDATE, ada is its admin."""
    asyncio.run(_add_people(lasting_database_url))
    with running(lasting_database_url, 1, QUICK, output=output, BILLING_METRICS="on") as [server]:
        yield server


async def _add_people(database_url: str) -> None:
    async with Database(database_url) as database:
        await add_user(database, "root", is_sys_admin=True)
        await add_mandate(
            database, model=PREPAY_USER, users=("alice", "bob"), default_user_credit=0
        )
        await add_member(database, "ada", role=MembershipRole.ADMIN)
        await add_mandate(database, OTHER_MANDATE, users=("sven",))


class Socket:
    """A client of graphql-transport-ws."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def say(self, message: Any) -> None:
        await self.connection.send(
            message if isinstance(message, str | bytes) else orjson.dumps(message).decode()
        )

    async def hear(self) -> Message:
        async with asyncio.timeout(SECONDS):
            return dict(orjson.loads(await self.connection.recv()))

    async def subscribe(self, query: str, id: str = "1", **variables: Any) -> None:  # noqa: A002
        payload = {"query": query, "variables": variables}
        await self.say({"id": id, "type": "subscribe", "payload": payload})

    async def data(self) -> Any:
        """Of the one root field of the next message."""
        message = await self.hear()
        assert message["type"] == "next", message
        assert "errors" not in message["payload"], message
        [value] = message["payload"]["data"].values()
        return value

    async def codes(self) -> list[str]:
        """Of an operation that was not begun."""
        message = await self.hear()
        assert message["type"] == "error", message
        return [error["extensions"]["code"] for error in message["payload"]]

    async def close(self) -> tuple[int, str]:
        """How the server ends it."""
        async with asyncio.timeout(SECONDS):
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    await self.connection.recv()
        assert closed.value.rcvd
        return closed.value.rcvd.code, closed.value.rcvd.reason


@asynccontextmanager
async def connected(
    server: Server, *protocols: str, sock: socket.socket | None = None
) -> AsyncIterator[Socket]:
    address = server.address.replace("http", "ws") + "/graphql?token=hidden"
    async with connect(
        address,
        subprotocols=[Subprotocol(name) for name in protocols or ("graphql-transport-ws",)],
        max_size=None,
        sock=sock,
    ) as connection:
        yield Socket(connection)


@asynccontextmanager
async def signed_in(server: Server, who: str | None, seconds: int = 60) -> AsyncIterator[Socket]:
    async with connected(server) as socket:
        payload = {"Authorization": f"Bearer {token(who, seconds)}"} if who else {}
        await socket.say({"type": "connection_init", "payload": payload})
        assert await socket.hear() == {"type": "connection_ack"}
        yield socket


@asynccontextmanager
async def events(
    server: Server, who: str, query: str, /, **variables: Any
) -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
    """Server-sent events: names, and data as it was before it was written as JSON."""
    async with (
        httpx.AsyncClient(timeout=SECONDS) as client,
        client.stream(
            "POST",
            f"{server.address}/graphql",
            json={"query": query, "variables": variables},
            headers={"Authorization": f"Bearer {token(who)}", "Accept": "text/event-stream"},
        ) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield _events(response)


async def _events(response: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    name = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data:"):
            data = line.removeprefix("data:").strip()
            yield name, orjson.loads(data) if data else None


async def book(server: Server, amount: int, user_id: str = "alice") -> None:
    """A credit, through another process where the database lets it be heard."""
    mutation = """
        mutation ($input: AddCreditInput!) { addCredit(input: $input) { userErrors { message } } }
    """
    async with httpx.AsyncClient() as client:
        response = await client.post(
            f"{server.address}/graphql",
            json={
                "query": mutation,
                "variables": {
                    "input": {
                        "mandateId": MANDATE,
                        "userId": user_id,
                        "amount": str(amount),
                        "description": "More",
                        "idempotencyKey": f"{user_id} {amount} {time.time_ns()}",
                    }
                },
            },
            headers={"Authorization": f"Bearer {token('root')}"},
        )
    assert response.json()["data"]["addCredit"]["userErrors"] == []


async def open_streams(server: Server) -> int:
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{server.address}/metrics")).text
    [line] = [line for line in text.splitlines() if line.startswith("billing_live_streams ")]
    return int(float(line.split()[1]))


async def as_many_are_open(server: Server, number: int) -> None:
    async with asyncio.timeout(SECONDS):
        while await open_streams(server) != number:  # each time it asks the server
            pass


async def test_a_balance_over_websocket(server: Server) -> None:
    async with signed_in(server, "alice") as socket:
        await socket.subscribe(BALANCE, m=MANDATE)
        before = int((await socket.data())["balance"])
        await book(server, 7)
        assert int((await socket.data())["balance"]) == before + 7


async def test_a_balance_as_events(server: Server) -> None:
    async with events(server, "alice", BALANCE, m=MANDATE) as stream:
        name, body = await anext(stream)
        assert name == "next"
        before = int(body["data"]["balanceChanged"]["balance"])
        await book(server, 7)
        _, body = await anext(stream)
        assert int(body["data"]["balanceChanged"]["balance"]) == before + 7


async def test_transactions_over_both(server: Server) -> None:
    async with (
        signed_in(server, "ada") as socket,
        events(server, "bob", ADDED, m=MANDATE) as stream,
    ):
        await socket.subscribe(ADDED, m=MANDATE)
        await socket.say({"type": "ping"})
        assert await socket.hear() == {"type": "pong"}
        await as_many_are_open(server, 2)
        await book(server, 1)
        await book(server, 2, "bob")
        assert await socket.data() == {"amount": "1", "user": {"id": "alice"}}
        assert await socket.data() == {"amount": "2", "user": {"id": "bob"}}
        _, body = await anext(stream)
        assert body == {"data": {"transactionAdded": {"amount": "2", "user": {"id": "bob"}}}}


async def test_a_stream_ends_when_the_client_says_so(server: Server) -> None:
    async with signed_in(server, "alice") as socket:
        await socket.subscribe(BALANCE, m=MANDATE)
        await socket.data()
        await as_many_are_open(server, 1)
        await socket.say({"id": "1", "type": "complete"})
        await as_many_are_open(server, 0)
        await socket.subscribe(BALANCE, m=MANDATE)  # under the same id again
        await socket.data()


async def test_a_stream_ends_when_the_client_leaves(server: Server) -> None:
    async with signed_in(server, "alice") as socket, events(server, "bob", BALANCE, m=MANDATE) as s:
        await socket.subscribe(BALANCE, m=MANDATE)
        await socket.data()
        await anext(s)
        await as_many_are_open(server, 2)
    await as_many_are_open(server, 0)


@pytest.mark.parametrize("mandate_id", [OTHER_MANDATE, "unknown"])
@pytest.mark.parametrize("query", [BALANCE, ADDED])
async def test_a_mandate_of_others_is_as_none(server: Server, query: str, mandate_id: str) -> None:
    async with signed_in(server, "alice") as socket:
        await socket.subscribe(query, m=mandate_id)
        assert await socket.hear() == {"id": "1", "type": "complete"}
    async with events(server, "alice", query, m=mandate_id) as stream:
        assert [event async for event in stream] == [("complete", None)]


async def test_a_refusal_ends_a_stream_and_no_other(server: Server) -> None:
    async with signed_in(server, "alice") as socket:
        await socket.subscribe(BALANCE, "watch", m=MANDATE)
        await socket.data()
        for query, variables, code in (
            (BALANCE, {"m": MANDATE, "u": "bob"}, "FORBIDDEN"),
            (BALANCE, {}, "BAD_USER_INPUT"),
            ("subscription {", {}, "BAD_USER_INPUT"),
            ("subscription { nothing }", {}, "BAD_USER_INPUT"),
            ("", {}, "BAD_USER_INPUT"),
            ("{ viewer { " + "a: isSysAdmin " * 40 + "} }", {}, "OPERATION_TOO_COMPLEX"),
            (BALANCE.replace("}", "} viewer { isSysAdmin }", 1), {"m": MANDATE}, "BAD_USER_INPUT"),
        ):
            await socket.subscribe(query, **variables)
            assert set(await socket.codes()) == {code}, query
        await book(server, 3)
        assert (await socket.hear())["id"] == "watch"


@pytest.mark.parametrize(
    "payload",
    [None, [], "x", {}, {"query": 1}, {"query": "{ a }", "variables": []}, {"query": None}],
)
async def test_a_wrong_payload_is_told(server: Server, payload: Any) -> None:
    async with signed_in(server, "alice") as socket:
        await socket.say({"id": "1", "type": "subscribe", "payload": payload})
        assert await socket.codes() == ["BAD_USER_INPUT"]


@pytest.mark.parametrize(
    "message",
    [
        "",
        "x",
        "1",
        "[]",
        "null",
        b"{}",
        "{}",
        "[" * 100_000,
        '{"type": "unknown"}',
        '{"type": []}',
        '{"type": "subscribe"}',
        '{"id": [], "type": "subscribe", "payload": {}}',
        '{"id": {}, "type": "complete"}',
    ],
)
async def test_what_is_no_message_ends_the_connection(server: Server, message: str | bytes) -> None:
    async with signed_in(server, "alice") as socket:
        await socket.say(message)
        assert (await socket.close())[0] == 4400


async def test_a_message_has_a_size(server: Server) -> None:
    async with signed_in(server, "alice") as socket:
        await socket.say("x" * (2 * 1024 * 1024 + 1))
        assert (await socket.close())[0] == 1009


async def test_who_does_not_say_who_they_are_is_shut_out(server: Server) -> None:
    async with connected(server) as socket:
        assert (await socket.close())[0] == 4408
    async with connected(server) as socket:
        await socket.subscribe(BALANCE, m=MANDATE)
        assert (await socket.close())[0] == 4401
    async with connected(server, "graphql-ws") as socket:
        assert await socket.close() == (4406, "Ask for graphql-transport-ws.")


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ("Bearer x", "The token is malformed or not signed by us."),
        (1, "Send a token: Authorization: Bearer …"),
        ([], "Send a token: Authorization: Bearer …"),
        (f"Bearer {token('nobody', 3600)}", "The token's user is unknown or disabled."),
        (f"Bearer {token('alice', -1)}", "The token has expired: get a new one."),
    ],
)
async def test_a_wrong_token_is_told(server: Server, authorization: Any, reason: str) -> None:
    async with connected(server) as socket:
        await socket.say({"type": "connection_init", "payload": {"authorization": authorization}})
        assert await socket.close() == (4403, reason)
    async with httpx.AsyncClient() as client:
        response = await client.post(
            f"{server.address}/graphql",
            json={"query": BALANCE, "variables": {"m": MANDATE}},
            headers={"Authorization": str(authorization), "Accept": "text/event-stream"},
        )
    assert response.status_code == 401
    assert response.headers["content-type"].startswith("application/json")


async def test_nobody_watches_nothing(server: Server) -> None:
    """In development whoever has no token may look at the schema."""
    async with signed_in(server, None) as socket:
        await socket.subscribe("{ __typename }")
        assert await socket.hear() == {
            "id": "1",
            "type": "next",
            "payload": {
                "data": {"__typename": "Query"},
                "extensions": {"cost": {"requested": 0, "limit": 5000}},
            },
        }
        assert (await socket.hear())["type"] == "complete"
        await socket.subscribe(BALANCE, m=MANDATE)
        assert await socket.codes() == ["UNAUTHENTICATED"]


async def test_no_stream_outlives_its_token(server: Server) -> None:
    async with signed_in(server, "alice", seconds=5) as socket:
        await socket.subscribe(BALANCE, m=MANDATE)
        await socket.data()
        await asyncio.sleep(5)
        await book(server, 5)
        message = await socket.hear()
        [error] = message["payload"]["errors"]
        assert error["extensions"]["code"] == "UNAUTHENTICATED"
        assert await socket.hear() == {"id": "1", "type": "complete"}


async def test_queries_and_mutations_run_over_both(server: Server) -> None:
    rename = """
        mutation ($name: String) {
          upsertUser(input: {id: "bob", firstName: $name}) { user { firstName } userErrors { code } }
        }
    """
    viewer = "{ viewer { user { id } } }"
    async with signed_in(server, "root") as socket:
        for name in ("Bob", "Robert"):
            await socket.subscribe(rename, name=name)
            assert (await socket.data())["user"] == {"firstName": name}
            assert (await socket.hear())["type"] == "complete"
    async with events(server, "alice", viewer) as stream:
        told = [event async for event in stream]
    assert [name for name, _ in told] == ["next", "complete"]
    assert told[0][1]["data"] == {"viewer": {"user": {"id": "alice"}}}


async def test_a_document_is_known_by_its_hash(server: Server) -> None:
    persisted = {"persistedQuery": {"version": 1, "sha256Hash": hash_of(BALANCE)}}
    payload = {"variables": {"m": MANDATE}, "extensions": persisted}
    async with signed_in(server, "alice") as socket:
        await socket.say({"id": "1", "type": "subscribe", "payload": payload})
        assert await socket.codes() == ["PERSISTED_QUERY_NOT_FOUND"]
        for text in ({"query": BALANCE}, {}):
            await socket.say({"id": "1", "type": "subscribe", "payload": payload | text})
            await socket.data()
            await socket.say({"id": "1", "type": "complete"})


@pytest.mark.parametrize(
    ("accept", "of_query", "of_subscription"),
    [
        ("text/event-stream", "text/event-stream", "text/event-stream"),
        ("text/event-stream, multipart/mixed", "text/event-stream", "text/event-stream"),
        (
            "application/graphql-response+json, application/json, text/event-stream",
            "application/graphql-response+json",
            "text/event-stream",
        ),
        ("application/json, text/event-stream;q=0", "application/json", "application/json"),
        ("*/*", "application/json", "application/json"),
        ("text/event-stream, */*", "application/json", "text/event-stream"),
        ("text/event-stream, */*;q=0.1", "text/event-stream", "text/event-stream"),
    ],
)
async def test_events_are_for_those_who_want_them(
    server: Server, accept: str, of_query: str, of_subscription: str
) -> None:
    headers = {"Authorization": f"Bearer {token('alice')}", "Accept": accept}
    address = f"{server.address}/graphql"
    async with httpx.AsyncClient() as client:
        for query, expected in (("{ __typename }", of_query), (BALANCE, of_subscription)):
            body = {"query": query, "variables": {"m": OTHER_MANDATE}}
            response = await client.post(address, json=body, headers=headers)
            assert response.headers["content-type"].partition(";")[0] == expected


async def test_a_subscription_needs_a_stream(server: Server) -> None:
    async with httpx.AsyncClient() as client:
        response = await client.post(
            f"{server.address}/graphql",
            json={"query": BALANCE, "variables": {"m": MANDATE}},
            headers={"Authorization": f"Bearer {token('alice')}"},
        )
    assert "text/event-stream" in response.json()["errors"][0]["message"]


async def test_a_connection_has_so_many_operations(server: Server) -> None:
    async with signed_in(server, "alice") as socket:
        for number in range(101):
            await socket.subscribe(ADDED, str(number), m=MANDATE)
        message = await socket.hear()
        assert (message["id"], message["type"]) == ("100", "error")


async def test_who_reads_too_slowly_is_dropped(server: Server) -> None:
    """More is asked for than the buffers of the system hold, and it is never read."""
    aliases = " ".join(f"{letter * 120}: name" for letter in ascii_letters[:30])
    many = f"{{ __schema {{ types {{ {aliases} }} }} }}"  # half a megabyte
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", int(server.address.rpartition(":")[2])))
    async with connected(server, sock=client) as slow:
        payload = {"Authorization": f"Bearer {token('alice')}"}
        await slow.say({"type": "connection_init", "payload": payload})
        await slow.hear()
        await slow.subscribe(BALANCE, "watch", m=MANDATE)
        await slow.data()
        slow.connection.transport.pause_reading()
        for number in range(30):
            await slow.subscribe(many, str(number))
        await as_many_are_open(server, 0)
        slow.connection.transport.abort()


@pytest.mark.usefixtures("server")
def test_the_end_of_the_server_waits_for_no_stream(lasting_database_url: str) -> None:
    async def watch(server: Server) -> list[tuple[str, Any]]:
        async with events(server, "alice", BALANCE, m=MANDATE) as stream:
            first = await anext(stream)
            server.signal(signal.SIGTERM)
            return [first, *[event async for event in stream]]

    with running(lasting_database_url) as [server]:
        told = asyncio.run(watch(server))
        begun = time.monotonic()
        assert server.exit_code() == 0
        assert time.monotonic() - begun < 15
    assert [name for name, _ in told] == ["next", "next", "complete"]
    assert told[1][1]["errors"][0]["extensions"]["code"] == "UNAVAILABLE"


def test_the_log_tells_no_address_of_a_websocket(server: Server, output: Path) -> None:
    async def come_and_go() -> None:
        async with signed_in(server, "alice"):
            pass
        await open_streams(server)  # whose line comes later

    before = len(output.read_text())
    asyncio.run(come_and_go())
    told = output.read_text()
    assert "websocket" in told[before:]
    assert "hidden" not in told
    assert "Traceback" not in told


@pytest.mark.parametrize("lasting_database_url", ["postgresql"], indirect=True)
async def test_another_process_is_heard(server: Server, lasting_database_url: str) -> None:
    async with signed_in(server, "alice") as socket:
        await socket.subscribe(BALANCE, m=MANDATE)
        before = int((await socket.data())["balance"])
        async with Database(lasting_database_url) as other:
            await credit(other, 9, "alice")
        assert int((await socket.data())["balance"]) == before + 9
