"""The manifest of the trusted documents, which the build of a client writes. Whether they fit the schema is no concern of it."""

import re
from hashlib import sha256
from pathlib import Path

import orjson

MAX_BYTES = 16 * 1024 * 1024
"""A client has a few hundred operations, of a thousand bytes each."""
MAX_FAULTS = 5
"""That one message lists."""
_HASH = re.compile("(?:sha256:)?([0-9a-f]{64})")


class WrongManifest(Exception):
    """Not a manifest that can be used; the message says why."""


def read_manifest(file: Path) -> dict[str, str]:
    """The documents in a file, by their SHA-256."""
    try:
        with file.open("rb") as content:
            text = content.read(MAX_BYTES + 1)
    except OSError as error:
        raise WrongManifest(f"cannot be read: {error.strerror}") from None
    if len(text) > MAX_BYTES:
        raise WrongManifest(f"is larger than {MAX_BYTES // 1024**2} MiB")
    try:
        manifest = orjson.loads(text)
    except orjson.JSONDecodeError:
        manifest = None
    if not isinstance(manifest, dict) or not manifest:
        raise WrongManifest("is no manifest: a JSON object of documents by their SHA-256")
    documents, faults = dict[str, str](), []
    for number, (key, document) in enumerate(manifest.items(), 1):
        if not (digest := read_hash(key)):
            faults.append(f"key {number} is no SHA-256 in lower-case hexadecimal")
        elif not isinstance(document, str) or digest != hash_of(document):
            faults.append(f"{key} is not the SHA-256 of its document")
        else:
            documents[digest] = document
    if faults:
        raise WrongManifest(f"has faults: {', '.join(faults[:MAX_FAULTS])}")
    return documents


def read_hash(text: str) -> str | None:
    """The hexadecimal digits of an identifier, with or without the prefix `sha256:`; None where it is none."""
    found = _HASH.fullmatch(text)
    return found[1] if found else None


def hash_of(document: str) -> str:
    """By which a document is known."""
    return sha256(document.encode(errors="surrogatepass")).hexdigest()
