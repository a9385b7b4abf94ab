"""What runs in the background of a server: the delivery of the outbox, and tidying up.

Every process delivers; a notice is sent by the one that claims it. Each is sent at least once: who
dies between sending and saying so leaves it to be sent again, under the same id. The leader alone
tidies up and looks at what is measured.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime
from functools import partial
from typing import Any

import aiosmtplib
import httpx
import orjson
from email_validator import validate_email
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from standardwebhooks import Webhook

from app import lease
from app.billing import outbox
from app.billing.enums import BillingModel, Channel, NoticeType
from app.billing.holds import expire_holds
from app.billing.roll_up import total_days
from app.config import Settings, mail_sender
from app.database import Database, DatabaseUnavailable
from app.faults import reason_of
from app.lease import Leadership
from app.observer import Observer

POLL_SECONDS = 1.0
HOUSEKEEPING_SECONDS = 60.0
OBSERVE_SECONDS = 15.0
DELIVERY_SECONDS = 20.0
"""How long one delivery may take."""
CLAIM = timedelta(seconds=60)
"""For how long a notice is left to the process that took it: well over DELIVERY_SECONDS."""
FIRST_RETRY = timedelta(seconds=10)
LONGEST_RETRY = timedelta(hours=1)
GRACE_SECONDS = 5.0
"""How long the end of the server waits for a delivery under way: cut off, it would be sent twice."""

_EXPECTED = (aiosmtplib.SMTPException, httpx.HTTPError, OSError)
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_SUBJECTS = {
    NoticeType.BALANCE_WARNING: "Balance is low",
    NoticeType.BALANCE_DEPLETED: "Nothing is left",
}

logger = logging.getLogger("billing.dispatcher")
logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells addresses, which may hold a secret

_templates = Environment(
    loader=PackageLoader("app"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
)

Deliver = Callable[[Any], Awaitable[None]]
"""Sends one notice; whatever it raises means that it has to be sent again."""


class NotAccepted(OSError):
    """The other side has answered, and refused."""


@asynccontextmanager
async def dispatching(settings: Settings, database: Database) -> AsyncIterator[None]:
    """Delivers what is due on the channels that are configured, and tidies up, meanwhile."""
    stopping = asyncio.Event()

    def deliver_due(channel: Channel, deliver: Deliver) -> Coroutine[Any, Any, None]:
        work = partial(_deliver_due, database, channel, deliver, stopping)
        return _repeat(work, POLL_SECONDS, stopping)

    leadership = Leadership(database)
    tidy = partial(_tidy, settings, database, leadership)
    async with AsyncExitStack() as stack:
        loops = [
            _repeat(leadership.seek, lease.RENEW_SECONDS, stopping),
            _repeat(tidy, HOUSEKEEPING_SECONDS, stopping),
        ]
        if settings.metrics:
            observe = partial(_observe, Observer(database), leadership)
            loops.append(_repeat(observe, OBSERVE_SECONDS, stopping))
        if settings.smtp_url:
            mail = partial(_mail, database, httpx.URL(settings.smtp_url))
            loops.append(deliver_due(Channel.EMAIL, mail))
        if settings.webhook_url and settings.webhook_secret:
            client = await stack.enter_async_context(httpx.AsyncClient(timeout=DELIVERY_SECONDS))
            signer = Webhook(settings.webhook_secret.get_secret_value())
            post = partial(_post, client, settings.webhook_url, signer)
            loops.append(deliver_due(Channel.WEBHOOK, post))
        tasks = [asyncio.create_task(loop) for loop in loops]
        try:
            yield
        finally:
            stopping.set()
            _, late = await asyncio.wait(tasks, timeout=GRACE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
            await leadership.give_up()


async def _repeat(
    work: Callable[[], Awaitable[None]], seconds: float, stopping: asyncio.Event
) -> None:
    """Works every so many seconds; what goes wrong is logged and tried again the next time."""
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stopping.wait()
        if stopping.is_set():
            return
        try:
            await work()
        except DatabaseUnavailable as error:
            logger.warning("The database cannot be reached: %s", reason_of(error))
        except Exception:
            logger.exception("Work in the background failed.")


async def _tidy(settings: Settings, database: Database, leadership: Leadership) -> None:
    """Two that do it at once do it once: what one has changed meets the other's condition no more."""
    if not leadership.leads:
        return
    dropped = await outbox.drop_old_webhooks(database)
    if dropped and settings.webhook_url:
        logger.warning("%d webhooks are given up after %s.", dropped, outbox.MAX_WEBHOOK_AGE)
    await expire_holds(database)
    await total_days(database, datetime.now(UTC))


async def _observe(observer: Observer, leadership: Leadership) -> None:
    if leadership.leads:
        await observer.look()
    else:
        observer.forget()


async def _deliver_due(
    database: Database, channel: Channel, deliver: Deliver, stopping: asyncio.Event
) -> None:
    """Sends all that is due, one after the other."""
    while not stopping.is_set() and (notice := await outbox.next_due(database, channel)):
        if await outbox.claim(database, notice, CLAIM):
            await _deliver(database, notice, deliver)


