"""Tokens: only one of ours that is in force names a user."""

import asyncio
import base64
import json
import time
from typing import Any

import jwt
import pytest
from pydantic import SecretStr

from app.auth import KEPT_SECONDS, Authenticator, issue_token
from app.billing.errors import Unauthenticated
from app.config import Settings

SECRET = "0123456789abcdef0123456789abcdef"
SETTINGS = Settings(jwt_secret=SecretStr(SECRET), jwt_audience="billing-api", jwt_issuer="platform")
MALFORMED = "The token is malformed or not signed by us."


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good token with some changed; None leaves one out."""
    good = {
        "sub": "alice",
        "aud": "billing-api",
        "iss": "platform",
        "exp": int(time.time()) + 60,
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def signed(**changes: Any) -> str:
    return jwt.encode(claims(**changes), SECRET, algorithm="HS256")


def segment(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def subject(token: str) -> str:
    return asyncio.run(Authenticator(SETTINGS).subject(token))


def refusal(token: str) -> str:
    with pytest.raises(Unauthenticated) as error:
        subject(token)
    return str(error.value)


def test_a_token_of_ours_names_its_user() -> None:
    assert subject(issue_token(SETTINGS, "alice", 60)) == "alice"


def test_a_token_of_the_platform_names_its_user() -> None:
    assert subject(signed()) == "alice"
    assert subject(signed(aud=["other", "billing-api"])) == "alice"
    assert subject(signed(iat=int(time.time()), nbf=0)) == "alice"


@pytest.mark.anyio
async def test_a_good_token_is_verified_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[str] = []
    decode = jwt.decode

    def note(token: str, *arguments: Any, **options: Any) -> Any:
        verified.append(token)
        return decode(token, *arguments, **options)

    monkeypatch.setattr(jwt, "decode", note)
    authenticator, token, now = Authenticator(SETTINGS), signed(exp=2**40), time.time()
    for later, times in ((0, 1), (1, 1), (KEPT_SECONDS - 1, 1), (KEPT_SECONDS + 1, 2)):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        assert await authenticator.subject(token) == "alice"
        assert verified == [token] * times
    with pytest.raises(Unauthenticated):
        await authenticator.subject(token[:-2])


@pytest.mark.anyio
async def test_a_known_token_expires_like_any_other() -> None:
    authenticator, expires_at = Authenticator(SETTINGS), int(time.time()) + 2
    token = signed(exp=expires_at)
    assert await authenticator.subject(token) == "alice"
    await asyncio.sleep(expires_at - time.time() + 0.01)
    with pytest.raises(Unauthenticated, match="has expired"):
        await authenticator.subject(token)


@pytest.mark.anyio
async def test_few_tokens_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.auth._KEPT_TOKENS", 2)
    authenticator = Authenticator(SETTINGS)
    for name in "abc":
        assert await authenticator.subject(signed(sub=name)) == name
        assert len(authenticator._known) <= 2


def test_an_expired_token() -> None:
    assert refusal(issue_token(SETTINGS, "alice", 0)) == "The token has expired: get a new one."
    assert refusal(signed(exp=1)) == "The token has expired: get a new one."


@pytest.mark.parametrize("name", ["exp", "sub", "aud", "iss"])
def test_a_claim_is_missing(name: str) -> None:
    assert refusal(signed(**{name: None})) == f"The token lacks the claim {name}."


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_subject(value: str) -> None:
    assert refusal(signed(sub=value)) == "The token lacks the claim sub."


@pytest.mark.parametrize("value", [7, ["alice"], {"alice": 1}, True, "\ud800", "alice\udfff"])
def test_a_subject_that_is_no_text(value: object) -> None:
    assert refusal(signed(sub=value)) == MALFORMED


@pytest.mark.parametrize("audience", ["billing", "", ["other"], [], 7])
def test_another_audience(audience: object) -> None:
    assert refusal(signed(aud=audience)) in (
        "The token was issued for another audience.",
        "The token lacks the claim aud.",
    )


def test_another_issuer() -> None:
    assert refusal(signed(iss="billing")) == "The token comes from another issuer."


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_a_token_from_the_future(name: str) -> None:
    assert refusal(signed(**{name: int(time.time()) + 60})) == "The token is not valid yet."


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", ["soon", [], {}, float("inf"), float("nan")])
def test_an_instant_that_is_none(name: str, value: object) -> None:
    assert refusal(signed(**{name: value})) == MALFORMED


def test_another_key() -> None:
    token = jwt.encode(claims(), "another key of at least 32 bytes!", algorithm="HS256")
    assert refusal(token) == MALFORMED


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE"])
def test_no_signature(name: str) -> None:
    unsigned = f"{segment({'alg': name, 'typ': 'JWT'})}.{segment(claims())}."
    assert refusal(unsigned) == MALFORMED
    assert refusal(f"{unsigned}{signed().split('.')[2]}") == MALFORMED


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
def test_another_algorithm(algorithm: str) -> None:
    assert refusal(jwt.encode(claims(), SECRET, algorithm=algorithm)) == MALFORMED


def test_a_changed_payload_or_a_cut_signature() -> None:
    header, _, signature = signed().split(".")
    assert refusal(f"{header}.{segment(claims(sub='bob'))}.{signature}") == MALFORMED
    assert refusal(f"{header}.{segment(claims())}.{signature[:-4]}") == MALFORMED


@pytest.mark.parametrize(
    "token",
    [
        "",
        "garbage",
        "a.b.c",
        "..",
        "\0",
        "é",
        "\ud800",
        "x" * 100_000,
        f"{base64.urlsafe_b64encode(b'[' * 100_000).decode()}.e30.e30",
        f"{segment([])}.{segment({})}.e30",
        f"{segment({'alg': 7})}.{segment({})}.e30",
    ],
    ids=range(11),
)
def test_garbage(token: str) -> None:
    assert refusal(token) == MALFORMED


def test_a_token_has_8192_characters_at_most() -> None:
    room = 8192 - len(signed(note=""))
    fitting = signed(note="x" * (room * 3 // 4))
    assert 8188 <= len(fitting) <= 8192
    assert subject(fitting) == "alice"
    assert refusal(signed(note="x" * (room * 3 // 4 + 4))) == MALFORMED


@pytest.mark.parametrize("kid", ["any", "x" * 5000, "é"])
def test_a_kid_says_nothing_about_the_secret(kid: str) -> None:
    assert subject(jwt.encode(claims(), SECRET, algorithm="HS256", headers={"kid": kid})) == "alice"


@pytest.mark.parametrize("kid", [7, None, [], {}])
def test_a_kid_that_is_no_text(kid: object) -> None:
    head = segment({"alg": "HS256", "kid": kid})
    assert refusal(f"{head}.{segment(claims())}.{signed().split('.')[2]}") == MALFORMED


def test_a_signed_payload_that_is_no_object() -> None:
    for payload in (b"[]", b"7", b"\xff", b"[" * 100_000):
        assert refusal(jwt.api_jws.encode(payload, SECRET, algorithm="HS256")) == MALFORMED


def test_a_short_key_is_refused() -> None:
    short = SETTINGS.model_copy(update={"jwt_secret": SecretStr("x" * 31)})
    with pytest.raises(ValueError, match="at least 32 bytes"):
        Authenticator(short)
    with pytest.raises(ValueError, match="at least 32 bytes"):
        issue_token(short, "alice", 60)
