"""The dashboard's pages in a real browser: nothing from elsewhere, nothing refused, readable for everyone."""

import http.server
import threading
from pathlib import Path

import pytest
from sqlalchemy import select

from ppcmi_server.access import identity, operators
from ppcmi_server.database.schema import Site
from support.app_server import TASK, app_server
from support.browser import Watched, chromium
from support.dashboard_world import make_world

HOSTILE_NAME = "<img src=x onerror=alert(1)><script>alert(2)</script>"
CHECK = (Path(__file__).parents[1] / "support" / "accessibility.js").read_text(encoding="utf-8")
PAGES = (
    "", "/sites", "/sites/{site}", "/sites/{site}/revoke", "/tasks", "/tasks/tiny", "/cohorts",
    "/cohorts/{cohort}/withdraw", "/jobs", "/jobs/2", "/jobs/{running}", "/jobs/{running}/stop",
    "/jobs/2/without/{suspect}", "/models", "/models/tiny/2", "/models/tiny/1/activate", "/models/tiny/roll-back",
    "/load", "/audit", "/operators", "/operators/{operator}/revoke",
)  # fmt: skip
WINDOWS = {
    "a desk": {"viewport": {"width": 1280, "height": 800}},
    "a dark desk": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "a phone, or 200 % zoom and more": {"viewport": {"width": 360, "height": 740}},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dashboard")
    with app_server(folder / "server") as server:
        world = make_world(server, folder)
        world.activate(2)
        world.activate(1)
        world.add_model(world.add_job("done", 2), 3)
        world.running = world.add_job("running", 3)
        yield world


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def visitor(browser, world):
    """``visitor(**window)``: a page of a new browser profile, logged in."""
    contexts = []

    def open_window(**window):
        contexts.append(browser.new_context(**window))
        watched = Watched(contexts[-1], world.url)
        watched.open("/login")
        watched.page.get_by_label("token").fill(world.token)
        watched.page.get_by_role("button", name="Log in").click()
        watched.page.get_by_role("heading", name="Overview").wait_for()
        return watched

    yield open_window
    for context in contexts:
        context.close()


def paths(world):
    return [
        page.format(
            site=world.sites[0].site_id, suspect=world.sites[2].site_id, cohort=world.cohorts[0],
            running=world.running, operator=world.operator_id,
        )
        for page in PAGES
    ]  # fmt: skip


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_every_page_is_accessible_keeps_its_policy_and_fits_the_window(world, visitor, window):
    watched = visitor(**window)
    wrong, texts = {}, 0
    for path in paths(world):
        watched.open(path)
        checked = watched.page.evaluate(CHECK)
        texts += checked["texts"]
        width = watched.page.evaluate("document.documentElement.scrollWidth")
        if checked["found"] or width > window["viewport"]["width"]:
            wrong[path] = [*checked["found"], f"{width} px wide"]
    assert wrong == {}
    assert watched.complaints == []
    assert texts > 30 * len(PAGES)  # the check looked at something


def test_the_check_of_pages_finds_what_is_wrong_with_a_page(browser, world):
    context = browser.new_context()
    page = context.new_page()
    page.set_content(
        '<body><h1>A</h1><h3>B</h3><input><svg></svg><p style="color: #999">pale</p>'
        "<table><thead><tr><th>x</th></tr></thead><tbody><tr><td>1</td><td>2</td></tr></tbody></table>"
    )
    said = "\n".join(page.evaluate(CHECK)["found"])
    context.close()
    for words in (
        "no language",
        "no title",
        "skipped",
        "no label",
        "no text",
        "contrast 2.8",
        "no caption",
        "scope",
        "2 cells",
    ):
        assert words in said, words


def test_a_page_without_anything_says_what_to_do_first(tmp_path, browser):
    with app_server(tmp_path / "server") as server:
        with server.services.database.writing() as session:
            token = operators.add_operator(session, "First day")
        context = browser.new_context()
        watched = Watched(context, server.url)
        watched.open("")
        watched.page.get_by_label("token").fill(token)
        watched.page.get_by_role("button", name="Log in").click()
        for path, words in {
            "/sites": "No site yet", "/cohorts": "No cohort yet", "/jobs": "No training yet", "/models": "No model yet",
        }.items():  # fmt: skip
            watched.open(path)
            assert words in watched.page.get_by_role("main").inner_text()
            assert watched.page.evaluate(CHECK)["found"] == []
        assert watched.complaints == []
        context.close()


def test_a_name_with_markup_is_shown_as_text_everywhere(world, visitor):
    with world.writing() as session:
        identity.add_site(session, HOSTILE_NAME)
        hostile = session.scalar(select(Site.id).where(Site.name == HOSTILE_NAME))
    watched = visitor()
    for path in ("/sites", f"/sites/{hostile}", f"/sites/{hostile}/revoke", "/audit"):
        watched.open(path)
        assert HOSTILE_NAME in watched.page.get_by_role("main").inner_text(), path
    assert watched.complaints == []


def test_the_overview_says_first_what_needs_the_operator(world, visitor):
    watched = visitor()
    said = watched.page.get_by_role("main").inner_text()
    assert (
        said.index("1 thing needs you") < said.index("Regional Clinic West: job 2 (tiny) reports") < said.index("Tasks")
    )
    assert "model 3 is validated by 0 of 3 members" in said
    watched.page.get_by_role("link", name="Read the report").click()
    row = watched.page.get_by_role("row", name="Regional Clinic West").last
    assert "suspect" in row.inner_text()
    assert "do not follow from its images" in row.inner_text()


def test_a_curve_grows_while_its_page_is_open(world, visitor):
    number = world.add_job("running", 1)
    watched = visitor()
    watched.open(f"/jobs/{number}")
    page = watched.page
    page.get_by_text("The curve as a table").click()
    assert page.locator("figure .mark").count() == 5 + 5  # one epoch of five lines, and the legend
    world.add_epoch(number, 2)
    page.get_by_text("2 of 8 epochs").wait_for()
    assert page.locator("figure .mark").count() == 2 * 5 + 5
    assert page.get_by_role("cell", name="31 s").or_(page.get_by_role("cell", name="32 s")).count() == 2  # still open
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    world.end_job(number, "stopped")
    page.get_by_role("button", name="Pause").wait_for(state="hidden")  # the page itself is new
    assert "There is no report of this job" in page.get_by_role("main").inner_text()
    assert watched.complaints == []


def test_a_browser_without_scripts_can_do_everything(world, visitor):
    watched = visitor(java_script_enabled=False)
    watched.open("/sites")
    page = watched.page
    page.get_by_label("Name").fill("Clinic without scripts")
    page.get_by_role("button", name="Add the site").click()
    assert "one-time code" in page.get_by_role("status").inner_text()
    number = world.add_job("running", 1)
    watched.open(f"/jobs/{number}")
    world.add_epoch(number, 2)
    page.get_by_text("2 of 8 epochs").wait_for(timeout=8_000)  # the page loads itself anew
    world.end_job(number, "stopped")


class ForeignPage(http.server.BaseHTTPRequestHandler):
    """Another site's page: a frame of the dashboard, and a form that is sent there."""

    def do_GET(self):
        body = self.server.page.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def foreign():
    """``foreign(page)``: its address at ``host``, another origin than the dashboard's."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ForeignPage)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def serve(page, host):
        server.page = page
        return f"http://{host}:{server.server_address[1]}/"

    yield serve
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["another port", "another site"])
def test_another_sites_page_cannot_send_a_form(world, visitor, foreign, host):
    watched = visitor()
    form = f'<form method="post" action="{world.url}/dashboard/sites"><input name="name" value="Forged">'
    watched.page.goto(foreign(f"{form}<button>Go</button></form>", host))
    with watched.page.expect_navigation():
        watched.page.get_by_role("button").click()
    said = watched.page.get_by_role("main").inner_text()
    assert "Another site's page sent this" in said or "not logged in" in said  # or its cookie did not come along
    watched.open("/sites")
    assert "Forged" not in watched.page.content()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["another port", "another site"])
def test_another_sites_page_cannot_frame_the_dashboard(world, visitor, foreign, host):
    watched = visitor()
    watched.page.goto(foreign(f'<iframe src="{world.url}/dashboard/sites"></iframe>', host))
    watched.page.wait_for_timeout(500)
    framed = watched.page.frames[1]
    assert "Sites" not in framed.content()
    assert any("frame-ancestors" in complaint or "X-Frame" in complaint for complaint in watched.complaints)


def test_all_of_login_and_activation_works_with_the_keyboard_alone(world, browser):
    context = browser.new_context()
    watched = Watched(context, world.url)
    page = watched.page
    watched.open("")
    page.keyboard.type(world.token)  # the field has the focus
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Overview").wait_for()
    for name, heading in [
        ("Models", "Models"), ("Model 2", "tiny: model 2"), ("Activate…", "Activate model 2?"),
        ("Activate model 2", "tiny: model 2"),
    ]:  # fmt: skip
        assert _tab_to(page, name), f"{name} cannot be reached"
        page.keyboard.press("Enter")
        page.get_by_role("heading", name=heading, exact=True).wait_for()
    assert "Model 2 is active" in page.get_by_role("status").inner_text()
    assert watched.complaints == []
    context.close()
    world.activate(1)


def _tab_to(page, name):
    """Press Tab until what has the focus has this name; it must be seen to have it."""
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "() => [document.activeElement.textContent.trim(), getComputedStyle(document.activeElement).outlineStyle]"
        )
        if focused[0] == name:
            assert focused[1] != "none", "the focus cannot be seen"
            return True
    return False


def test_what_a_site_typed_into_its_task_cannot_change_the_page(world, visitor):
    watched = visitor()
    watched.open(f"/tasks/{TASK.name}")
    assert "Two made-up structures" in watched.page.get_by_role("main").inner_text()
    assert watched.page.evaluate("document.querySelectorAll('main script').length") == 0