async def _deliver(database: Database, notice: Any, deliver: Deliver) -> None:
    """Sends a notice that is claimed, and writes down what became of it."""
    try:
        await deliver(notice)
    except Exception as error:
        reason = outbox.one_line(f"{type(error).__name__}: {error}")
        retry_in = _back_off(notice.attempts)
        logger.warning(
            "Notice %s of mandate %s (%s) is tried again in %d s: %s",
            notice.id,
            notice.mandate_id,
            notice.channel,
            retry_in.total_seconds(),
            reason if isinstance(error, _EXPECTED) else type(error).__name__,
            exc_info=not isinstance(error, _EXPECTED),
        )
        await outbox.failed(database, notice, reason, retry_in)
    else:
        await outbox.delivered(database, notice)


def _back_off(attempts: int) -> timedelta:
    """The wait before the next attempt: it doubles, with jitter, so that not all come at once."""
    return min(FIRST_RETRY * 2.0 ** min(attempts, 16), LONGEST_RETRY) * random.uniform(0.5, 1)


async def _post(client: httpx.AsyncClient, url: str, signer: Webhook, notice: Any) -> None:
    """Sends a webhook in the format of standardwebhooks.com."""
    event = {"type": notice.notice_type, "timestamp": notice.created_at, "data": notice.data}
    body = orjson.dumps(event, option=orjson.OPT_UTC_Z).decode()
    now = datetime.now(UTC)
    headers = {
        "content-type": "application/json",
        "webhook-id": notice.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signer.sign(notice.id, now, body),
    }
    async with asyncio.timeout(DELIVERY_SECONDS):
        # What the receiver says is not read: it may be of any size.
        async with client.stream("POST", url, content=body, headers=headers) as response:
            pass
    if not response.is_success:  # raise_for_status would tell the address, which may hold a secret
        raise NotAccepted(f"HTTP {response.status_code}")


async def _mail(database: Database, url: httpx.URL, notice: Any) -> None:
    """Sends an alert by e-mail, in one message to all whom the mandate wants told now."""
    terms = await outbox.mail_settings(database, notice.mandate_id)
    if not terms.notify_emails:
        logger.warning("Mandate %s has nobody to mail any more.", notice.mandate_id)
        return
    client = aiosmtplib.SMTP(
        hostname=url.raw_host.decode(),
        port=url.port,
        username=url.username or None,
        password=url.password or None,
        use_tls=url.scheme == "smtps",
        start_tls=True if _needs_tls(url) else None,  # None: if the server offers it
        timeout=DELIVERY_SECONDS,
    )
    try:
        async with asyncio.timeout(DELIVERY_SECONDS):
            await client.connect()
            if client.is_ehlo_or_helo_needed:
                await client.ehlo()
            taken = _as_taken(terms.notify_emails, client.supports_extension("smtputf8"))
            if not taken:
                raise NotAccepted("the mail server takes ASCII addresses alone")
            sender = mail_sender(url)
            message = _alert(notice, terms, sender, taken)
            refused, _ = await client.send_message(message, sender=sender, recipients=taken)
        with suppress(aiosmtplib.SMTPException):  # the message has arrived, whatever comes now
            await client.quit(timeout=1)
    finally:
        client.close()
    if len(taken) - len(refused) < len(terms.notify_emails):
        logger.warning(
            "Notice %s of mandate %s has reached %d of %d recipients: %s",
            notice.id,
            notice.mandate_id,
            len(taken) - len(refused),
            len(terms.notify_emails),
            outbox.one_line(str(refused)) if refused else "the others are not in ASCII",
        )


def _needs_tls(url: httpx.URL) -> bool:
    """A password never leaves this machine in clear, whatever a server or who is in between offers."""
    return url.scheme == "smtp" and bool(url.username) and url.host not in _THIS_MACHINE


def _as_taken(addresses: Sequence[str], international: bool) -> list[str]:
    """The addresses that a mail server takes: domains in ASCII, and all else too unless `international`."""
    found = [validate_email(a, check_deliverability=False).ascii_email or a for a in addresses]
    return [
        address
        for address in found
        if (international or address.isascii()) and "=?" not in address  # no encoded words
    ]


def _alert(notice: Any, terms: Any, sender: str, recipients: Sequence[str]) -> EmailMessage:
    """The message, the same for every recipient; a copy that is sent again has the same Message-ID."""
    data = notice.data
    mandate = f"{outbox.one_line(data['mandateName'])} ({notice.mandate_id})"
    whose = f", user {data['userId']}" if data["userId"] else ""
    subject = f"{_SUBJECTS[notice.notice_type]}: {mandate}{whose}"
    postpaid = data["billingModel"] == BillingModel.CREDIT_POSTPAY
    values = {
        "subject": subject,
        "mandate": mandate,
        "account": f"user {data['userId']}" if data["userId"] else "the mandate's own",
        "judged_at": f"{notice.created_at:%Y-%m-%d %H:%M} UTC",
        "depleted": notice.notice_type == NoticeType.BALANCE_DEPLETED,
        "postpaid": postpaid,
        "refuses": postpaid or terms.block_on_zero_balance,
    }
    message = EmailMessage()
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Subject"] = subject.replace(
        "=?", "= ?"
    )  # else it would be decoded, line breaks and all
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = f"<{notice.id}@{sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    text, html = (
        _templates.get_template(name).render(data | values) for name in ("alert.txt", "alert.html")
    )
    # Quoted-printable passes every server: no 8-bit characters, no line too long.
    message.set_content(text, cte="quoted-printable")
    message.add_alternative(html, subtype="html", cte="quoted-printable")
    return message
