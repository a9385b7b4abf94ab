"""What the reads and the writes of the baseline share: who asks, amounts as text, and new ids."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from starlette.exceptions import HTTPException

NANO = 10**9
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who asks, with what the database says of them."""

    user_id: str
    is_sys_admin: bool
    is_service: bool
    roles: Mapping[str, str]

    def require_admin(self, mandate_id: str) -> None:
        if not self.is_sys_admin and self.roles.get(mandate_id) != "ADMIN":
            raise HTTPException(403)

    def require_gateway(self) -> None:
        if not self.is_sys_admin and not self.is_service:
            raise HTTPException(403)


def money(nano: int) -> str:
    """The text of an amount in nano units."""
    whole, fraction = divmod(abs(nano), NANO)
    sign = "-" if nano < 0 else ""
    return f"{sign}{whole}.{fraction:09d}".rstrip("0") if fraction else f"{sign}{whole}"


def new_key(at: datetime) -> str:
    """A UUIDv7 in the order of `at` to the microsecond."""
    milliseconds, rest = divmod((at - _EPOCH) // _MICROSECOND, 1000)
    low = int.from_bytes(os.urandom(8)) >> 2
    fraction = rest * 4096 // 1000
    return str(UUID(int=milliseconds << 80 | 7 << 76 | fraction << 64 | 2 << 62 | low))
