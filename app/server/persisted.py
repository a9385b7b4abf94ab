"""Which document a request asks for: by its text, or by the hash of a trusted or an earlier one.

Requests name a hash as `documentId` (GraphQL over HTTP, appendix on persisted documents) or in
`extensions.persistedQuery` (Apollo's automatic persisted queries).
"""

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from graphql import GraphQLError, OperationDefinitionNode

from app.billing.errors import BadInput, RequestError
from app.config import Environment, Settings, SettingsError
from app.trusted_documents import MAX_FAULTS, hash_of, read_hash, read_manifest
from schema import schema
from schema.validation import parse_document, validate_document

MAX_KEPT = 1_000
MAX_KEPT_LENGTH = 1024 * 1024
"""Of all documents that are kept, in characters of at most four bytes."""


class PersistedQueryNotFound(RequestError):
    """No document of that hash is known; clients look for these words, and send its text, too."""

    code = "PERSISTED_QUERY_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("PersistedQueryNotFound")


class PersistedDocuments:
    """The documents that are known by their hash: the trusted ones, and the last ones that clients sent."""

    def __init__(self, settings: Settings) -> None:
        self._shows_schema = settings.environment == Environment.DEVELOPMENT
        self._trusted = load_trusted(settings)
        self._trusted_alone = bool(self._trusted) and not self._shows_schema
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._kept_length = 0

    def resolve_document(self, asked: Mapping[str, Any]) -> str:
        """The text that the members of a request ask for; a RequestError where there is none to run."""
        text: str | None = asked.get("query")
        digest = _asked_hash(asked)
        if text and digest and digest != hash_of(text):
            raise BadInput("The hash is not the SHA-256 of the query: send one of the two.")
        if self._trusted_alone:
            return self._trusted_document(digest or hash_of(text or ""))
        if not digest:
            if not text:
                raise BadInput("There is no query: send GraphQL in the member `query`.")
            return text
        if text:
            self._keep(digest, text)
            return text
        return self._trusted.get(digest) or self._kept_document(digest)

    def _trusted_document(self, digest: str) -> str:
        if digest not in self._trusted:
            raise BadInput(
                "This server runs trusted documents alone, and this is none of them: send the"
                " SHA-256 of one as documentId."
            )
        return self._trusted[digest]

    def _kept_document(self, digest: str) -> str:
        if digest not in self._kept:
            raise PersistedQueryNotFound
        self._kept.move_to_end(digest)
        return self._kept[digest]

    def _keep(self, digest: str, text: str) -> None:
        if digest in self._trusted or _fault(text, self._shows_schema):
            return
        self._kept_length += 0 if digest in self._kept else len(text)
        self._kept[digest] = text
        self._kept.move_to_end(digest)
        while len(self._kept) > MAX_KEPT or self._kept_length > MAX_KEPT_LENGTH:
            _, oldest = self._kept.popitem(last=False)
            self._kept_length -= len(oldest)


def load_trusted(settings: Settings) -> dict[str, str]:
    """By their hash; SettingsError where one of them could not be run."""
    if settings.trusted_documents is None:
        return {}
    documents = read_manifest(settings.trusted_documents)
    shows_schema = settings.environment == Environment.DEVELOPMENT
    faults = [
        f"{digest}{_names(text)}: {fault}"
        for digest, text in documents.items()
        if (fault := _fault(text, shows_schema))
    ]
    if faults:
        raise SettingsError(
            "BILLING_TRUSTED_DOCUMENTS has documents that cannot be run: "
            + " ".join(faults[:MAX_FAULTS])
        )
    return documents


def _asked_hash(asked: Mapping[str, Any]) -> str | None:
    """In hexadecimal digits; None where no member names one."""
    extensions = asked.get("extensions")
    persisted = extensions.get("persistedQuery") if isinstance(extensions, dict) else None
    if not isinstance(persisted, dict | None):
        raise BadInput("extensions.persistedQuery must be an object or null.")
    given = {
        "documentId": asked.get("documentId"),
        "extensions.persistedQuery.sha256Hash": (persisted or {}).get("sha256Hash"),
    }
    digests = set()
    for name, identifier in given.items():
        if identifier is None:
            continue
        digest = read_hash(identifier) if isinstance(identifier, str) else None
        if not digest:
            raise BadInput(f"{name} must be a SHA-256 in 64 lower-case hexadecimal digits.")
        digests.add(digest)
    if len(digests) > 1:
        raise BadInput(f"{' and '.join(given)} name two documents: send one of the two.")
    return next(iter(digests), None)


def _fault(text: str, shows_schema: bool) -> str | None:
    """Why a document cannot be run, whatever its variables."""
    try:
        faults = validate_document(schema._schema, text, shows_schema)
    except GraphQLError as error:
        return error.message
    except RequestError as error:
        return str(error)
    return faults[0].message if faults else None


def _names(text: str) -> str:
    """Of its operations, as they are shown behind a hash."""
    names = []
    with suppress(GraphQLError, RequestError):
        names = [
            definition.name.value
            for definition in parse_document(text).definitions
            if isinstance(definition, OperationDefinitionNode) and definition.name
        ]
    return f" ({', '.join(names)})" if names else ""
