"""Real server processes on one database, what clients send them at once, and what must be true of it."""

import asyncio
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select

from app.auth import issue_token
from app.billing.enums import BillingModel, HoldStatus, UserKind
from app.billing.models import accounts, daily_usage, holds, transactions
from app.billing.verify import verify_ledger
from app.config import Settings
from app.database import Database
from tests.ports import free_port
from tests.topology import settings_of
from tests.world import add_mandate, add_user, balances, fresh, ledger_rows, read_rows

Request = tuple[str, str, dict[str, Any]]
"""Who asks, the document and its variables."""


class Server:
    """A process of `python -m app serve`, on a port that it keeps when it is started again."""

    def __init__(
        self,
        database_url: str,
        before: str | None = None,
        *options: str,
        output: Path | None = None,
        **others: str,
    ) -> None:
        """`before` is Python that runs in the process first; `output` keeps all that it writes."""
        self._output = output
        port = free_port()
        program = ["-c", f"{before}\nfrom app.__main__ import main\nmain()"]
        self._command = [
            sys.executable,
            *(program if before else ["-m", "app"]),
            "serve",
            "--port",
            str(port),
            *(options or ("--drain", "0")),
        ]
        self._environment = environment(database_url, **others)
        self._place = ("127.0.0.1", port)
        self.address = f"http://127.0.0.1:{port}"
        self._start()

    def _start(self) -> None:
        with (self._output or Path(os.devnull)).open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=output,
                stderr=output if self._output else None,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            assert self._process.poll() is None, "the server did not start"
            with socket.socket() as client:
                if client.connect_ex(self._place) == 0:
                    return
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def exit_code(self) -> int:
        """Once it has ended."""
        return self._process.wait(60)

    def kill(self) -> None:
        """SIGKILL: it ends where it stands."""
        self._process.kill()
        self._process.wait(10)

    def start_again(self) -> None:
        self._start()
        self.wait_until_it_listens()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        finally:
            self._process.kill()
            self._process.wait(10)


@contextmanager
def running(
    database_url: str,
    processes: int = 1,
    before: str | None = None,
    *options: str,
    output: Path | None = None,
    **others: str,
) -> Iterator[list[Server]]:
    """So many processes on one database; without options of their own they do not drain.

    `others` are further settings.
    """
    servers = [
        Server(database_url, before, *options, output=output, **others) for _ in range(processes)
    ]
    try:
        for server in servers:
            server.wait_until_it_listens()
        yield servers
    finally:
        for server in servers:
            server.stop()


