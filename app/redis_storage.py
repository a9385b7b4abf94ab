"""Redis, where several processes count together: loaded where it is used."""

from typing import Any

from limits.aio.storage import RedisStorage
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

_CONNECTIONS = 20


class RedisConnections:
    """Connections to one Redis, and the storage of `limits` on them."""

    failures = (RedisError, OSError)
    """What a Redis that does not answer raises; a TimeoutError is an OSError."""

    def __init__(self, url: str, seconds: float) -> None:
        """An answer is waited for so long at most."""
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=None,
            socket_connect_timeout=seconds,
            socket_timeout=seconds,
            retry=Retry(NoBackoff(), 1),  # a connection that was closed while it lay idle
        )
        options: dict[str, Any] = {"connection_pool": self._pool}
        self.storage = RedisStorage(
            "async+redis://", implementation="redispy", key_prefix="billing", **options
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._pool.aclose()
