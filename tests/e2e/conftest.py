"""The pages as people meet them: in Chromium, from a real server with demo data, without any other network.

`make e2e` builds the pages and runs these.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, WebSocket, expect, sync_playwright

from tests.conftest import new_database
from tests.servers import environment, running

OpenPage = Callable[..., Page]

_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_SECONDS = 20
"""How long a page may take to show what is expected: the machine has other things to do."""


def until(page: Page, holds: Callable[[], bool]) -> None:
    """Waits while what the page does is noted here."""
    for _ in range(_SECONDS * 20):
        if holds():
            return
        page.wait_for_timeout(50)
    raise AssertionError("It did not happen in time.")


@pytest.fixture(scope="session")
def database_urls(
    postgresql_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Of databases to fill. Made before the browser, beside whose loop no other one runs."""
    with new_database(postgresql_server) as postgresql_url:
        sqlite_url = f"sqlite:///{tmp_path_factory.mktemp('demo')}/billing.db"
        yield {"sqlite": sqlite_url, "postgresql": postgresql_url}


@pytest.fixture(scope="session")
def browser(database_urls: dict[str, str]) -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "There is no chromium on PATH: apt-get install chromium."
    expect.set_options(timeout=_SECONDS * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, database_urls: dict[str, str]) -> Iterator[str]:
    """Of a server with demo data, which all tests share: what they book stays."""
    database_url = database_urls[request.param]
    for command in ("migrate", "seed-demo"):
        subprocess.run(
            [sys.executable, "-m", "app", command],
            check=True,
            env=environment(database_url),
            stdout=subprocess.DEVNULL,
        )
    with running(database_url, 1, None, "--demo", "--drain", "0") as [server]:
        yield server.address


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[OpenPage]:
    """Opens a path in a new browser context, with options such as `viewport` and `color_scheme`.

    The test fails where a page asked another origin for anything, broke its policy or threw.
    """
    faults: list[str] = []
    contexts = []

    def refuse(route: Any) -> None:
        faults.append(f"asked for {route.request.url}")
        route.abort()

    def check_origin(socket: WebSocket) -> None:
        if not socket.url.startswith(address.replace("http", "ws", 1)):
            faults.append(f"connected to {socket.url}")

    def check_console(message: Any) -> None:
        if "Content Security Policy" in message.text:
            faults.append(message.text)

    def watch(page: Page) -> None:
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", check_console)
        page.on("websocket", check_origin)

    def open_page(path: str, **options: Any) -> Page:
        context = browser.new_context(base_url=address, **options)
        contexts.append(context)
        context.set_default_timeout(_SECONDS * 1000)
        context.route(lambda url: not url.startswith(f"{address}/"), refuse)
        context.on("page", watch)
        page = context.new_page()
        answer = page.goto(path)
        assert answer
        assert answer.ok, f"{path}: {answer.status_text}, for make pages to build"
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
