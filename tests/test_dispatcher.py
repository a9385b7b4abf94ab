"""Delivery to a real mail server and a real webhook receiver, which are away, refuse or hang at first."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import SecretStr
from standardwebhooks import Webhook

from app import dispatcher, lease
from app.billing import outbox
from app.billing.enums import NoticeType
from app.billing.models import daily_totals
from app.config import Settings
from app.database import Database, DatabaseUnavailable
from app.dispatcher import dispatching
from tests.api import serving
from tests.outbox import ALERT, EMAIL, WEBHOOK, make_due, put, waiting
from tests.receivers import (
    address_of,
    mail_server,
    reserved_socket,
    trickling_server,
    webhook_receiver,
)
from tests.world import (
    MANDATE,
    PREPAY_USER,
    add_mandate,
    change_settings,
    read_rows,
    record,
    usage_event,
)

pytestmark = pytest.mark.anyio

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
DEPLETED = NoticeType.BALANCE_DEPLETED
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between attempts, and no proxy of this machine between the two sides."""
    monkeypatch.setattr(dispatcher, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.01)
    monkeypatch.setattr(dispatcher, "FIRST_RETRY", timedelta(milliseconds=10))
    monkeypatch.setattr(dispatcher, "LONGEST_RETRY", timedelta(milliseconds=40))
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
async def mandate(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, notify_emails=["ada@example.com"])


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    with reserved_socket() as bound:
        yield bound


def by_mail(bound: socket.socket, credentials: str = "") -> Settings:
    address = f"smtp://{credentials}{address_of(bound)}?from=billing@example.com"
    return Settings(smtp_url=address)


def by_webhook(url: str) -> Settings:
    return Settings(webhook_url=url, webhook_secret=SecretStr(SECRET))


async def until(database: Database, met: Callable[[list[Any]], bool]) -> list[Any]:
    """The rows that wait, once they are so."""
    async with asyncio.timeout(30):
        while not met(rows := await waiting(database)):  # noqa: ASYNC110 (other processes too)
            await asyncio.sleep(0.01)
    return rows


async def until_sent(database: Database) -> None:
    await until(database, lambda rows: not rows)


async def until_failed(database: Database, times: int = 1) -> Any:
    """The one row, once it has failed at least so often."""

    def failed(rows: list[Any]) -> bool:
        [row] = rows
        return bool(row.last_error) and row.attempts > times

    [row] = await until(database, failed)
    return row


