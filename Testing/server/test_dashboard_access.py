"""Nobody reaches the dashboard, or makes it do something, but an operator who is logged in and uses its own pages."""

import dataclasses
import logging
import re
from http.cookies import SimpleCookie

import pytest
import requests
from sqlalchemy import text

from ppcmi_server.access import identity, operators
from ppcmi_server.api.rates import FailedAttempts
from ppcmi_server.app import create_app
from ppcmi_server.dashboard.login import Logins
from ppcmi_server.database.schema import Login, Token
from ppcmi_server.settings import DashboardSettings
from support.app_server import app_server

GUESS = "guess"
PUBLIC = {("GET", "/dashboard/login"), ("POST", "/dashboard/login"), ("GET", "/dashboard/static/{name}")}
HEADERS = {
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Operator:
    """An operator's browser, as far as requests go: cookies, and the token of its forms."""

    def __init__(self, server, token):
        self.url = f"{server.url}/dashboard"
        self.session = requests.Session()
        self.token = token

    def log_in(self):
        answer = self.post("/login", token=self.token)
        assert answer.status_code == 303, answer.text
        return answer

    @property
    def csrf(self):
        return re.search(r'name="csrf" value="([^"]+)"', self.get("/sites").text)[1]

    def get(self, path="", **options):
        return self.session.get(self.url + path, allow_redirects=False, timeout=20, **options)

    def post(self, path, headers=None, **fields):
        return self.session.post(self.url + path, data=fields, headers=headers, allow_redirects=False, timeout=20)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with app_server(tmp_path_factory.mktemp("access") / "server") as server:
        yield server


@pytest.fixture(autouse=True)
def unlimited(server):
    """Every test begins without failed attempts."""
    server.app.state.failed_attempts = FailedAttempts(20)


@pytest.fixture
def new_token(server):
    def make(label="Someone", **options):
        with server.services.database.writing() as session:
            return operators.add_operator(session, label, **options)

    return make


@pytest.fixture
def operator(server, new_token):
    operator = Operator(server, new_token())
    operator.log_in()
    return operator


def dashboard_routes(server):
    """(method, path with what its parameters could be) of every page but the public ones."""
    found = []
    pending = list(server.app.routes)
    while pending:
        route = pending.pop()
        pending += getattr(getattr(route, "original_router", None), "routes", [])
        path = getattr(route, "path", "")
        for method in getattr(route, "methods", None) or ():
            if path.startswith("/dashboard") and (method, path) not in PUBLIC and method in ("GET", "POST"):
                found.append((method, path))
    return sorted(set(found))


def filled(path):
    values = {"number": "1", "token_id": "1", "name": "tiny", "site_id": "0" * 16, "cohort_id": "0" * 32}
    return re.sub(r"\{(\w+)(:path)?\}", lambda found: values.get(found[1], "anything"), path).removeprefix("/dashboard")


def test_every_page_asks_for_a_login(server):
    routes = dashboard_routes(server)
    assert len(routes) > 35
    stranger = Operator(server, "-")
    for method, path in routes:
        if method == "GET":
            answer = stranger.get(filled(path))
            assert (answer.status_code, answer.headers["Location"].partition("?")[0]) == (303, "/dashboard/login"), path
        else:
            assert stranger.post(filled(path)).status_code == 401, path


def test_every_form_needs_the_token_of_this_login(server, operator, new_token):
    other = Operator(server, new_token("Another"))
    other.log_in()
    routes = [path for method, path in dashboard_routes(server) if method == "POST" and "anything" not in path]
    assert len(routes) > 15
    for path in routes:
        for csrf in ("", "x", other.csrf):
            answer = operator.post(filled(path), csrf=csrf, name="Forged", label="Forged")
            assert answer.status_code == 403, (path, csrf)
    assert "Forged" not in operator.get("/sites").text + operator.get("/operators").text


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://elsewhere.example"},
    ],
)
def test_a_form_from_elsewhere_is_refused_even_with_the_right_token(operator, headers):
    assert operator.post("/sites", headers, csrf=operator.csrf, name="Forged").status_code == 403
    assert operator.post("/login", headers, token=operator.token).status_code == 403
    assert "Forged" not in operator.get("/sites").text


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "same-origin", "Origin": "null"}, {"Sec-Fetch-Site": "same-origin"}, None]
)
def test_a_form_from_the_page_itself_is_taken_as_browsers_send_it(operator, headers):
    answer = operator.post("/sites", headers, csrf=operator.csrf, name=f"Site {hash(str(headers))}")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/dashboard/sites")


