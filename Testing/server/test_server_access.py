"""Every route refuses whoever may not use it. The table is held against the OpenAPI document: no route is forgotten."""

import base64
import re
from pathlib import Path

import pytest
import requests
from sqlalchemy import update

from ppcmi_server.database.schema import Token
from ppcmi_server.identity import add_site, revoke_site
from support.app_server import CODEC, TASK, app_server, pseudonym

PUBLIC = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/v1/info"), ("POST", "/v1/enrol")}
JSON = "json"
OCTETS = "data"
EVERY_SITE = "every site"
MEMBERS = "members"
OWNER = "owner"

TASK_PATH = "/v1/tasks/{name}"
GUARDED = {
    # method and route: who may, and a request that is well-formed
    ("GET", "/v1/me"): (EVERY_SITE, {}),
    ("GET", "/v1/sites"): (EVERY_SITE, {"params": {"name": "Hospital A"}}),
    ("GET", "/v1/tasks"): (EVERY_SITE, {}),
    ("GET", TASK_PATH): (EVERY_SITE, {}),
    ("POST", f"{TASK_PATH}/consortium"): (
        EVERY_SITE,  # but there is one already
        {JSON: {"scope": "consortium", "mode": "two-layer", "inner_check": "0" * 16}},
    ),
    ("POST", f"{TASK_PATH}/invitations"): (MEMBERS, {JSON: {"to": "{outsider}", "sealed": "AAAA"}}),
    ("GET", f"{TASK_PATH}/invitation"): (OWNER, {}),
    ("POST", f"{TASK_PATH}/members"): (MEMBERS, {JSON: {}}),
    ("PUT", f"{TASK_PATH}/codec"): (MEMBERS, {OCTETS: b"codec", "headers": {"X-PPCMI-Codec": CODEC}}),
    ("GET", f"{TASK_PATH}/codec"): (MEMBERS, {}),
    ("POST", f"{TASK_PATH}/cohorts"): (MEMBERS, {JSON: {"header": "{header}"}}),
    ("GET", f"{TASK_PATH}/models"): (MEMBERS, {}),
    ("POST", f"{TASK_PATH}/models/{{number}}/validations"): (MEMBERS, {JSON: {"cases": 1, "labels": {}}}),
    ("POST", f"{TASK_PATH}/map"): (MEMBERS, {OCTETS: b"bundle"}),
    ("GET", "/v1/cohorts/{cohort_id}"): (OWNER, {}),
    ("PUT", "/v1/cohorts/{cohort_id}/frames/{index}"): (OWNER, {OCTETS: b"frame"}),
    ("POST", "/v1/cohorts/{cohort_id}/commit"): (OWNER, {JSON: {"frames": 1, "digest": "0" * 64}}),
    ("DELETE", "/v1/cohorts/{cohort_id}"): (OWNER, {}),
    ("DELETE", "/v1/cohorts/{cohort_id}/cases/{pseudonym}"): (OWNER, {}),
}
ROUTES = sorted(GUARDED)
SCOPES = ["segment", "contribute", "validate"]
SCOPE_OF = {  # what a token needs for whatever changes something; to look at what its site may see, any will do
    ("POST", f"{TASK_PATH}/map"): "segment",
    ("POST", f"{TASK_PATH}/models/{{number}}/validations"): "validate",
    **{
        route: "contribute"
        for route in GUARDED
        if "cohort" in route[1] or route[1].endswith(("/consortium", "/invitations", "/members"))
    },
    ("PUT", f"{TASK_PATH}/codec"): "contribute",
}


class World:
    """A member with a cohort, another member, a site that is none, one that was revoked."""

    def __init__(self, server, folder):
        self.server = server
        self.owner, self.member = server.add_consortium("Hospital A", "Hospital B")
        self.outsider, self.revoked = server.add_site("Hospital C"), server.add_site("Hospital D")
        self.cohort = self.owner.write_cohort(folder / "a.ppcmi", cases=[1])
        self.cohort_id = self.owner.upload(self.cohort)
        with server.services.database.writing() as session:
            revoke_site(session, "Hospital D")

    def request(self, route, token, **changes):
        """The route's well-formed request about the owner's objects."""
        method, path = route
        _, options = GUARDED[route]
        path = path.format(name=TASK.name, number=1, cohort_id=self.cohort_id, index=0, pseudonym=pseudonym(1))
        options = {**options, **changes}
        if "{header}" in options.get(JSON, {}).values():
            options[JSON] = {"header": base64.b64encode(self.cohort.header_bytes).decode()}
        if "{outsider}" in options.get(JSON, {}).values():
            options[JSON] = {**options[JSON], "to": self.outsider.site_id}
        headers = {**options.pop("headers", {}), **({} if token is None else {"Authorization": token})}
        return requests.request(method, self.server.url + path, headers=headers, timeout=30, **options)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("access")
    with app_server(folder / "server") as server:
        yield World(server, folder)


