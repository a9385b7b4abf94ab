"""The public keys of whoever issues tokens: a JWK Set, from a file or kept fresh from a URL."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import jwt
import orjson

from app.billing.errors import Unavailable

MAX_BYTES = 256 * 1024
"""A key set is a few thousand bytes long."""
FETCH_SECONDS = 5
PAUSE_SECONDS = 60
"""Between two fetches, whatever tokens come in."""
FIRST_PAUSE_SECONDS = 5
"""The same while there is no key at all, and so no answer but 503."""
MAX_AGE_SECONDS = 600
"""After which a key set is fetched again: a key that the issuer has withdrawn ends."""
_ALGORITHMS = {"RSA": "RS256", "EC P-256": "ES256", "OKP Ed25519": "EdDSA"}
_PUBLIC = ("kty", "crv", "kid", "n", "e", "x", "y")

logger = logging.getLogger("billing.jwks")


class WrongKeySet(Exception):
    """Not a key set that can be used; the message says why and shows nothing of it."""


class KeySet:
    """Public keys, each good for one algorithm, which its own type decides."""

    def __init__(self, text: bytes) -> None:
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError:
            document = None
        listed = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(listed, list):
            raise WrongKeySet("is no JWK Set: a JSON object with a list of keys")
        self._keys: list[jwt.PyJWK] = []
        faults = []
        for number, key in enumerate(listed, 1):
            try:
                self._keys.append(_usable(key))
            except WrongKeySet as fault:
                faults.append(f"key {number} {fault}")
        if not self._keys:
            reasons = ", ".join(faults[:5]) or "it is empty"
            raise WrongKeySet(f"has no key that can be used: {reasons}")

    async def find(self, algorithm: str, kid: str | None) -> jwt.PyJWK | None:
        """The one key of that algorithm and id; without an id, the only one of that algorithm."""
        fitting = [
            key
            for key in self._keys
            if key.algorithm_name == algorithm and kid in (None, key.key_id)
        ]
        return fitting[0] if len(fitting) == 1 else None


def read_key_set(file: Path) -> KeySet:
    """The key set in a file."""
    try:
        with file.open("rb") as content:
            text = content.read(MAX_BYTES + 1)
    except OSError as error:
        raise WrongKeySet(f"cannot be read: {error.strerror}") from None
    _check_size(text)
    return KeySet(text)


class RemoteKeySet:
    """The key set at a URL, fetched when a key is missing or it has aged; without an answer the old one stays."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._keys: KeySet | None = None
        self._ages_at = self._may_fetch_at = clock()
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, algorithm: str, kid: str | None) -> jwt.PyJWK | None:
        """Like KeySet.find. Who has a known key never waits; who has not waits for one fetch at most."""
        key = await self._keys.find(algorithm, kid) if self._keys else None
        now = self._clock()
        if now >= self._may_fetch_at and (key is None or now >= self._ages_at):
            self._fetching = self._fetching or asyncio.create_task(self._fetch())
        if key is None and self._fetching:
            await asyncio.shield(self._fetching)  # others wait for it too
            key = await self._keys.find(algorithm, kid) if self._keys else None
        if self._keys is None:
            raise Unavailable("The issuer of tokens cannot be reached at the moment: try again.")
        return key

    async def _fetch(self) -> None:
        try:
            self._keys = KeySet(await self._download())
            self._ages_at = self._clock() + MAX_AGE_SECONDS
        except (httpx.HTTPError, OSError, WrongKeySet) as error:
            reason = str(error) or type(error).__name__
            logger.warning("BILLING_JWKS_URL: %s. Keys known before stay in force.", reason)
        finally:
            pause = PAUSE_SECONDS if self._keys else FIRST_PAUSE_SECONDS
            self._may_fetch_at = self._clock() + pause
            self._fetching = None

    async def _download(self) -> bytes:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with (
            asyncio.timeout(FETCH_SECONDS),
            httpx.AsyncClient(headers=headers, timeout=FETCH_SECONDS) as client,
            client.stream("GET", self._url, follow_redirects=False) as answer,
        ):
            if answer.status_code != 200:
                raise WrongKeySet(f"answers with HTTP {answer.status_code}")
            text = bytearray()
            async for (
                chunk
            ) in answer.aiter_raw():  # as sent: what is packed could unpack to anything
                text += chunk
                _check_size(text)
            return bytes(text)


def _check_size(text: bytes | bytearray) -> None:
    if len(text) > MAX_BYTES:
        raise WrongKeySet(f"is larger than {MAX_BYTES // 1024} KiB")


def _usable(key: object) -> jwt.PyJWK:
    """A public key to verify signatures with, by its type alone."""
    if not isinstance(key, dict):
        raise WrongKeySet("is no JSON object")
    kind = f"{key.get('kty')} {key.get('crv', '')}".rstrip()
    algorithm = _ALGORITHMS.get(kind)
    operations = key.get("key_ops", ["verify"])
    if algorithm is None:
        raise WrongKeySet("is not RSA, EC P-256 or OKP Ed25519")
    if "d" in key:
        raise WrongKeySet("is a private key")
    if (
        key.get("use", "sig") != "sig"
        or key.get("alg", algorithm) != algorithm
        or not isinstance(operations, list)
        or "verify" not in operations
    ):
        raise WrongKeySet(f"is not for verifying {algorithm}")
    if not isinstance(key.get("kid", ""), str):
        raise WrongKeySet("has a kid that is no text")
    try:
        usable = jwt.PyJWK({name: key[name] for name in _PUBLIC if name in key}, algorithm)
    except jwt.PyJWTError:
        raise WrongKeySet("is malformed") from None
    if usable.Algorithm.check_key_length(usable.key):
        raise WrongKeySet("is an RSA key below 2048 bits")
    return usable
