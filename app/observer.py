"""What is measured of the database's rows: looked at in the background, never by a scrape.

The leader alone looks, so that a database is asked no more often by many processes than by one.
"""

from time import monotonic

from app.billing import held, outbox
from app.billing.enums import Channel
from app.billing.verify import DriftCheck
from app.database import Database
from app.metrics import CHECKED, DRIFT, OPEN_HOLDS, OUTBOX, OUTBOX_AGE

DRIFT_SECONDS = 0.2
"""How long one look may go on from account to account; the next look goes on from there."""


class Observer:
    """Goes through the accounts again and again, and knows which of them it found wrong."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._drift = DriftCheck()

    def forget(self) -> None:
        """Another process looks from now on: what this one saw would be told twice."""
        self._drift = DriftCheck()
        for gauge in (OPEN_HOLDS, DRIFT):
            gauge.set(0)
        for channel in Channel:
            OUTBOX.labels(channel).set(0)
            OUTBOX_AGE.labels(channel).set(0)

    async def look(self) -> None:
        async with self._database.read() as connection:
            OPEN_HOLDS.set(await held.count_open(connection))
            waiting = await outbox.waiting(connection)
            for channel in Channel:
                count, age = waiting.get(channel, (0, 0.0))
                OUTBOX.labels(channel).set(count)
                OUTBOX_AGE.labels(channel).set(age)
            end = monotonic() + DRIFT_SECONDS
            while True:
                CHECKED.inc(await self._drift.go_on(connection))
                if self._drift.is_through or monotonic() > end:
                    break
            DRIFT.set(len(self._drift.wrong))
