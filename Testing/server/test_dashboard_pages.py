"""The dashboard's pages, as the server makes them on every kind of storage."""

import re

import pytest
import requests

from support.app_server import app_server
from support.dashboard_world import make_world

pytestmark = pytest.mark.usefixtures("every_storage")


@pytest.fixture(scope="module")
def world(every_storage, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    with app_server(folder / "server") as server:
        world = make_world(server, folder)
        world.activate(2)
        world.activate(1)
        world.running = world.add_job("running", 2)
        yield world


@pytest.fixture(scope="module")
def get(world):
    """``get(path)``: a page's text."""
    session = requests.Session()
    root = f"{world.url}/dashboard"
    assert session.post(f"{root}/login", data={"token": world.token}, timeout=30).status_code == 200

    def get(path):
        answer = session.get(root + path, timeout=30)
        assert answer.status_code == 200, (path, answer.text)
        return answer.text

    return get


def test_every_link_of_every_page_leads_to_a_page(get):
    seen, pending = set(), [""]
    while pending:
        path = pending.pop()
        seen.add(path)
        for link in re.findall(r'(?:href|action|data-live)="/dashboard([^"#]*)"', get(path)):
            found = link.replace("&amp;", "&")
            posts = found in ("/logout",) or re.search(r"/(code|quota|weight|pause|resume|exclude|include)$", found)
            if found not in seen and found not in pending and not posts and "/static/" not in found:
                pending.append(found)
    assert len(seen) > 35


def test_lists_are_filtered_and_paged(get, world):
    assert get("/cohorts").count("<code>") == 3
    assert get(f"/cohorts?site={world.sites[0].site_id}").count("<code>") == 1
    assert "No cohort fits" in get("/cohorts?offset=3")
    assert "No event fits" in get("/audit?before=1")
    assert get("/audit?action=cohort.commit").count("cohort.commit</td>") == 3
    assert "Job 1<" in get("/jobs?before=2")
    assert "Job 2<" not in get("/jobs?before=2")