def environment(database_url: str, **others: str) -> dict[str, str]:
    """Of a process on that database: no setting but these."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("BILLING_")
    }
    given = {"BILLING_DATABASE_URL": database_url, "BILLING_RATE_LIMITS": "off"}
    return inherited | given | settings_of(database_url) | others


def verify_by_command(database_url: str) -> str:
    """What `verify-ledger` says; "" when it is content."""
    done = subprocess.run(
        [sys.executable, "-m", "app", "verify-ledger"],
        check=False,
        env=environment(database_url),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@asynccontextmanager
async def inhabited(database_url: str) -> AsyncIterator[Database]:
    """The database, with those who send the requests below."""
    async with Database(database_url) as database:
        await add_user(database, "gateway", kind=UserKind.SERVICE)
        await add_user(database, "root", is_sys_admin=True)
        yield database


async def add_rich_mandate(database: Database, users: Sequence[str] = ("alice", "bob")) -> str:
    """A mandate under PREPAY_USER whose users want for nothing."""
    mandate_id = fresh("acme")
    await add_mandate(
        database,
        mandate_id,
        BillingModel.PREPAY_USER,
        users=users,
        default_user_credit=Decimal(1_000_000),
    )
    return mandate_id


class Servers:
    """Sends requests to all at once, in turn, each on a connection of its own."""

    def __init__(self, clients: Sequence[httpx.AsyncClient], settings: Settings) -> None:
        self._clients = clients
        self._tokens = {name: issue_token(settings, name, 600) for name in ("gateway", "root")}

    async def send(self, *requests: Request, at_once: int | None = None) -> list[Any]:
        """What each was answered, in the order given."""
        turns = asyncio.Semaphore(at_once or len(requests))

        async def take_turn(place: int, request: Request) -> Any:
            async with turns:
                return await self.ask(request, place)

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(take_turn(place, request))
                for place, request in enumerate(requests)
            ]
        return [task.result() for task in tasks]

    async def ask(self, request: Request, place: int = 0) -> Any:
        """The answer without errors; who is told to try again does so, under the same key."""
        for _ in range(20):
            body = (await self.post(request, place)).json()
            told = [error["extensions"] for error in body.get("errors", ())]
            if not told or told[0]["code"] != "UNAVAILABLE":
                break
            await asyncio.sleep(random.uniform(0.5, 1) * told[0]["retryAfter"])
        assert "errors" not in body, body
        return next(iter(body["data"].values()))

    async def post(self, request: Request, place: int = 0) -> httpx.Response:
        """Whatever comes back."""
        return await self._clients[place % len(self._clients)].send(self.build(request, place))

    def build(self, request: Request, place: int = 0) -> httpx.Request:
        """The request as it is sent."""
        user_id, query, variables = request
        return self._clients[place % len(self._clients)].build_request(
            "POST",
            "/graphql",
            json={"query": query, "variables": variables},
            headers={"Authorization": f"Bearer {self._tokens[user_id]}"},
        )


@asynccontextmanager
async def connected(servers: Sequence[Server], database_url: str) -> AsyncIterator[Servers]:
    """Clients of these processes."""
    # A connection that is kept may be closed by its server just as it is used again.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    clients = [
        httpx.AsyncClient(base_url=server.address, timeout=60, limits=limits) for server in servers
    ]
    try:
        yield Servers(clients, Settings(database_url=database_url))
    finally:
        for client in clients:
            await client.aclose()


def mutation(name: str, selection: str) -> str:
    """The document of a mutation."""
    kind = f"{name[0].upper()}{name[1:]}Input"
    return (
        f"mutation ($input: {kind}!) {{"
        f" {name}(input: $input) {{ {selection} userErrors {{ code }} }} }}"
    )


RECORD_USAGE = mutation("recordUsage", "results { outcome transaction { id } error { code } }")
ADD_CREDIT = mutation("addCredit", "transaction { id }")
UPDATE_SETTINGS = mutation("updateBillingSettings", "settings { version }")
CREATE_HOLD = mutation("createHold", "hold { id status expiresAt }")
SETTLE_HOLD = mutation("settleHold", "hold { id status } transaction { id balanceAfter }")
RELEASE_HOLD = mutation("releaseHold", "hold { id status }")
REVERSE_TRANSACTION = mutation("reverseTransaction", "transaction { id balanceAfter }")
TRANSFER_CREDIT = mutation("transferCredit", "debit { id } credit { id }")
BALANCE = """
    query ($mandateId: ID!, $userId: ID) {
      balance(mandateId: $mandateId, userId: $userId) { balance held available }
    }
"""


NEWEST_HOLDS = """
    query ($mandateId: ID!, $userId: ID) {
      holds(mandateId: $mandateId, userId: $userId, first: 50) { nodes { id } }
    }