def test_whatever_is_wrong_with_a_token_the_answer_is_the_same(server, new_token):
    site = server.add_site("Hospital of wrong tokens")
    revoked, observer, expired = (
        new_token("Gone"),
        new_token("Monitor", scopes=["observe"]),
        new_token("Old", days=1e-9),
    )
    with server.services.database.writing() as session:
        number = next(token.id for token in operators.list_operators(session) if token.label == "Gone")
        operators.revoke_operator(session, number)
        session.get_one(Token, number + 2).expires = "2026-01-01T00:00:00Z"
    answers = [
        Operator(server, "-").post("/login", token=token)
        for token in ("", "x", "x" * 5000, "\N{SNOWMAN}", site.token, revoked, observer, expired)
    ]
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.text for answer in answers}) == 1
    assert all("Set-Cookie" not in answer.headers for answer in answers)


def test_guessing_is_stopped_after_some_attempts(server, new_token):
    server.app.state.failed_attempts = FailedAttempts(5)
    stranger = Operator(server, "-")
    assert [stranger.post("/login", token=GUESS).status_code for _ in range(6)] == [403] * 5 + [429]
    answer = Operator(server, new_token()).post("/login", token=GUESS)
    assert (answer.status_code, int(answer.headers["Retry-After"]) > 0) == (429, True)


def test_the_cookie_is_for_the_dashboard_alone_and_new_each_time(server, operator):
    brought = operator.session.cookies["ppcmi-operator"]
    answer = operator.log_in()
    cookie = SimpleCookie(answer.headers["Set-Cookie"])["ppcmi-operator"]
    assert cookie.value != brought
    assert len(cookie.value) >= 43  # 256 bits
    assert (cookie["path"], cookie["samesite"].lower(), cookie["httponly"]) == ("/dashboard", "strict", True)
    assert cookie["secure"] == ""  # loopback without TLS
    with server.services.database.reading() as session:
        assert cookie.value.encode() not in b"".join(login.cookie_hash for login in session.query(Login))


def test_over_https_the_cookie_is_sent_over_https_only(server, new_token):
    beyond_a_proxy = {"Host": "ppcmi.example.org", "Sec-Fetch-Site": "same-origin"}
    answer = Operator(server, "-").post("/login", beyond_a_proxy, token=new_token())
    cookie = SimpleCookie(answer.headers["Set-Cookie"])["__Secure-ppcmi-operator"]
    assert cookie["secure"] is True


def test_logging_out_ends_the_login_at_the_server(server, operator):
    cookie = dict(operator.session.cookies)
    assert operator.post("/logout", csrf=operator.csrf).headers["Location"] == "/dashboard/login"
    assert requests.get(f"{operator.url}/sites", cookies=cookie, allow_redirects=False, timeout=20).status_code == 303


def test_a_login_ends_with_its_operator(server, operator, new_token):
    chief = Operator(server, new_token("Chief"))
    chief.log_in()
    with server.services.database.reading() as session:
        numbers = {token.label: token.id for token in operators.list_operators(session)}
    own = chief.post(f"/operators/{numbers['Chief']}/revoke", csrf=chief.csrf)
    assert own.status_code == 409
    someone = max(number for label, number in numbers.items() if label == "Someone")
    assert operator.get("/sites").status_code == 200
    assert chief.post(f"/operators/{someone}/revoke", csrf=chief.csrf).status_code == 303
    assert operator.get("/sites").status_code == 303


@pytest.fixture
def clocked(server, new_token):
    """A login with a clock that the test sets: ``clocked.at(seconds)`` tells whether it holds then."""

    class Clocked:
        now = 1_000_000.0

        def __init__(self):
            self.logins = Logins(DashboardSettings(idle_minutes=30, login_hours=12), lambda: self.now)
            token = new_token()
            with server.services.database.writing() as session:
                operator = operators.authenticate_operator(session, token)
                self.cookie = self.logins.begin(session, operator)

        def at(self, seconds, click=False):
            self.now = 1_000_000.0 + seconds
            with server.services.database.writing() as session:
                found = self.logins.find(session, self.cookie)
                if found and click:
                    self.logins.note_click(session, found.login_id)
                return found is not None

    return Clocked()


def test_a_login_without_a_click_ends(clocked):
    assert clocked.at(29 * 60)
    assert not clocked.at(31 * 60)


def test_a_login_with_clicks_ends_all_the_same_after_its_time(clocked):
    quarter = 15 * 60
    assert all(clocked.at(quarter * number, click=True) for number in range(1, 48))
    assert not clocked.at(12 * 3600 + 1)


def test_a_login_from_the_future_has_ended(clocked):
    assert clocked.at(-30)  # clocks are set by seconds
    assert not clocked.at(-3600)


def test_what_a_page_asks_for_by_itself_is_no_click(server, operator):
    def last_seen():
        with server.services.database.reading() as session:
            return max(login.last_seen for login in session.query(Login))

    with server.services.database.writing() as session:
        for login in session.query(Login):
            login.last_seen -= 600
    before = last_seen()
    operator.get("/load/live?refresh=1")
    assert last_seen() == before
    operator.get("/load")
    assert last_seen() > before + 500


