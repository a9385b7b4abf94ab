"""Addresses of other servers, as an operator writes them: what is wrong with one is told before it is used."""

import httpx
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

_DATABASES = {
    "sqlite": "sqlite:///FILE",
    "postgresql": "postgresql://USER:PASSWORD@HOST/DATABASE",
}
_OPTIONS = {"sqlite": set[str](), "postgresql": {"host", "ssl"}}
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def check_database_url(value: str, *drivers: str) -> str:
    """The address of a database, of these kinds alone where they are given; ValueError says what is wrong, and shows no password."""
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):  # their words may quote the password
        url = None
    drivers = drivers or tuple(_DATABASES)
    if url is None or url.drivername not in drivers or not url.database:
        raise ValueError(f"must be {' or '.join(_DATABASES[driver] for driver in drivers)}")
    if url.drivername == "sqlite" and url.database == ":memory:":
        raise ValueError("must name a file: a database in memory is not shared")
    known = _OPTIONS[url.drivername]
    if not known.issuperset(url.query):
        allowed = f"the options {', '.join(sorted(known))}" if known else "no options"
        raise ValueError(f"may have {allowed} behind its question mark")
    if url.query.get("ssl", "prefer") not in _SSL_MODES:
        raise ValueError(f"may have ssl as {', '.join(_SSL_MODES)}")
    if url.drivername == "postgresql" and not _names_servers(url):
        raise ValueError("must name a host, or several with a port for each; ports end at 65535")
    return value


def _names_servers(url: URL) -> bool:
    url = url.set(drivername="postgresql+asyncpg")
    try:
        _, told = url.get_dialect()().create_connect_args(url)
    except (ArgumentError, ValueError):
        return False
    hosts, ports = (
        part if isinstance(part, list) else [part]
        for part in (told.get("host", ""), told.get("port"))
    )
    return all(map(_is_host, hosts)) and all(map(_is_port, ports))


def parse_url(value: str, *schemes: str) -> httpx.URL | None:
    """The address of a server of these kinds; None where it is none."""
    try:
        url = httpx.URL(value)
    except httpx.InvalidURL:
        return None
    is_host = url.host and "%" not in url.host and _is_host(url.host)
    return url if url.scheme in schemes and is_host and _is_port(url.port) else None


def _is_host(value: str) -> bool:
    """Whether it is one, or the directory of a Unix socket."""
    try:
        value.encode("utf-8" if value.startswith("/") else "idna")
    except UnicodeError:
        return False
    return True


def _is_port(value: int | None) -> bool:
    return value is None or 0 < value < 65536
