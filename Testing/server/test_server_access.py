"""Every route refuses whoever may not use it. The table is held against the OpenAPI document: no route is forgotten."""

import base64
import re
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from ppcmi_server import clock
from ppcmi_server.access import operators, site_tokens, tokens
from ppcmi_server.access.identity import add_site, revoke_site, tokens_of
from ppcmi_server.api.rates import FailedAttempts
from ppcmi_server.database.schema import Token
from support.app_server import CODEC, TASK, app_server, pseudonym
from support.shared_networks import networks, share_network

pytestmark = pytest.mark.usefixtures("every_storage")

PUBLIC = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/v1/info"), ("POST", "/v1/enrol")}
JSON = "json"
OCTETS = "data"
EVERY_SITE = "every site"
MEMBERS = "members"
OWNER = "owner"
ALL_SCOPES = "all scopes together"
FOREIGN = "https://evil.example"

TASK_PATH = "/v1/tasks/{name}"
GUARDED = {
    # method and route: who may, and a request that is well-formed
    ("GET", "/v1/me"): (EVERY_SITE, {}),
    ("POST", "/v1/token"): (EVERY_SITE, {JSON: {}}),
    ("POST", "/v1/token/retire"): (EVERY_SITE, {JSON: {}}),
    ("POST", "/v1/tokens"): (EVERY_SITE, {JSON: {"label": "reading room", "scopes": ["segment"]}}),
    ("GET", "/v1/tokens"): (EVERY_SITE, {}),
    ("DELETE", "/v1/tokens/{token_id}"): (OWNER, {}),
    ("GET", "/v1/audit/{digest}"): (EVERY_SITE, {}),
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
    ("PUT", f"{TASK_PATH}/network"): (
        MEMBERS,  # but it is of another codec
        {OCTETS: b"network", "headers": {"X-PPCMI-Codec": "0" * 32}},
    ),
    ("DELETE", f"{TASK_PATH}/network"): (MEMBERS, {}),
    ("GET", f"{TASK_PATH}/networks"): (MEMBERS, {}),
    ("GET", f"{TASK_PATH}/networks/{{site_id}}"): (MEMBERS, {}),
    ("POST", f"{TASK_PATH}/cohorts"): (MEMBERS, {JSON: {"header": "{header}"}}),
    ("GET", f"{TASK_PATH}/models"): (MEMBERS, {}),
    ("POST", f"{TASK_PATH}/models/{{number}}/validations"): (MEMBERS, {JSON: {"cases": 1, "labels": {}}}),
    ("POST", f"{TASK_PATH}/map"): (MEMBERS, {OCTETS: b"bundle"}),
    ("GET", "/v1/cohorts/{cohort_id}"): (OWNER, {}),
    ("PUT", "/v1/cohorts/{cohort_id}/frames/{index}"): (OWNER, {OCTETS: b"frame"}),
    ("PUT", "/v1/cohorts/{cohort_id}/frames/{index}/chunks/{offset}"): (
        OWNER,
        {
            OCTETS: b"chunk",
            "headers": {"X-PPCMI-Frame-Bytes": "9", "X-PPCMI-Frame-Digest": "0" * 64, "X-PPCMI-Digest": "0" * 64},
        },
    ),
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
        if "cohort" in route[1] or route[1].endswith(("/consortium", "/invitations", "/members", "/network"))
    },
    ("PUT", f"{TASK_PATH}/codec"): "contribute",
    ("POST", "/v1/tokens"): ALL_SCOPES,
    ("GET", "/v1/tokens"): ALL_SCOPES,
    ("DELETE", "/v1/tokens/{token_id}"): ALL_SCOPES,
}
OPERATORS = {("GET", "/metrics"): "observe"}
"""Routes for operators' tokens; the dashboard's pages have a login of their own, and tests of their own."""


class World:
    """A member with a cohort, another member, a site that is none, one that was revoked."""

    def __init__(self, server, folder):
        self.server = server
        self.owner, self.member = server.add_consortium("Hospital A", "Hospital B")
        self.outsider, self.revoked = server.add_site("Hospital C"), server.add_site("Hospital D")
        self.cohort = self.owner.write_cohort(folder / "a.ppcmi", cases=[1])
        self.cohort_id = self.owner.upload(self.cohort)
        share_network(self.owner, b"encrypted network")
        server.app.state.failed_attempts = FailedAttempts(per_minute=1_000_000)  # here every door is tried
        with server.services.database.writing() as session:
            revoke_site(session, "Hospital D")
            self.operator, self.monitoring = (
                operators.add_operator(session, scope, [scope]) for scope in tokens.OPERATOR_SCOPES
            )
            workstation, _ = tokens.make_token(session, self.owner.site_id, ["segment"], "reading room")
            self.token_id = site_tokens.public_id(workstation)
            expired, self.expired = tokens.make_token(session, self.owner.site_id, tokens.SITE_SCOPES)
            expired.expires = clock.ago(2 * tokens.LEEWAY_S)
        self.digest = self.owner.client.me()["audit_head"]

    def path(self, route, **changes):
        """The route's address about the owner's objects."""
        ids = {
            "name": TASK.name, "number": 1, "cohort_id": self.cohort_id, "index": 0, "offset": 0,
            "pseudonym": pseudonym(1), "token_id": self.token_id, "digest": self.digest,
            "site_id": self.owner.site_id,
        }  # fmt: skip
        return route[1].format(**{**ids, **changes})

    def request(self, route, token, ids=None):
        """The route's well-formed request about the owner's objects, or those with other ids."""
        _, options = GUARDED[route]
        options = dict(options)
        if "{header}" in options.get(JSON, {}).values():
            options[JSON] = {"header": base64.b64encode(self.cohort.header_bytes).decode()}
        if "{outsider}" in options.get(JSON, {}).values():
            options[JSON] = {**options[JSON], "to": self.outsider.site_id}
        return self.send(route, token, options, ids)

    def send(self, route, token, options, ids=None):
        """A request with ``options`` as they are."""
        method, path = route[0], self.path(route, **(ids or {}))
        headers = {**options.get("headers", {}), **({} if token is None else {"Authorization": token})}
        return requests.request(method, self.server.url + path, timeout=30, **{**options, "headers": headers})


