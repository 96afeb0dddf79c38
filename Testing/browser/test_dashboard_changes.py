"""What an operator changes by clicks, and what comes of it for the sites."""

import json
import re

import pytest
from sqlalchemy import select

from ppcmi.errors import ServerRefusedError
from ppcmi.task import task_to_json
from ppcmi_server.database.schema import AuditEvent, Cohort, Job, JobCohort, Site
from support.app_server import TASK, SiteAtServer, app_server
from support.browser import Watched, chromium
from support.dashboard_world import make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dashboard")
    with app_server(folder / "server") as server:
        yield make_world(server, folder)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def context(browser, world):
    """One login for all of these tests."""
    context = browser.new_context()
    watched = Watched(context, world.url)
    watched.open("")
    watched.page.get_by_label("token").fill(world.token)
    watched.page.get_by_role("button", name="Log in").click()
    watched.page.get_by_role("heading", name="Overview").wait_for()
    watched.page.close()
    yield context
    context.close()


@pytest.fixture
def page(context, world):
    """A page whose console stays silent."""
    watched = Watched(context, world.url)
    watched.page.go = watched.open
    yield watched.page
    watched.page.close()
    assert watched.complaints == []


def status(page):
    return page.get_by_role("status").inner_text()


def actions(world):
    """(who, what) of the audit log, the newest first."""
    with world.reading() as session:
        return [(event.actor, event.action) for event in session.scalars(select(AuditEvent).order_by(-AuditEvent.id))]


def test_a_site_is_added_enrolls_with_the_code_that_is_shown_and_is_revoked(world, page):
    page.go("/sites")
    page.get_by_label("Name").fill("Lakeside Imaging")
    page.get_by_role("button", name="Add the site").click()
    code = page.locator(".secret").inner_text().strip()
    page.reload()
    assert code not in page.content()
    site = SiteAtServer(world.url, code)
    assert site.client.tasks()

    page.get_by_role("link", name="Lakeside Imaging").click()
    assert "enrolled" in page.get_by_role("main").inner_text()
    page.get_by_role("link", name="Revoke the site").click()
    assert "stop working at once" in page.get_by_role("main").inner_text()
    page.get_by_role("link", name="Cancel").click()
    assert site.client.tasks()
    page.get_by_role("link", name="Revoke the site").click()
    page.get_by_role("button", name="Revoke the site").click()
    assert "revoked" in status(page)
    with pytest.raises(ServerRefusedError) as caught:
        site.client.tasks()
    assert caught.value.status == 401
    assert actions(world)[0] == ("operator-1", "site.revoke")


def test_a_sites_quota_and_weight_are_set_and_a_new_code_is_made(world, page):
    site = world.sites[0].site_id
    page.go(f"/sites/{site}")
    page.get_by_label("Quota in GiB").fill("1.5")
    page.get_by_role("button", name="Set the quota").click()
    assert "of 1.5\xa0GiB" in page.get_by_role("main").inner_text()
    page.get_by_label("Weight").fill("0.5")
    page.get_by_role("button", name="Set the weight").click()
    with world.reading() as session:
        stored = session.get_one(Site, site)
        assert (stored.quota_bytes, stored.weight) == (3 << 29, 0.5)
    page.get_by_label("Quota in GiB").fill("")
    page.get_by_role("button", name="Set the quota").click()
    assert "the server's own setting" in page.get_by_role("main").inner_text()
    page.go("/sites")
    page.get_by_role("link", name="City Hospital South").click()
    page.get_by_role("button", name="Make a new enrolment code").click()
    assert SiteAtServer(world.url, page.locator(".secret").inner_text().strip()).name == "City Hospital South"


def test_a_task_is_added_by_its_text(world, page):
    document = json.loads(task_to_json(TASK)) | {"name": "another"}
    page.go("/tasks")
    page.get_by_label("task file").fill(json.dumps(document))
    page.get_by_role("button", name="Add the task").click()
    page.get_by_role("heading", name="another@1").wait_for()
    assert world.sites[0].client.task("another")["task"]["name"] == "another"


def test_a_model_is_activated_with_a_warning_and_rolled_back(world, page):
    world.activate(1)

    def active():
        return world.sites[0].client.task(TASK.name)["active_model"]["number"]

    page.go("/models")
    assert "St. Mary's Radiology worse than alone" in page.get_by_role("row", name="Model 2").inner_text()
    page.get_by_role("link", name="Model 2").click()
    row = page.get_by_role("row", name="University Hospital North").first.inner_text()
    numbers = re.findall("[+\N{MINUS SIGN}]?\\d\\.\\d+(?: better)?", row)
    assert numbers == ["0.860", "0.780", "+0.080 better", "2.75", "3.00", "\N{MINUS SIGN}0.25 better"]
    page.get_by_role("link", name="Activate").click()
    warnings = page.get_by_role("note").inner_text()
    assert "St. Mary's Radiology does worse with it than alone: mean Dice 0.750 against 0.770." in warnings
    assert "Not validated yet by: Regional Clinic West." in warnings
    assert active() == 1
    page.get_by_role("button", name="Activate model 2").click()
    assert "Model 2 is active" in status(page)
    assert active() == 2
    page.go("/models")
    page.get_by_role("link", name="Roll back").click()
    page.get_by_role("button", name="Roll back to model 1").click()
    assert "Model 1 is active again" in status(page)
    assert active() == 1
    assert actions(world)[0][0] == "operator-1"


