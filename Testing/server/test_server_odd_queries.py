"""What a query may not hold is refused, whatever the database would make of it."""

import pytest
import requests

from ppcmi_server.access import operators
from support.app_server import app_server

pytestmark = pytest.mark.usefixtures("every_storage")


@pytest.fixture(scope="module")
def server(tmp_path_factory, every_storage):
    with app_server(tmp_path_factory.mktemp("queries") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def site(server):
    return server.add_site("Hospital A")


@pytest.fixture(scope="module")
def browser(server):
    with server.services.database.writing() as session:
        token = operators.add_operator(session, "Night shift")
    session = requests.Session()
    session.post(f"{server.url}/dashboard/login", {"token": token}, timeout=20)
    return session


@pytest.mark.parametrize("name", ["%00", "Hospital%00A", "Hospital%20A%00"])
def test_a_sites_name_has_no_nul(site, name):
    answer = site.call("GET", f"/v1/sites?name={name}")
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:ppcmi:problem:invalid")


@pytest.mark.parametrize(("name", "status"), [("Hospital%20A", 200), ("%0A", 404), ("%F0%9F%8F%A5", 404), ("%FF", 404)])
def test_any_other_character_may_be_asked_for(site, name, status):
    assert site.call("GET", f"/v1/sites?name={name}").status_code == status


@pytest.mark.parametrize("query", ["actor=%00", "action=%00", "actor=operator%00", "action=site.add%00"])
def test_a_filter_of_the_audit_log_has_no_nul(server, browser, query):
    assert browser.get(f"{server.url}/dashboard/audit?{query}", timeout=20).status_code == 422
    assert browser.get(f"{server.url}/dashboard/audit?{query.replace('%00', '')}", timeout=20).status_code == 200