def test_every_answer_has_headers_that_keep_it_from_being_framed_scripted_or_kept(operator):
    for answer in (
        operator.get(""), operator.get("/login"), operator.get("/nothing"), operator.get("/static/dashboard.js"),
        operator.post("/sites"), operator.post("/sites", csrf=operator.csrf, name="Hospital of headers"),
    ):  # fmt: skip
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x--", 415),
        ({"Content-Type": "application/json"}, b"{}", 415),
        ({}, b"csrf=1&csrf=2", 422),
        ({}, b"csrf=%ff", 422),
        ({}, b"&".join(b"f%d=1" % number for number in range(100)), 422),
        ({}, b"name=" + b"x" * (65 << 10), 413),
    ],
    ids=["multipart", "json", "a field twice", "no UTF-8", "too many fields", "too large"],
)
def test_what_is_no_small_form_is_refused(operator, headers, body, status):
    headers = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    answer = operator.session.post(f"{operator.url}/sites", data=body, headers=headers, timeout=20)
    assert answer.status_code == status
    assert "<h1>" in answer.text


@pytest.mark.parametrize("name", ["..%2flogin.py", "%2e%2e/login.py", "dashboard.css%00", "base.html", ""])
def test_no_other_file_is_served(operator, name):
    assert operator.get(f"/static/{name}").status_code in (400, 404)


@pytest.mark.parametrize("target", ["https://elsewhere.example", "//elsewhere.example", "/v1/info", "/dashboard/../v1"])
def test_a_login_leads_to_the_dashboard_and_nowhere_else(server, new_token, target):
    answer = Operator(server, "-").post("/login", token=new_token(), next=target)
    assert answer.headers["Location"] == "/dashboard"
    answer = Operator(server, "-").post("/login", token=new_token(), next="/dashboard/models/tiny/2")
    assert answer.headers["Location"] == "/dashboard/models/tiny/2"


def test_a_code_is_shown_once_and_is_in_no_address_and_no_log(server, operator, caplog):
    with caplog.at_level(logging.DEBUG):
        answer = operator.post("/sites", csrf=operator.csrf, name="Hospital of one code")
        page = operator.get("/sites").text
    code = re.search(r"([a-z0-9]{4}-){4}[a-z0-9]{4}", page)[0]
    assert code not in answer.headers["Location"]
    assert code not in caplog.text
    assert operator.token not in caplog.text
    assert operator.session.cookies["ppcmi-operator"] not in caplog.text
    assert code not in operator.get("/sites").text
    with server.services.database.writing() as session:
        assert identity.enrol(session, code, bytes(range(1, 33)), server.services.keys).site_name


def test_an_error_is_a_page_with_one_sentence_and_its_request_id(operator):
    answer = operator.post("/sites", csrf=operator.csrf, name="")
    assert answer.status_code == 422
    assert "A site&#39;s name has 1 to 100 printable characters." in answer.text
    assert answer.headers["X-Request-ID"] in answer.text


def test_what_nobody_expected_is_a_page_and_a_line_in_the_log_without_its_words(tmp_path, caplog):
    with app_server(tmp_path / "server") as broken:
        with broken.services.database.writing() as session:
            token = operators.add_operator(session, "Someone")
        operator = Operator(broken, token)
        operator.log_in()
        with broken.services.database.writing() as session:
            session.execute(text("ALTER TABLE audit_events RENAME TO gone"))
        answer = operator.get("/audit")
    assert answer.status_code == 500
    assert answer.headers["X-Request-ID"] in answer.text
    assert "audit_events" not in answer.text + caplog.text
    assert "unexpected" in caplog.text
    assert answer.headers["X-Frame-Options"] == "DENY"


def test_the_list_of_operators_says_when_each_token_was_used(operator):
    row = re.search(r"<tr>(?:(?!</tr>).)*, you.*?</tr>", operator.get("/operators").text, re.DOTALL)[0]
    assert row.count("<time") == 2  # made and used


def test_a_slash_at_the_end_of_the_address_is_forgiven(operator):
    assert operator.get("/").headers["Location"] == "/dashboard"
    assert operator.get("/sites/").status_code == 404


def test_the_dashboard_is_no_part_of_the_api(server):
    assert "dashboard" not in requests.get(f"{server.url}/openapi.json", timeout=20).text


def test_what_an_operator_changes_is_in_the_audit_log_under_the_operators_name(server, operator):
    operator.post("/sites", csrf=operator.csrf, name="Hospital of the log")
    page = operator.get("/audit?action=site.add").text
    assert "Hospital of the log" in page
    assert "operator Someone" in page
    assert "holds on to those before it" in page


def test_without_the_setting_there_is_no_dashboard(server):
    config = dataclasses.replace(server.services.config, dashboard=DashboardSettings(enabled=False))
    app = create_app(config, server.services)
    assert not any("dashboard" in str(getattr(route, "path", "")) for route in app.routes)
