"""Word of what has changed, for those who watch a mandate: after the commit, in every server process.

A word says that something has changed, not what: whoever hears it reads anew, as the viewer they are
by then. On PostgreSQL words go by NOTIFY, in a statement of their own: within the transaction it would
make all commits of the server wait for each other. On SQLite they stay in their process.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from app.metrics import STREAMS

CHANNEL = "billing"
IDS_OF_WORD = 100
"""PostgreSQL takes less than 8,000 bytes in one."""
KEPT_IDS = 5_000
"""Of new transactions, for each who watches: whoever is further behind is dropped."""
KEPT_WORDS = 10_000
"""While they cannot be sent; beyond it they are lost, and that is told instead."""
PAUSE_SECONDS = 0.05
"""Between two notifications: what is committed meanwhile goes together."""
RETRY_SECONDS = 1.0
FLUSH_SECONDS = 2.0

logger = logging.getLogger("billing.feed")


class Word(NamedTuple):
    """Something of a mandate has changed."""

    mandate_id: str
    """Empty for what concerns a user in all mandates."""
    user_id: str | None = None
    """Whose it is; None for what concerns all who watch."""
    transaction_ids: tuple[str, ...] = ()
    """The new ones."""


_LOST = Word("")


def note(
    connection: AsyncConnection,
    mandate_id: str,
    user_id: str | None = None,
    transaction_id: str | None = None,
) -> None:
    """What the unit of work on this connection changes, to be told when it is committed."""
    ids = connection.info.setdefault("noted", {}).setdefault((mandate_id, user_id), [])
    if transaction_id:
        ids.append(transaction_id)


def begin(connection: AsyncConnection) -> None:
    """Nothing is noted yet."""
    connection.info.pop("noted", None)


def noted(connection: AsyncConnection) -> list[Word]:
    """What the unit of work has noted."""
    return [
        Word(mandate_id, user_id, tuple(ids[start : start + IDS_OF_WORD]))
        for (mandate_id, user_id), ids in connection.info.pop("noted", {}).items()
        for start in range(0, len(ids) or 1, IDS_OF_WORD)
    ]


class Watch:
    """What one stream has not yet taken notice of."""

    def __init__(self, viewer_id: str, *, is_over: bool) -> None:
        self.viewer_id = viewer_id
        self.only_user: str | None = None
        """Whose changes matter to it; None for everybody's."""
        self.is_behind = False
        """Whether words were lost: of those there may have been, it knows nothing."""
        self.is_over = is_over
        """Whether the server is ending."""
        self._ids: dict[str, None] = {}
        self._heard = asyncio.Event()

    def hear(self, word: Word) -> None:
        if word.user_id is None:
            self.only_user = None  # it may be a role that has changed
        elif self.only_user not in (None, word.user_id):
            return
        self._ids.update(dict.fromkeys(word.transaction_ids))
        if len(self._ids) > KEPT_IDS:
            self.lose()
        self.wake()

    def narrow(self, only_user: str | None) -> None:
        """Only what is of this user matters; unless something was heard since the last wait.

        Then the role that says so may be one that is no more, and the next look tells.
        """
        self.only_user = None if self._heard.is_set() else only_user

    def wake(self) -> None:
        """There may be something new."""
        self._heard.set()

    def lose(self) -> None:
        self.is_behind = True
        self._ids.clear()
        self.wake()

    def end(self) -> None:
        self.is_over = True
        self.wake()

    def take(self, most: int) -> list[str]:
        """The ids of the first new transactions, which are known from now on."""
        ids = sorted(self._ids)[:most]
        for taken in ids:
            del self._ids[taken]
        return ids

    async def wait(self, seconds: float) -> None:
        """Until something has changed, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._heard.wait()
        self._heard.clear()


class Feed:
    """Passes words on to those who watch, by way of `notify` where there is one."""

    def __init__(self, notify: Callable[[list[str]], Awaitable[None]] | None) -> None:
        self._notify = notify
        self._watches: defaultdict[str, set[Watch]] = defaultdict(set)
        self._unsent: list[Word] = []
        self._sending: asyncio.Task[None] | None = None
        self._hearing = asyncio.Event()
        self._is_over = False
        if notify is None:
            self._hearing.set()

    @contextmanager
    def watch(self, mandate_id: str, viewer_id: str) -> Iterator[Watch]:
        """What changes in this mandate meanwhile, or of this user."""
        watch = Watch(viewer_id, is_over=self._is_over)
        self._watches[mandate_id].add(watch)
        STREAMS.inc()
        try:
            yield watch
        finally:
            STREAMS.dec()
            self._watches[mandate_id].discard(watch)
            if not self._watches[mandate_id]:
                del self._watches[mandate_id]

    def count(self, viewer_id: str) -> int:
        """How many streams this viewer has open here."""
        return sum(watch.viewer_id == viewer_id for watch in self._all())

    async def is_hearing(self, seconds: float) -> bool:
        """Whether words arrive, by then."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hearing.wait()
        return self._hearing.is_set()

    def tell(self, words: list[Word]) -> None:
        """After the commit."""
        if self._notify is None:
            self._pass_on(words)
        elif words:
            self._unsent += words
            if len(self._unsent) > KEPT_WORDS:
                self._unsent = [_LOST]
            if self._sending is None:
                self._sending = asyncio.create_task(self._send(self._notify))

    async def _send(self, notify: Callable[[list[str]], Awaitable[None]]) -> None:
        try:
            while self._unsent:
                words, self._unsent = self._unsent, []
                try:
                    await notify(list({orjson.dumps([*word]).decode(): None for word in words}))
                except Exception as error:  # whatever it is, the change itself is committed
                    logger.warning("Changes could not be told yet: %s", type(error).__name__)
                    self._unsent = words + self._unsent
                    await asyncio.sleep(RETRY_SECONDS)
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            self._sending = None

    async def flush(self) -> None:
        """Sends what is not sent yet, if that can be done soon."""
        if self._sending:
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._sending

    def hear(self, payload: str) -> None:
        """A notification."""
        mandate_id, user_id, ids = orjson.loads(payload)
        self._pass_on([Word(mandate_id, user_id, tuple(ids))])

    def _pass_on(self, words: Iterable[Word]) -> None:
        for word in words:
            if word.mandate_id:
                for watch in self._watches.get(word.mandate_id, ()):
                    watch.hear(word)
            else:
                for watch in self._all():
                    if word == _LOST:
                        watch.lose()
                    elif watch.viewer_id == word.user_id:
                        watch.only_user = None
                        watch.wake()

    def begin_hearing(self) -> None:
        """Words arrive from now on. There may have been others before."""
        self._pass_on([_LOST])
        self._hearing.set()

    def stop_hearing(self) -> None:
        self._hearing.clear()

    def end(self) -> None:
        """Ends what is watched, from now on, too: the server is ending."""
        self._is_over = True
        for watch in self._all():
            watch.end()

    def _all(self) -> list[Watch]:
        return [watch for watches in self._watches.values() for watch in watches]
