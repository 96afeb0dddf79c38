"""What a page shows once, it shows to the login that asked for it and to no other."""

import re

import pytest
import requests

from ppcmi_server.access import operators
from support.app_server import app_server

SHOWN_ONCE = "This is the token; it is shown this once."


class Browser:
    """An operator's browser, logged in."""

    def __init__(self, server, label):
        self._root, self._session = f"{server.url}/dashboard", requests.Session()
        with server.services.database.writing() as session:
            token = operators.add_operator(session, label)
        assert self._post("/login", token=token).status_code == 303
        self.first_page = self.page()
        self._csrf = re.search(r'name="csrf" value="([^"]+)"', self.first_page)[1]

    def page(self):
        return self._session.get(self._root, timeout=20).text

    def send(self, path, **fields):
        """A form of the operator's; the page that it leads to is not asked for."""
        assert self._post(path, csrf=self._csrf, **fields).status_code == 303

    def _post(self, path, **fields):
        return self._session.post(self._root + path, fields, allow_redirects=False, timeout=20)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with app_server(tmp_path_factory.mktemp("notices") / "server") as server:
        yield server


def test_the_login_that_asked_sees_it_once(server):
    first, second = Browser(server, "First"), Browser(server, "Second")
    first.send("/operators", label="Third", role="operate")
    assert SHOWN_ONCE not in second.page()
    assert SHOWN_ONCE in first.page()
    assert SHOWN_ONCE not in first.page()


def test_what_nobody_looked_at_is_not_shown_to_whoever_logs_in_next(server):
    """The next login's row may have the number of the one before."""
    first = Browser(server, "First")
    first.send("/operators", label="Third", role="operate")
    first.send("/logout")
    assert SHOWN_ONCE not in Browser(server, "Second").first_page


def test_nothing_is_kept_for_a_login_that_has_ended(server):
    first = Browser(server, "First")
    first.send("/operators", label="Third", role="operate")
    notices = server.app.state.dashboard.notices
    kept = len(notices._kept)
    first.send("/logout")
    assert len(notices._kept) == kept - 1