"""


def debits(mandate_id: str, *users: str, **fields: Any) -> Request:
    """One call with an event of 1 for each of the users."""
    events = [
        {"mandateId": mandate_id, "userId": user, "amount": "1", "idempotencyKey": fresh()} | fields
        for user in users
    ]
    return "gateway", RECORD_USAGE, {"input": {"events": events}}


def spends(mandate_id: str, *users: str) -> Request:
    return debits(mandate_id, *users, mode="REQUIRE_FUNDS")


def new_hold(mandate_id: str, amount: str | int = 1, user_id: str = "alice") -> Request:
    wanted = {"mandateId": mandate_id, "userId": user_id, "amount": str(amount)}
    return "gateway", CREATE_HOLD, {"input": wanted | {"idempotencyKey": fresh()}}


def settlement(mandate_id: str, hold_id: str, amount: str | int = 1) -> Request:
    wanted = {"mandateId": mandate_id, "holdId": hold_id, "amount": str(amount)}
    return "gateway", SETTLE_HOLD, {"input": wanted}


def release_of(mandate_id: str, hold_id: str) -> Request:
    return "gateway", RELEASE_HOLD, {"input": {"mandateId": mandate_id, "holdId": hold_id}}


def new_credit(mandate_id: str, user_id: str | None = None) -> Request:
    credited = {"mandateId": mandate_id, "userId": user_id, "amount": "1"}
    return "root", ADD_CREDIT, {"input": credited | {"idempotencyKey": fresh()}}


def reversal(mandate_id: str, transaction_id: str) -> Request:
    undone = {"mandateId": mandate_id, "transactionId": transaction_id, "reason": "Mistake"}
    return "root", REVERSE_TRANSACTION, {"input": undone | {"idempotencyKey": fresh()}}


def new_transfer(mandate_id: str, giver: str | None, receiver: str | None) -> Request:
    moved = {"mandateId": mandate_id, "fromUserId": giver, "toUserId": receiver, "amount": "1"}
    return "root", TRANSFER_CREDIT, {"input": moved | {"idempotencyKey": fresh()}}


def change_of(mandate_id: str, **changes: Any) -> Request:
    return "root", UPDATE_SETTINGS, {"input": {"mandateId": mandate_id} | changes}


def balance_of(mandate_id: str, user_id: str | None) -> Request:
    return "gateway", BALANCE, {"mandateId": mandate_id, "userId": user_id}


def newest_holds(mandate_id: str, user_id: str) -> Request:
    return "gateway", NEWEST_HOLDS, {"mandateId": mandate_id, "userId": user_id}


def outcomes(payloads: Sequence[Any]) -> Counter[str]:
    """How often each error was told; without one the outcome of an event, or else DONE."""
    found: Counter[str] = Counter()
    for payload in payloads:
        found.update(
            [error["code"] for error in payload["userErrors"]]
            or [
                result["error"]["code"] if result["error"] else result["outcome"]
                for result in payload.get("results", ())
            ]
            or ["DONE"]
        )
    return found


async def proven(database: Database, mandate_id: str) -> dict[str | None, Decimal]:
    """The balances, once they are proven from the history and the roll-up."""
    history: dict[str, list[Any]] = {}
    for row in await ledger_rows(database, mandate_id=mandate_id):
        history.setdefault(row.account_id, []).append(row)
    for account in await read_rows(database, accounts, mandate_id=mandate_id):
        balance, cost, calls = Decimal(0), Decimal(0), 0
        rows = history.pop(account.id, [])
        for place, row in enumerate(rows, start=1):
            balance += row.amount if row.transaction_type == "CREDIT" else -row.amount
            assert (row.sequence, row.balance_after) == (place, balance)
            calls += row.reference_type == "USAGE"
            cost += row.amount if row.reference_type == "USAGE" else 0
            cost -= row.amount if row.reversed_type == "USAGE" else 0
        assert (account.sequence, account.balance) == (len(rows), balance)
        days = await read_rows(database, daily_usage, account_id=account.id)
        assert sum(day.transaction_count for day in days) == calls
        assert sum(day.cost for day in days) == cost
    assert history == {}
    async with database.snapshot() as connection:
        assert (await verify_ledger(connection, mandate_id)).mismatches == []
    return await balances(database, mandate_id)


@asynccontextmanager
async def watched(
    database: Database, mandate_id: str, funds: int | None = None
) -> AsyncIterator[None]:
    """Whenever a reader looks meanwhile, an account has moved by exactly the rows of its history.

    Nor is more held and spent than `funds`, where they are given. What settlements took beyond
    their holds is left out of that: it is booked whatever there is.
    """
    of_account = (holds.c.mandate_id == mandate_id) & (holds.c.account_id == accounts.c.id)
    held = select(func.sum(holds.c.amount)).where(of_account, holds.c.status == HoldStatus.OPEN)
    beyond = select(func.sum(holds.c.settled_amount - holds.c.amount)).where(
        of_account, holds.c.settled_amount > holds.c.amount
    )
    whole = (
        select(
            accounts.c.sequence,
            func.count(transactions.c.id),
            accounts.c.debited,
            held.correlate(accounts).scalar_subquery(),
            beyond.correlate(accounts).scalar_subquery(),
        )
        .outerjoin_from(
            accounts,
            transactions,
            (transactions.c.mandate_id == accounts.c.mandate_id)
            & (transactions.c.account_id == accounts.c.id),
        )
        .where(accounts.c.mandate_id == mandate_id)
        .group_by(accounts.c.mandate_id, accounts.c.id)
    )
    done, begun = False, asyncio.Event()

    async def look() -> int:
        looks = 0
        while not done:
            async with database.read() as connection:
                for sequence, rows, debited, held, beyond in await connection.execute(whole):
                    assert sequence == rows, f"{rows} rows at sequence {sequence}"
                    spent = debited - (beyond or 0) + (held or 0)
                    assert funds is None or spent <= funds, f"{spent} of {funds}"
            looks += 1
            begun.set()  # what is quick may be over before there is a connection
            await asyncio.sleep(0)
        return looks

    task = asyncio.create_task(look())
    await asyncio.wait_for(begun.wait(), 10)
    try:
        yield
    finally:
        done = True
    assert await task > 1


def resident(pid: int) -> float:
    """MiB of memory that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    [kibibytes] = re.findall(r"VmRSS:\s+(\d+) kB", status)
    return int(kibibytes) / 1024