@pytest.fixture(scope="module")
def world(tmp_path_factory, every_storage):
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


def served_by(router):
    """Method and path of every route, those of included routers too."""
    for route in router.routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from served_by(included)
        else:
            yield from ((method, route.path) for method in getattr(route, "methods", None) or () if method != "HEAD")


def test_what_the_description_leaves_out_is_for_operators_or_in_the_dashboard(world):
    served = {route for route in served_by(world.server.app) if not route[1].startswith("/dashboard")}
    assert served - set(GUARDED) - PUBLIC == set(OPERATORS) | {("GET", "/openapi.json")}


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
def test_an_expired_token_has_no_entry(world, route):
    answer = world.request(route, f"Bearer {world.expired}")
    expect_problem(answer, 401)
    assert answer.json()["type"] == "urn:ppcmi:problem:expired"


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_an_operators_token_is_no_sites(world, route):
    for token in (world.operator, world.monitoring):
        expect_problem(world.request(route, f"Bearer {token}"), 403)


@pytest.mark.parametrize("route", OPERATORS, ids=" ".join)
def test_what_is_for_operators_opens_to_their_scope_alone(world, route):
    def status(token):
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return requests.request(route[0], world.server.url + route[1], headers=headers, timeout=30).status_code

    assert status(None) == status("x" * 43) == status(world.expired) == status(world.revoked.token) == 401
    assert status(world.owner.token) == 403
    by_scope = dict(zip(tokens.OPERATOR_SCOPES, (world.operator, world.monitoring), strict=True))
    assert {scope: status(token) for scope, token in by_scope.items()} == {
        scope: 200 if scope == OPERATORS[route] else 403 for scope in tokens.OPERATOR_SCOPES
    }


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_a_token_without_the_scope_is_refused_and_with_it_alone_let_in(world, route):
    opens = []
    try:
        for scope in SCOPES:
            _set_scopes(world, world.member.site_id, [scope])
            # What is not there, and nobody who could be invited: nothing changes while this tries every door.
            nothing = {"cohort_id": "0" * 32, "number": 9, "token_id": "0" * 16}
            answer = world.send(route, f"Bearer {world.member.token}", GUARDED[route][1], nothing)
            if answer.status_code == 403 and "scope" in answer.text:
                expect_problem(answer, 403)
            else:
                opens.append(scope)
    finally:
        _set_scopes(world, world.member.site_id, SCOPES)
    needed = SCOPE_OF.get(route)
    assert opens == (SCOPES if needed is None else [] if needed == ALL_SCOPES else [needed])


def _set_scopes(world, site_id, scopes):
    with world.server.services.database.writing() as session:
        session.execute(update(Token).where(Token.site_id == site_id).values(scopes=scopes))


@pytest.mark.parametrize("route", [r for r in ROUTES if GUARDED[r][0] == OWNER], ids=" ".join)
def test_what_is_another_sites_does_not_exist(world, route):
    for other in (world.member, world.outsider):
        expect_problem(world.request(route, f"Bearer {other.token}"), 404)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(route=st.sampled_from([r for r in ROUTES if GUARDED[r][0] == OWNER]), number=st.integers(0, 2**64))
def test_an_id_that_is_another_sites_looks_like_one_that_is_nobodys(world, route, number):
    """So nobody learns which ids there are by guessing them."""
    nobodys = {"cohort_id": f"{number:032x}", "token_id": f"{number % 2**64:016x}", "pseudonym": f"{number:032x}"}
    token = f"Bearer {world.outsider.token}"
    real, random = world.request(route, token), world.request(route, token, nobodys)
    assert (real.status_code, real.content) == (random.status_code, random.content)
    assert real.status_code == 404


@pytest.mark.parametrize("path", ["/v1/me", "/v1/enrol", "/v1/tasks", "/healthz", "/metrics", "/openapi.json"])
@pytest.mark.parametrize("method", ["OPTIONS", "GET"])
def test_no_page_of_another_origin_may_read_an_answer(world, method, path):
    headers = {
        "Origin": FOREIGN,
        "Access-Control-Request-Method": "POST",
        "Authorization": f"Bearer {world.owner.token}",
    }
    answer = requests.request(method, world.server.url + path, headers=headers, timeout=30)
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("route", [r for r in ROUTES if GUARDED[r][0] == MEMBERS], ids=" ".join)
def test_what_is_for_members_is_not_for_others(world, route):
    expect_problem(world.request(route, f"Bearer {world.outsider.token}"), 403)


def test_after_all_attempts_the_owner_still_has_everything(world):
    """The control: the same requests, by those who may; also that nothing above changed anything."""
    token = f"Bearer {world.owner.token}"
    state = world.owner.client.cohort(world.cohort_id)
    assert (state["state"], state["cases"], state["frames"]) == ("whole", 1, [0, 1])
    assert world.owner.client.codec(TASK.name) == (b"encrypted codec", CODEC)
    assert networks(world.owner) == {world.owner.site_id: b"encrypted network"}
    with world.server.services.database.reading() as session:
        assert [site_tokens.public_id(t) for t in tokens_of(session, world.owner.site_id) if t.label] == [
            world.token_id
        ]
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