def expect_problem(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert set(answer.json()) == {"type", "title", "status", "detail"}


def test_the_table_holds_every_route_there_is(world):
    document = requests.get(world.server.url + "/openapi.json", timeout=30).json()
    operations = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert set(operations) == set(GUARDED) | PUBLIC
    assert {route for route, operation in operations.items() if not operation.get("security")} == PUBLIC


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
@pytest.mark.parametrize(
    "header", [None, "Bearer " + "x" * 43, "Bearer ", "Bearer \xe9", "Basic eHg6eHg=", "Bearer " + "x" * 5000]
)
def test_without_a_valid_token_there_is_no_entry(world, route, header):
    header = header if header is None else header.encode("latin-1")
    answer = world.request(route, header)
    expect_problem(answer, 401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_a_revoked_site_has_no_entry(world, route):
    answer = world.request(route, f"Bearer {world.revoked.token}")
    expect_problem(answer, 401)
    assert answer.json()["type"] == "urn:ppcmi:problem:revoked"


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_a_token_without_the_scope_is_refused_and_with_it_alone_let_in(world, route):
    opens = []
    try:
        for scope in SCOPES:
            _set_scopes(world, world.member.site_id, [scope])
            # A cohort that is not there: nothing is withdrawn while this tries every door.
            method, path = route
            answer = requests.request(
                method,
                world.server.url
                + path.format(name=TASK.name, number=9, cohort_id="0" * 32, index=0, pseudonym=pseudonym(1)),
                headers={"Authorization": f"Bearer {world.member.token}", **GUARDED[route][1].get("headers", {})},
                timeout=30,
                **{k: v for k, v in GUARDED[route][1].items() if k != "headers"},
            )
            if "does not have the scope" not in answer.text:
                opens.append(scope)
            else:
                expect_problem(answer, 403)
    finally:
        _set_scopes(world, world.member.site_id, SCOPES)
    assert opens == ([SCOPE_OF[route]] if route in SCOPE_OF else SCOPES)


def _set_scopes(world, site_id, scopes):
    with world.server.services.database.writing() as session:
        session.execute(update(Token).where(Token.site_id == site_id).values(scopes=scopes))


@pytest.mark.parametrize("route", [r for r in ROUTES if GUARDED[r][0] == OWNER], ids=" ".join)
def test_what_is_another_sites_does_not_exist(world, route):
    for other in (world.member, world.outsider):
        expect_problem(world.request(route, f"Bearer {other.token}"), 404)


@pytest.mark.parametrize("route", [r for r in ROUTES if GUARDED[r][0] == MEMBERS], ids=" ".join)
def test_what_is_for_members_is_not_for_others(world, route):
    expect_problem(world.request(route, f"Bearer {world.outsider.token}"), 403)


def test_after_all_attempts_the_owner_still_has_everything(world):
    """The control: the same requests, by those who may; also that nothing above changed anything."""
    token = f"Bearer {world.owner.token}"
    state = world.owner.client.cohort(world.cohort_id)
    assert (state["state"], state["cases"], state["frames"]) == ("whole", 1, [0, 1])
    assert world.owner.client.codec(TASK.name) == (b"encrypted codec", CODEC)
    for route in ROUTES:
        if route[0] != "DELETE":
            assert world.request(route, token).status_code not in (401, 403), route


def test_a_code_works_once_and_a_wrong_one_never(world):
    with world.server.services.database.writing() as session:
        code = add_site(session, "Hospital E")
    body = {"code": code, "public_key": "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}
    small_order = {**body, "public_key": "A" * 43 + "="}
    enrol = world.server.url + "/v1/enrol"
    expect_problem(requests.post(enrol, json={**body, "code": "aaaa-aaaa-aaaa-aaaa-aaaa"}, timeout=30), 403)
    expect_problem(requests.post(enrol, json=small_order, timeout=30), 422)  # does not spend the code
    assert requests.post(enrol, json={**body, "code": f" {code.upper()} "}, timeout=30).status_code == 201
    expect_problem(requests.post(enrol, json=body, timeout=30), 403)


def test_the_protocols_page_names_every_route():
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    named = {(method, path.split("?")[0]) for method, path in re.findall(r"^\| `([A-Z]+) (/\S+)`", page, re.MULTILINE)}
    assert named == set(GUARDED) | PUBLIC
