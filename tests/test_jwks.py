"""Tokens signed with an issuer's private keys: which key counts, and when its key set is fetched."""

import asyncio
import gzip
import hashlib
import hmac
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from pydantic import SecretStr

from app import jwks
from app.auth import Authenticator, issue_token
from app.billing.errors import Unauthenticated, Unavailable
from app.config import Environment, Settings, SettingsError
from app.jwks import MAX_AGE_SECONDS, MAX_BYTES, KeySet, WrongKeySet
from tests.api import serving
from tests.test_auth import MALFORMED, segment

pytestmark = pytest.mark.anyio

PRIVATE: dict[str, Any] = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "ec": ec.generate_private_key(ec.SECP256R1()),
    "ed": ed25519.Ed25519PrivateKey.generate(),
}
ALGORITHMS = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA"}
STRANGER = ed25519.Ed25519PrivateKey.generate()
GOOD = {"sub": "alice", "aud": "billing", "iss": "billing", "exp": int(time.time()) + 3600}


def public(key: Any, kid: str | None = None, **more: Any) -> dict[str, Any]:
    """The JWK of a key's public half."""
    kinds = (rsa.RSAPrivateKey, RSAAlgorithm), (ec.EllipticCurvePrivateKey, ECAlgorithm)
    write: Any = next((kind for type_, kind in kinds if isinstance(key, type_)), OKPAlgorithm)
    found = write.to_jwk(key.public_key(), as_dict=True)
    found.pop("key_ops", None)
    return {**found, **({} if kid is None else {"kid": kid}), **more}


