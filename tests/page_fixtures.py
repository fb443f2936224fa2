"""A pytest plugin: a real `gapcam serve`, a real browser, and the page, kept for all its tests."""

from __future__ import annotations

import pytest

from browser import Browser
from page_driving import choose, open_page
from serving import serving
from web_site import PROGRAM


@pytest.fixture(scope="session")
def page_server():
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def page_browser(tmp_path_factory):
    browser = Browser(PROGRAM, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def quiet_browser(page_browser, page_server):
    """The browser; after the test: nothing to complain about, and nothing left this machine."""
    page_browser.said.clear()
    page_browser.requests.clear()
    yield page_browser
    assert page_browser.said == []
    here = page_server.address
    for url in page_browser.requests:
        assert url.startswith((f"{here}/", f"blob:{here}", "data:")), url


@pytest.fixture
def page(quiet_browser, page_server):
    return open_page(quiet_browser, page_server)


@pytest.fixture
def with_cat(page, cat):
    choose(page, cat)
    return page