async def until_left(database: Database, notice_id: str) -> None:
    """Until this one alone waits."""
    await until(database, lambda rows: [row.id for row in rows] == [notice_id])


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the dispatcher has logged."""
    return [r.getMessage() for r in caplog.records if r.name == dispatcher.logger.name]


@pytest.mark.usefixtures("mandate")
async def test_mail_says_all_in_text_and_html(database: Database, bound: socket.socket) -> None:
    notice_id = await put(database)
    await change_settings(database, notify_emails=["ada@example.com", "bob@example.com"])
    async with mail_server(bound) as server, dispatching(by_mail(bound), database):
        await until_sent(database)
    [mail] = server.mails
    assert mail.sender == "billing@example.com"
    assert mail.recipients == ["ada@example.com", "bob@example.com"]
    message = mail.message
    assert message["From"] == "billing@example.com"
    assert message["To"] == "ada@example.com, bob@example.com"
    assert message["Subject"] == "Balance is low: Acme (acme), user alice"
    assert message["Message-ID"] == f"<{notice_id}@example.com>"
    assert message["Date"].datetime.utcoffset() == timedelta(0)
    assert message.get_content_type() == "multipart/alternative"
    for body in (mail.part("plain"), mail.part("html")):
        for said in ("Acme (acme)", "user alice", "1.5 CHF", "1.25 CHF", "2 CHF", "add credit"):
            assert said in body
        assert "has come down to the warning threshold" in body


@on_sqlite
@pytest.mark.usefixtures("mandate")
async def test_mail_says_what_it_means(database: Database, bound: socket.socket) -> None:
    postpaid: dict[str, Any] = {"billingModel": "CREDIT_POSTPAY", "userId": None}
    async with mail_server(bound) as server, dispatching(by_mail(bound), database):
        await put(database, kind=DEPLETED)
        await until_sent(database)
        await put(database, kind=DEPLETED, **postpaid)
        await until_sent(database)
        await change_settings(database, block_on_zero_balance=False)
        for kind, data in (
            (NoticeType.BALANCE_WARNING, {}),
            (DEPLETED, {}),
            (DEPLETED, postpaid),
        ):
            await put(database, kind=kind, **data)
            await until_sent(database)
    blocked, owed, going_below, below, still_owed = (mail.part("plain") for mail in server.mails)
    assert [mail.message["Subject"].split(":")[0] for mail in server.mails][1:3] == [
        "Nothing is left",
        "Balance is low",
    ]
    refused = "Nothing is left on this account: spends are being refused."
    for text in (blocked, owed, still_owed):
        assert refused in text
    for text in (going_below, below):
        assert "does not block spends at zero" in text
        assert "refused" not in text
    for text in (owed, still_owed):
        assert "the mandate's own" in text
        assert "raise the credit limit" in text


@pytest.mark.usefixtures("mandate")
async def test_mail_arrives_once_when_the_server_is_back(
    database: Database, bound: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    await put(database)
    async with dispatching(by_mail(bound), database):
        row = await until_failed(database, 3)
        assert row.last_error.startswith("SMTPConnectError: ")
        async with mail_server(bound) as server:
            await until_sent(database)
    assert len(server.mails) == 1
    assert len(said(caplog)) >= 3
    assert all("is tried again in" in line for line in said(caplog))


@pytest.mark.parametrize("channel", [EMAIL, WEBHOOK])
@pytest.mark.usefixtures("mandate")
async def test_two_processes_send_each_notice_once(
    database: Database, database_url: str, bound: socket.socket, channel: Any
) -> None:
    sent = {await put(database, channel, balance=str(number)) for number in range(20)}
    with webhook_receiver() as receiver:
        settings = by_mail(bound) if channel == EMAIL else by_webhook(receiver.url)
        async with (
            mail_server(bound) as server,
            Database(database_url) as other,
            dispatching(settings, database),
            dispatching(settings, other),
        ):
            await until_sent(database)
    by_id = [mail.message["Message-ID"].strip("<>").split("@")[0] for mail in server.mails]
    by_id += [request.headers["webhook-id"] for request in receiver.requests]
    assert Counter(by_id) == Counter(sent)


@pytest.mark.usefixtures("mandate")
async def test_what_a_dead_process_left_is_sent(database: Database, bound: socket.socket) -> None:
    await put(database)
    dead = await outbox.next_due(database, EMAIL)
    assert await outbox.claim(database, dead, dispatcher.CLAIM)
    async with mail_server(bound) as server, dispatching(by_mail(bound), database):
        later = await put(database)
        await until_left(database, dead.id)
        assert [later in mail.message["Message-ID"] for mail in server.mails] == [True]
        await make_due(database)
        await until_sent(database)
    assert len(server.mails) == 2


HOSTILE = "Acme\r\nBcc: eve@example.com\n\n<script>alert(1)</script> & {{ 7 * 7 }}{% if %}\u2028\u202eZürich \x1b[2J"
HARMLESS = (
    "Acme Bcc: eve@example.com <script>alert(1)</script> & {{ 7 * 7 }}{% if %} Zürich [2J (acme)"
)


@pytest.mark.usefixtures("mandate")
async def test_a_hostile_name_stays_a_name(database: Database, bound: socket.socket) -> None:
    await put(database, mandateName=HOSTILE + "x" * 1000)
    await put(database, mandateName=HOSTILE)
    async with mail_server(bound) as server, dispatching(by_mail(bound), database):
        await until_sent(database)
    long, mail = server.mails
    assert long.message["Subject"].endswith("x" * 1000 + " (acme), user alice")
    assert mail.recipients == ["ada@example.com"]
    assert "Bcc" not in mail.message
    assert mail.message["Subject"] == f"Balance is low: {HARMLESS}, user alice"
    assert f"\nMandate:            {HARMLESS}\n" in mail.part("plain")
    html = mail.part("html")
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; {{ 7 * 7 }}" in html


@pytest.mark.usefixtures("mandate")
@pytest.mark.parametrize(
    "name",
    ["=?utf-8?q?=0D=0AReply-To:_eve=40example.org=0D=0A=0D=0APay_eve?=", "=?utf-7?q?+2AA-?="],
)
async def test_an_encoded_word_in_a_name_is_no_header(
    database: Database, bound: socket.socket, name: str
) -> None:
    await put(database, mandateName=name)
    async with mail_server(bound) as server, dispatching(by_mail(bound), database):
        await until_sent(database)
    [mail] = server.mails
    assert (
        mail.message["Subject"] == f"Balance is low: {name.replace('=?', '= ?')} (acme), user alice"
    )
    assert "Reply-To" not in mail.message


@pytest.mark.usefixtures("mandate")
async def test_some_recipients_are_refused(
    database: Database, bound: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    await change_settings(database, notify_emails=["gone@example.com", "ada@example.com"])
    await put(database)
    async with mail_server(bound) as server:
        server.unknown = {"gone@example.com"}
        async with dispatching(by_mail(bound), database):
            await until_sent(database)
    assert [mail.recipients for mail in server.mails] == [["ada@example.com"]]
    [line] = said(caplog)
    assert "has reached 1 of 2 recipients: " in line
    assert "gone@example.com" in line
    assert "There is nobody of that name" in line


@pytest.mark.usefixtures("mandate")
async def test_all_recipients_are_refused(database: Database, bound: socket.socket) -> None:
    await put(database)
    async with mail_server(bound) as server:
        server.unknown = {"ada@example.com"}
        async with dispatching(by_mail(bound), database):
            row = await until_failed(database)
            assert "There is nobody of that name" in row.last_error
            server.unknown = set()
            await until_sent(database)
    assert len(server.mails) == 1


@on_sqlite
@pytest.mark.parametrize("international", [False, True])
@pytest.mark.usefixtures("mandate")
async def test_international_addresses(
    database: Database, bound: socket.socket, caplog: pytest.LogCaptureFixture, international: bool
) -> None:
    await change_settings(database, notify_emails=["jürg@example.com", "ada@zürich.example.com"])
    await put(database)
    async with (
        mail_server(bound, enable_SMTPUTF8=international) as server,
        dispatching(by_mail(bound), database),
    ):
        await until_sent(database)
    [mail] = server.mails
    in_ascii = "ada@xn--zrich-kva.example.com"
    if international:
        assert (mail.recipients, said(caplog)) == (["jürg@example.com", in_ascii], [])
    else:
        assert (mail.recipients, len(said(caplog))) == ([in_ascii], 1)


@on_sqlite
@pytest.mark.usefixtures("mandate")
async def test_no_address_that_the_server_takes(database: Database, bound: socket.socket) -> None:
    await change_settings(database, notify_emails=["jürg@example.com"])
    await put(database)
    async with mail_server(bound) as server, dispatching(by_mail(bound), database):
        row = await until_failed(database)
    assert row.last_error == "NotAccepted: the mail server takes ASCII addresses alone"
    assert server.mails == []


@pytest.mark.usefixtures("mandate")
async def test_nobody_to_mail_any_more(
    database: Database, bound: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    await put(database)
    await change_settings(database, notify_emails=[])
    async with mail_server(bound) as server, dispatching(by_mail(bound), database):
        await until_sent(database)
    assert server.mails == []
    assert said(caplog) == [f"Mandate {MANDATE} has nobody to mail any more."]


@on_sqlite
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
@pytest.mark.usefixtures("mandate")
async def test_mail_is_encrypted_and_logs_in(
    database: Database,
    bound: socket.socket,
    scheme: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    options: dict[str, Any] = (
        {"tls_context": context, "require_starttls": True}
        if scheme == "smtp"
        else {"ssl_context": context, "auth_require_tls": False}
    )
    address = f"{scheme}://billing%40example.com:p%40ss%2Fw%C3%B6rd@{address_of(bound)}"
    await put(database)
    async with (
        mail_server(bound, **options) as server,
        dispatching(Settings(smtp_url=address), database),
    ):
        await until_sent(database)
    [mail] = server.mails
    assert mail.encrypted
    assert mail.login == (b"billing@example.com", "p@ss/wörd".encode())
    assert mail.sender == "billing@127.0.0.1"


@on_sqlite
@pytest.mark.usefixtures("mandate")
async def test_a_server_that_cannot_be_trusted_gets_no_mail(
    database: Database, bound: socket.socket
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    await put(database)
    settings = by_mail(bound, "billing:hunter2@")
    async with mail_server(bound, tls_context=context) as server, dispatching(settings, database):
        row = await until_failed(database)
    assert "CERTIFICATE_VERIFY_FAILED" in row.last_error
    assert "hunter2" not in row.last_error
    assert server.mails == []


def check_signature(request: Any) -> None:
    """By the library of the standard, and by the words of the standard."""
    assert Webhook(SECRET).verify(request.body, request.headers) == json.loads(request.body)
    headers = request.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request.body
    digest = hmac.new(bytes(range(32)), signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


@pytest.mark.usefixtures("mandate")
async def test_a_webhook_is_sent_until_it_is_taken(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    notice_id = await put(database, WEBHOOK)
    [row] = await waiting(database)
    with webhook_receiver(500, 500) as receiver:
        async with dispatching(by_webhook(receiver.url), database):
            await until_sent(database)
    assert len(receiver.requests) == 3
    for request in receiver.requests:
        assert request.path == "/hook"
        assert request.headers["webhook-id"] == notice_id
        assert request.headers["content-type"] == "application/json"
        check_signature(request)
        assert json.loads(request.body) == {
            "type": "balance.warning",
            "timestamp": f"{row.created_at.replace(tzinfo=None).isoformat()}Z",
            "data": ALERT,
        }
    assert [line.split(": ")[-1] for line in said(caplog)] == ["HTTP 500", "HTTP 500"]


@pytest.mark.usefixtures("mandate")
async def test_a_redirect_is_not_followed(database: Database) -> None:
    await put(database, WEBHOOK)
    with webhook_receiver(307, 302) as receiver:
        async with dispatching(by_webhook(receiver.url), database):
            await until_sent(database)
    assert [request.path for request in receiver.requests] == ["/hook"] * 3


@on_sqlite
@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.usefixtures("mandate")
async def test_failures_show_no_secret_of_the_address(
    database: Database, bound: socket.socket, caplog: pytest.LogCaptureFixture, refuses: bool
) -> None:
    await put(database, WEBHOOK)
    address = f"http://user:hunter2@{address_of(bound)}/?token=hunter3"
    with webhook_receiver(*[404] * 1000) as receiver:
        if refuses:
            address = receiver.url.replace("//", "//user:hunter2@") + "?token=hunter3"
        async with dispatching(by_webhook(address), database):
            row = await until_failed(database)
    assert "hunter" not in row.last_error + caplog.text


@pytest.mark.parametrize("channel", [EMAIL, WEBHOOK])
@pytest.mark.usefixtures("mandate")
async def test_who_never_ends_is_left_after_a_while(
    database: Database, bound: socket.socket, monkeypatch: pytest.MonkeyPatch, channel: Any
) -> None:
    monkeypatch.setattr(dispatcher, "DELIVERY_SECONDS", 0.1)
    await put(database, channel)
    address = f"http://{address_of(bound)}/"
    settings = by_mail(bound) if channel == EMAIL else by_webhook(address)
    async with trickling_server(bound), dispatching(settings, database):
        row = await until_failed(database)
    assert "Time" in row.last_error


@pytest.mark.parametrize("channel", [EMAIL, WEBHOOK])
@pytest.mark.usefixtures("mandate")
async def test_the_end_does_not_wait_for_who_hangs(
    database: Database, bound: socket.socket, monkeypatch: pytest.MonkeyPatch, channel: Any
) -> None:
    monkeypatch.setattr(dispatcher, "GRACE_SECONDS", 0.01)
    await put(database, channel)
    bound.listen()
    bound.setblocking(False)
    await database.feed.flush()
    before = asyncio.all_tasks()
    address = f"http://{address_of(bound)}/"
    async with dispatching(by_mail(bound) if channel == EMAIL else by_webhook(address), database):
        connection, _ = await asyncio.get_running_loop().sock_accept(bound)
    connection.close()
    assert asyncio.all_tasks() == before
    [row] = await waiting(database)
    assert (row.attempts, row.last_error) == (1, None)
    assert await outbox.next_due(database, channel) is None


@pytest.mark.usefixtures("mandate")
async def test_a_notice_that_cannot_be_written_stops_no_other(
    database: Database, bound: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    broken = await put(database, age=timedelta(hours=1), mandateName=None)
    await put(database)
    async with mail_server(bound) as server, dispatching(by_mail(bound), database):
        await until_left(database, broken)
    assert len(server.mails) == 1
    assert any(r.exc_info for r in caplog.records if broken in r.getMessage())


@on_sqlite
@pytest.mark.parametrize("error", [DatabaseUnavailable, RuntimeError])
@pytest.mark.usefixtures("mandate")
async def test_the_database_was_away(
    database: Database,
    bound: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:
    await put(database)
    next_due, calls = outbox.next_due, 0

    async def away_at_first(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise error
        return await next_due(*arguments)

    monkeypatch.setattr(outbox, "next_due", away_at_first)
    async with mail_server(bound) as server, dispatching(by_mail(bound), database):
        await until_sent(database)
    assert (len(server.mails), len(said(caplog))) == (1, 2)


async def until_totalled(database: Database) -> None:
    while [row.cost for row in await read_rows(database, daily_totals)] != [5]:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_days_that_are_over_are_totalled_by_the_server(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "HOUSEKEEPING_SECONDS", 0.01)
    await add_mandate(database)
    await record(database, usage_event(5, occurred_at=datetime.now(UTC) - timedelta(days=3)))
    async with dispatching(Settings(), database), asyncio.timeout(30):
        await until_totalled(database)


@pytest.mark.usefixtures("mandate")
async def test_housekeeping(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tidied = asyncio.Event()

    async def expire_holds(of: Database) -> int:
        assert of is database
        tidied.set()
        return 0

    monkeypatch.setattr(dispatcher, "expire_holds", expire_holds)
    monkeypatch.setattr(dispatcher, "HOUSEKEEPING_SECONDS", 0.01)
    monkeypatch.setattr(dispatcher, "POLL_SECONDS", 60)
    kept = await put(database, age=outbox.MAX_WEBHOOK_AGE * 2)
    for settings, lines in ((Settings(), 0), (by_webhook("http://127.0.0.1:1/"), 1)):
        await put(database, WEBHOOK, age=outbox.MAX_WEBHOOK_AGE * 2)
        tidied.clear()
        async with dispatching(settings, database):
            await asyncio.wait_for(tidied.wait(), 30)
            await until_left(database, kept)
        assert len(said(caplog)) == lines


def test_attempts_spread_and_end_at_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for attempts, seconds in ((0, 10), (1, 20), (8, 2560), (9, 3600), (100_000, 3600)):
        waits = {dispatcher._back_off(attempts).total_seconds() for _ in range(100)}
        assert len(waits) > 50
        assert seconds / 2 <= min(waits) <= max(waits) <= seconds


@pytest.mark.usefixtures("mandate")
async def test_the_server_delivers_while_it_runs(
    database: Database, database_url: str, bound: socket.socket
) -> None:
    await put(database)
    await put(database, WEBHOOK)
    await database.feed.flush()
    before = asyncio.all_tasks()
    with webhook_receiver() as receiver:
        settings = Settings(
            database_url=database_url,
            smtp_url=f"smtp://{address_of(bound)}",
            webhook_url=receiver.url,
            webhook_secret=SecretStr(SECRET),
        )
        async with mail_server(bound) as server, serving(settings):
            await until_sent(database)
    assert (len(server.mails), len(receiver.requests)) == (1, 1)
    assert asyncio.all_tasks() == before
    await put(database)
    assert len(await waiting(database)) == 1