def test_a_suspect_sites_cohorts_are_excluded_and_a_training_without_them_is_queued(world, page):
    page.go("")
    page.get_by_role("link", name="Read the report").click()
    row = page.get_by_role("row", name="Regional Clinic West").last
    assert "suspect" in row.inner_text()
    row.get_by_role("link", name="Exclude and train anew").click()
    page.get_by_role("button", name="Exclude and train anew").click()
    page.get_by_role("heading", name="Job 3").wait_for()
    assert "place 1 in the queue" in page.get_by_role("main").inner_text()
    with world.reading() as session:
        excluded = session.scalars(select(Cohort.id).where(Cohort.excluded.is_not(None))).all()
        assert excluded == [world.cohorts[2]]
        chosen = session.scalars(select(JobCohort.cohort_id).where(JobCohort.job_id == 3)).all()
        assert sorted(chosen) == sorted(world.cohorts[:2])
        assert (session.get_one(Job, 3).config["seed"], session.get_one(Job, 3).state) == (1, "queued")
    page.go("")
    assert "reports its data as suspect" not in page.get_by_role("main").inner_text()  # it is dealt with


def test_a_training_is_paused_goes_on_and_is_stopped(world, page):
    page.go("/jobs")
    page.get_by_role("link", name="Job 3").click()
    page.get_by_role("button", name="Pause").click()
    assert "paused" in page.get_by_role("main").inner_text()
    page.get_by_role("button", name="Resume").click()
    assert "queue" in page.get_by_role("main").inner_text()
    page.get_by_role("link", name="Stop").click()
    page.get_by_role("button", name="Stop the training").click()
    assert "stopped" in status(page)
    with world.reading() as session:
        assert session.get_one(Job, 3).state == "stopped"


def test_a_training_is_started_with_what_the_form_says(world, page):
    page.go("/jobs")
    page.get_by_label("Task").select_option("tiny")
    page.get_by_label("Privacy profile").select_option("minimal")
    page.get_by_label("Epochs").fill("3")
    page.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Start the training").click()
    page.get_by_role("heading", name="Job 4").wait_for()
    with world.reading() as session:
        config = session.get_one(Job, 4).config
    assert (config["profile"], config["epochs"], config["seed"]) == ("minimal", 3, 7)


def test_a_cohort_is_included_again_and_withdrawn(world, page):
    page.go("/cohorts")
    row = page.get_by_role("row", name="Regional Clinic West")
    assert "excluded" in row.inner_text()
    row.get_by_role("button", name="Include").click()
    assert "whole" in row.inner_text()
    row.get_by_role("link", name="Withdraw").click()
    assert "deleted" in page.get_by_role("main").inner_text()
    page.get_by_role("button", name="Withdraw the cohort").click()
    assert "withdrawn" in row.inner_text()
    assert world.sites[2].client.cohort(world.cohorts[2])["state"] == "withdrawn"
    page.go("/models/tiny/2")
    assert "taken back" in page.get_by_role("main").inner_text()
    assert actions(world)[0] == ("operator-1", "cohort.withdraw")


def test_an_operator_is_added_and_revoked(world, page, browser):
    page.go("/operators")
    page.get_by_label("Who or what").fill("Day shift")
    page.get_by_role("button", name="Add the operator").click()
    token = page.locator(".secret").inner_text().strip()
    context = browser.new_context()
    other = Watched(context, world.url)
    other.open("")
    other.page.get_by_label("token").fill(token)
    other.page.get_by_role("button", name="Log in").click()
    other.page.get_by_role("heading", name="Overview").wait_for()
    page.get_by_role("row", name="Day shift").get_by_role("link", name="Revoke").click()
    page.get_by_role("button", name="Revoke the operator").click()
    other.page.reload()
    other.page.get_by_role("heading", name="Log in").wait_for()
    context.close()


def test_the_audit_log_tells_all_of_it_and_can_be_filtered(world, page):
    page.go("/audit")
    page.get_by_label("What").select_option("model.activate")
    page.get_by_label("Who").select_option("operator Night shift")
    page.get_by_role("button", name="Show").click()
    rows = page.locator("tbody tr")
    assert rows.count() == 1
    assert "task tiny, model 2" in rows.inner_text()


def test_a_wrong_number_in_a_form_is_said_in_one_sentence(world, context):
    watched = Watched(context, world.url)
    watched.open("/jobs")
    page = watched.page
    page.get_by_label("Epochs").evaluate("field => { field.removeAttribute('pattern'); field.value = 'many' }")
    page.get_by_role("button", name="Start the training").click()
    assert "takes a whole number" in page.get_by_role("alert").inner_text()
    page.go_back()
    page.get_by_role("heading", name="Training jobs").wait_for()
    page.close()


def test_logging_out_leads_to_the_login(world, browser):
    context = browser.new_context()
    watched = Watched(context, world.url)
    watched.open("/sites")
    page = watched.page
    page.get_by_label("token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    assert "does not open the dashboard" in page.get_by_role("alert").inner_text()
    page.get_by_label("token").fill(world.token)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Sites").wait_for()  # the page that was asked for first
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("heading", name="Log in").wait_for()
    page.go_back()
    page.reload()
    page.get_by_role("heading", name="Log in").wait_for()
    context.close()