def key_set(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


ALL = key_set(*(public(key, kid) for kid, key in PRIVATE.items()))


def signed(key: str = "rsa", /, kid: Any = None, **header: Any) -> str:
    """A good token of one of the keys, which it names as the issuer does unless told otherwise."""
    named = {**header, "kid": kid or key}
    return jwt.encode(GOOD, PRIVATE[key], algorithm=ALGORITHMS[key], headers=named)


def by_stranger(**header: Any) -> str:
    return jwt.encode(GOOD, STRANGER, algorithm="EdDSA", headers=header)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Issuer:
    """A server that answers with one key set or another, or not at all, and counts how often it is asked."""

    url: str = ""
    fetches: int = 0
    answer: Iterable[bytes] = ()
    pause: float = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def publishes(self, body: bytes, status: str = "200 OK", *headers: str) -> None:
        head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
        self.answer = ["\r\n".join([*head, "", ""]).encode() + body]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.fetches += 1
        self.asked.set()
        try:
            await reader.readuntil(b"\r\n\r\n")
            await self.gate.wait()
            for part in self.answer:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(self.pause)
        except (OSError, EOFError):
            pass  # who asked has had enough
        finally:
            writer.close()


@asynccontextmanager
async def issuing(body: bytes = ALL) -> AsyncIterator[Issuer]:
    issuer = Issuer()
    issuer.publishes(body)
    issuer.gate.set()
    server = await asyncio.start_server(issuer.serve, "127.0.0.1", 0)
    issuer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
    try:
        yield issuer
    finally:
        issuer.gate.set()
        issuer.answer = ()
        server.close()
        await server.wait_closed()


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as issuer:
        yield issuer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def door(issuer: Issuer, clock: Clock) -> Authenticator:
    return Authenticator(Settings(jwks_url=issuer.url), clock)


async def outcome(door: Authenticator, token: str) -> str:
    try:
        return await door.subject(token)
    except (Unauthenticated, Unavailable) as error:
        return str(error)


async def settled() -> None:
    """Nothing runs in the background any more."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    fetches = [task for task in rest if "_fetch" in repr(task.get_coro())]
    await asyncio.gather(*fetches)


@pytest.mark.parametrize("key", PRIVATE)
async def test_a_token_of_the_issuer_names_its_user(
    door: Authenticator, issuer: Issuer, tmp_path: Path, key: str
) -> None:
    assert await outcome(door, signed(key)) == "alice"
    assert await outcome(door, signed(key)) == "alice"
    assert issuer.fetches == 1
    file = tmp_path / "keys.json"
    file.write_bytes(ALL)
    assert await outcome(Authenticator(Settings(jwks_file=file)), signed(key)) == "alice"


@pytest.mark.parametrize("signer", PRIVATE)
@pytest.mark.parametrize("named", PRIVATE)
async def test_a_key_serves_its_own_algorithm_alone(
    door: Authenticator, signer: str, named: str
) -> None:
    expected = "alice" if signer == named else MALFORMED
    assert await outcome(door, signed(signer, kid=named)) == expected


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
async def test_another_algorithm_of_the_same_key(door: Authenticator, algorithm: str) -> None:
    token = jwt.encode(GOOD, PRIVATE["rsa"], algorithm=algorithm, headers={"kid": "rsa"})
    assert await outcome(door, token) == MALFORMED


@pytest.mark.parametrize("secret", [None, SecretStr("s" * 32)])
@pytest.mark.parametrize("kid", PRIVATE)
async def test_what_is_public_is_no_secret(
    issuer: Issuer, kid: str, secret: SecretStr | None
) -> None:
    key = PRIVATE[kid].public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    jwk = json.dumps(public(PRIVATE[kid], kid)).encode()
    door = Authenticator(Settings(jwks_url=issuer.url, jwt_secret=secret))
    for known in (pem, pem.strip(), der, jwk, ALL, b""):
        body = f"{segment({'alg': 'HS256', 'typ': 'JWT', 'kid': kid})}.{segment(GOOD)}"
        mac = hmac.new(known, body.encode(), hashlib.sha256).digest()
        token = f"{body}.{jwt.utils.base64url_encode(mac).decode()}"
        assert await outcome(door, token) == MALFORMED
    assert await outcome(door, signed(kid)) == "alice"


@pytest.mark.parametrize("name", ["none", "None", "NONE", "", None, 7, ["RS256"], {"RS256": 1}])
async def test_no_algorithm(door: Authenticator, name: object) -> None:
    signature = signed().split(".")[2]
    unsigned = f"{segment({'alg': name, 'kid': 'rsa'})}.{segment(GOOD)}."
    assert await outcome(door, unsigned) == MALFORMED
    assert await outcome(door, unsigned + signature) == MALFORMED


async def test_keys_and_addresses_in_a_header_are_not_looked_at(
    door: Authenticator, issuer: Issuer
) -> None:
    theirs = public(STRANGER, "stranger")
    async with issuing(key_set(theirs)) as attacker:
        for header in (
            {"jku": attacker.url},
            {"x5u": attacker.url},
            {"jwk": theirs},
            {"x5c": ["MIIB"]},
            {"jku": attacker.url, "x5u": attacker.url, "jwk": theirs, "x5t": "x", "x5c": [7]},
        ):
            for kid in ("stranger", "ed", attacker.url):
                assert await outcome(door, by_stranger(**header, kid=kid)) == MALFORMED
            assert await outcome(door, by_stranger(**header)) == MALFORMED
            assert await outcome(door, signed("ed", **header)) == "alice"
        assert (attacker.fetches, issuer.fetches) == (0, 1)


@pytest.mark.parametrize("crit", [["exp"], [], "b64", ["b64"], [[]], None])
async def test_an_extension_that_is_critical(door: Authenticator, crit: object) -> None:
    assert await outcome(door, signed(crit=crit, jku="https://example.com")) == MALFORMED


KIDS = [7, 0, True, [], ["rsa"], {"rsa": 1}, 1.5, "", "x" * 5000, "a\0b", "\ud800", "é", "../rsa"]


@pytest.mark.parametrize("kid", KIDS, ids=range(len(KIDS)))
async def test_a_kid_that_is_none(door: Authenticator, kid: object) -> None:
    body = f"{segment({'alg': 'RS256', 'kid': kid})}.{segment(GOOD)}".encode()
    signature = RSAAlgorithm(RSAAlgorithm.SHA256).sign(body, PRIVATE["rsa"])
    token = f"{body.decode()}.{jwt.utils.base64url_encode(signature).decode()}"
    assert await outcome(door, token) == MALFORMED


@pytest.mark.parametrize("kid", ["rsa", None])
async def test_a_token_without_kid(issuer: Issuer, kid: str | None) -> None:
    bare = jwt.encode(GOOD, PRIVATE["rsa"], algorithm="RS256")
    issuer.publishes(key_set(public(PRIVATE["rsa"], kid), public(PRIVATE["ec"], "ec")))
    assert await outcome(Authenticator(Settings(jwks_url=issuer.url)), bare) == "alice"
    other = public(rsa.generate_private_key(65537, 2048), "other")
    issuer.publishes(key_set(public(PRIVATE["rsa"], kid), other))
    assert await outcome(Authenticator(Settings(jwks_url=issuer.url)), bare) == MALFORMED


async def test_claims_are_judged_as_those_of_other_tokens(door: Authenticator) -> None:
    for changes, expected in (
        ({"exp": 1}, "The token has expired: get a new one."),
        ({"nbf": int(time.time()) + 60}, "The token is not valid yet."),
        ({"iat": int(time.time()) + 60}, "The token is not valid yet."),
        ({"exp": None}, "The token lacks the claim exp."),
        ({"sub": None}, "The token lacks the claim sub."),
        ({"aud": None}, "The token lacks the claim aud."),
        ({"iss": None}, "The token lacks the claim iss."),
        ({"aud": "other"}, "The token was issued for another audience."),
        ({"iss": "other"}, "The token comes from another issuer."),
        ({"sub": 7}, MALFORMED),
    ):
        claims = {name: value for name, value in (GOOD | changes).items() if value is not None}
        token = jwt.encode(claims, PRIVATE["ec"], algorithm="ES256", headers={"kid": "ec"})
        assert await outcome(door, token) == expected


async def test_rotation(door: Authenticator, issuer: Issuer, clock: Clock) -> None:
    ours = public(PRIVATE["rsa"], "rsa")
    assert await outcome(door, signed()) == "alice"
    issuer.publishes(key_set(ours, public(PRIVATE["ec"], "new")))
    assert await outcome(door, signed("ec", kid="new")) == MALFORMED  # within the minute
    assert issuer.fetches == 1
    clock.now += 60
    assert await outcome(door, signed("ec", kid="new")) == "alice"
    assert issuer.fetches == 2
    clock.now += 59.9
    issuer.publishes(key_set(public(PRIVATE["ec"], "newer")))
    for number in range(100):
        assert await outcome(door, signed("ec", kid=f"unknown-{number}")) == MALFORMED
    assert await outcome(door, signed()) == "alice"
    assert issuer.fetches == 2
    clock.now += 0.1
    assert await outcome(door, signed("ec", kid="newer")) == "alice"
    assert await outcome(door, signed()) == MALFORMED  # withdrawn
    assert issuer.fetches == 3


async def test_a_withdrawn_key_ends_although_no_other_is_asked_for(
    door: Authenticator, issuer: Issuer, clock: Clock
) -> None:
    assert await outcome(door, signed()) == "alice"
    issuer.publishes(key_set(public(PRIVATE["ec"], "ec")))
    clock.now += MAX_AGE_SECONDS - 1
    assert await outcome(door, signed()) == "alice"
    assert issuer.fetches == 1
    clock.now += 1
    await outcome(door, signed())
    await settled()
    assert await outcome(door, signed()) == MALFORMED
    assert await outcome(door, signed("ec")) == "alice"
    assert issuer.fetches == 2


async def test_many_at_once_fetch_once(door: Authenticator, issuer: Issuer) -> None:
    issuer.gate.clear()
    waiting = [asyncio.create_task(outcome(door, signed("ed"))) for _ in range(100)]
    await issuer.asked.wait()
    waiting[0].cancel()  # the fetch is everybody's
    issuer.gate.set()
    rest = await asyncio.gather(*waiting[1:])
    assert (set(rest), issuer.fetches) == ({"alice"}, 1)


async def test_unknown_keys_hold_up_nobody(
    door: Authenticator, issuer: Issuer, clock: Clock
) -> None:
    assert await outcome(door, signed()) == "alice"
    clock.now += 60
    issuer.asked.clear()
    issuer.gate.clear()
    strangers = [
        asyncio.create_task(outcome(door, by_stranger(kid=f"unknown-{number}")))
        for number in range(1000)
    ]
    await issuer.asked.wait()
    async with asyncio.timeout(3):
        assert await outcome(door, signed()) == "alice"
    issuer.gate.set()
    assert set(await asyncio.gather(*strangers)) == {MALFORMED}
    assert issuer.fetches == 2


def _answers(issuer: Issuer, fault: str, elsewhere: str) -> None:
    if fault == "redirect":
        issuer.publishes(b"", "302 Found", f"Location: {elsewhere}")
    elif fault == "redirect with keys":
        issuer.publishes(ALL, "307 Temporary Redirect", f"Location: {elsewhere}")
    elif fault == "500":
        issuer.publishes(ALL, "500 Internal Server Error")
    elif fault == "large":
        issuer.publishes(ALL + b" " * (MAX_BYTES + 1 - len(ALL)))
    elif fault == "endless":
        issuer.answer = itertools.chain([b"HTTP/1.1 200 OK\r\n\r\n"], itertools.repeat(b" " * 9999))
    elif fault == "packed":
        issuer.publishes(gzip.compress(ALL), "200 OK", "Content-Encoding: gzip")
    elif fault == "dripping":
        issuer.pause = 0.05
        issuer.answer = itertools.chain([b"HTTP/1.1 200 OK\r\n\r\n"], itertools.repeat(b" "))
    elif fault == "closed":
        issuer.answer = ()
    elif fault == "no HTTP":
        issuer.answer = [b"keys\r\n\r\n"]
    else:
        issuer.publishes(fault.encode())


FAULTS = [
    "redirect",
    "redirect with keys",
    "500",
    "large",
    "endless",
    "packed",
    "dripping",
    "closed",
    "no HTTP",
    "",
    "<html>",
    "[]",
    "{}",
    '{"keys": {}}',
    '{"keys": []}',
    '{"keys": [7, null, {}]}',
    "[" * 100_000,
]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault[:20] for fault in FAULTS])
async def test_an_issuer_that_fails(
    monkeypatch: pytest.MonkeyPatch,
    door: Authenticator,
    issuer: Issuer,
    clock: Clock,
    fault: str,
) -> None:
    if fault == "dripping":
        monkeypatch.setattr(jwks, "FETCH_SECONDS", 1)
    async with issuing() as elsewhere:
        _answers(issuer, fault, elsewhere.url)
        unavailable = "The issuer of tokens cannot be reached at the moment: try again."
        async with asyncio.timeout(10):
            for _ in range(3):
                assert await outcome(door, signed()) == unavailable
        assert issuer.fetches == 1
        clock.now += 5
        issuer.gate.set()
        issuer.publishes(ALL)
        assert await outcome(door, signed()) == "alice"
        clock.now += MAX_AGE_SECONDS
        _answers(issuer, fault, elsewhere.url)
        assert await outcome(door, signed("ec", kid="unknown")) == MALFORMED
        assert issuer.fetches == 3
        clock.now += 59
        for key in PRIVATE:  # the old keys stay
            assert await outcome(door, signed(key)) == "alice"
        assert (issuer.fetches, elsewhere.fetches) == (3, 0)


async def test_an_issuer_that_cannot_be_reached(clock: Clock) -> None:
    async with issuing() as issuer:
        door = Authenticator(Settings(jwks_url=issuer.url), clock)
        assert await outcome(door, signed()) == "alice"
    clock.now += 2 * MAX_AGE_SECONDS
    assert await outcome(door, signed()) == "alice"
    await settled()
    assert await outcome(door, signed()) == "alice"
    assert await outcome(door, by_stranger(kid="unknown")) == MALFORMED


UNUSABLE = [
    (public(PRIVATE["rsa"], use="enc"), "is not for verifying RS256"),
    (public(PRIVATE["rsa"], alg="RS512"), "is not for verifying RS256"),
    (public(PRIVATE["rsa"], alg="HS256"), "is not for verifying RS256"),
    (public(PRIVATE["ec"], alg=7), "is not for verifying ES256"),
    (public(PRIVATE["ed"], key_ops=["sign"]), "is not for verifying EdDSA"),
    (public(PRIVATE["ed"], key_ops=7), "is not for verifying EdDSA"),
    ({"kty": "oct", "k": "c" * 43, "alg": "HS256"}, "is not RSA, EC P-256 or OKP Ed25519"),
    ({"kty": "oct", "k": "c" * 43, "alg": "RS256"}, "is not RSA, EC P-256 or OKP Ed25519"),
    (public(ec.generate_private_key(ec.SECP384R1())), "is not RSA, EC P-256 or OKP Ed25519"),
    (public(ed448.Ed448PrivateKey.generate()), "is not RSA, EC P-256 or OKP Ed25519"),
    (public(PRIVATE["ec"], kty=["EC"]), "is not RSA, EC P-256 or OKP Ed25519"),
    (public(rsa.generate_private_key(65537, 1024)), "is an RSA key below 2048 bits"),
    (OKPAlgorithm.to_jwk(PRIVATE["ed"], as_dict=True), "is a private key"),
    (ECAlgorithm.to_jwk(PRIVATE["ec"], as_dict=True), "is a private key"),
    (RSAAlgorithm.to_jwk(PRIVATE["rsa"], as_dict=True), "is a private key"),
    (public(PRIVATE["rsa"]) | {"kid": 7}, "has a kid that is no text"),
    (public(PRIVATE["rsa"], e="AQ"), "is malformed"),
    (public(PRIVATE["rsa"], n=7), "is malformed"),
    (public(PRIVATE["ec"], x="AAAA"), "is malformed"),
    (public(PRIVATE["ec"], y=public(PRIVATE["ec"])["x"]), "is malformed"),
    (public(PRIVATE["ed"], x="é"), "is malformed"),
    ({"kty": "RSA"}, "is malformed"),
    ({}, "is not RSA, EC P-256 or OKP Ed25519"),
    (7, "is no JSON object"),
]


@pytest.mark.parametrize(("key", "fault"), UNUSABLE, ids=range(len(UNUSABLE)))
async def test_a_key_that_is_not_used(key: object, fault: str) -> None:
    with pytest.raises(WrongKeySet) as error:
        KeySet(key_set(key))
    assert str(error.value) == f"has no key that can be used: key 1 {fault}"
    named = {"kid": "bad", **key} if isinstance(key, dict) else key
    keys = KeySet(key_set(named, public(STRANGER, "good")))
    assert await keys.find("EdDSA", "good")
    assert [await keys.find(name, "bad") for name in ALGORITHMS.values()] == [None] * 3


async def test_without_a_secret_nothing_is_signed_with_one(issuer: Issuer) -> None:
    known = Settings()
    both = Settings(jwks_url=issuer.url, jwt_secret=SecretStr("s" * 32))
    for environment in Environment:
        alone = Settings(
            environment=environment,
            jwks_url=issuer.url,
            jwt_audience="billing",
            jwt_issuer="billing",
        )
        for token in (issue_token(known, "alice", 60), issue_token(both, "alice", 60)):
            assert await outcome(Authenticator(alone), token) == MALFORMED
        with pytest.raises(SettingsError, match=r"^Without BILLING_JWT_SECRET .* set it, or get a"):
            issue_token(alone, "alice", 60)
    door = Authenticator(both)
    assert await outcome(door, issue_token(known, "alice", 60)) == MALFORMED
    assert await outcome(door, issue_token(both, "alice", 60)) == "alice"
    assert await outcome(door, signed()) == "alice"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_api_while_the_issuer_is_down(database_url: str) -> None:
    async with issuing() as closed:
        pass
    settings = Settings(
        database_url=database_url, jwks_url=closed.url, jwt_secret=SecretStr("s" * 32)
    )
    bearer = {"Authorization": f"Bearer {signed()}"}
    async with serving(settings) as api:
        for answer in (
            await api.client.post("/graphql", json={"query": "{ viewer { id } }"}, headers=bearer),
            await api.client.get("/export/usage.csv?mandateId=acme", headers=bearer),
        ):
            [error] = answer.json()["errors"]
            assert (answer.status_code, error["extensions"]) == (
                503,
                {"code": "UNAVAILABLE", "retryAfter": 2},
            )
        answered = await api("gateway", "{ __typename }")
        assert answered.codes == ["UNAUTHENTICATED"]  # its token is good; nobody added it
