"""More than the server can do at once: every answer is right, nobody is starved, and models change under way."""

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from benchmarks import service_load
from ppcmi.bundle_header import read_header
from ppcmi.errors import BundleError, KeyMismatchError
from ppcmi_server import audit, models, tasks
from ppcmi_server.database.schema import AuditEvent
from ppcmi_server.settings import RateSettings
from support.app_server import TASK, app_server, make_latents
from support.mapping_load import TOLERANCE, is_answer_to, questions, run_clients
from support.random_models import add_model, random_umn

CLIENTS = 64
SECONDS = 5.0
MAP = f"/v1/tasks/{TASK.name}/map"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with app_server(tmp_path_factory.mktemp("load") / "server", queued_requests=12, queue_seconds=10.0) as server:
        add_model(server.services, random_umn(1), number=1)
        add_model(server.services, random_umn(2), number=2, state="ready")
        yield server


@pytest.fixture(scope="module")
def sites(server):
    return server.add_consortium("Hospital A", "Hospital B", "Hospital C")


@pytest.fixture(scope="module")
def asked(server, sites):
    """A bundle's answer is that of model 1."""
    return questions(sites, each=8)


def activate(server, number):
    with server.services.database.writing() as session:
        models.activate(session, tasks.find_task(session, TASK.name), number)


def test_sixty_four_clients_get_their_own_answers_and_no_failure(server, sites, asked):
    outcome = run_clients(asked, CLIENTS, SECONDS)
    assert outcome.wrong == 0
    assert outcome.broken == 0
    assert set(outcome.statuses) <= {200, 429}
    assert outcome.statuses[200] > 20
    assert outcome.statuses[429] > 0, "there was no more to do than the server can"
    assert outcome.quantile_ms(0.99) < 10_000
    assert server.mapper.alive


def test_the_servers_own_process_over_tls_under_load_in_small():
    """What ``benchmarks.service_load`` does for minutes, and as a soak for hours."""
    outcome, memory = service_load.load(5.0)
    measured = {number.name.split(" / ")[1]: number for number in service_load.numbers(outcome, memory, 5.0)}
    for name in ("wrong answers", "answers 5xx", "connections that broke"):
        assert measured[name].measured == 0
    assert measured["mapped"].measured > 20
    assert measured["most open files"].measured < 3 * CLIENTS


def test_a_flood_of_one_site_leaves_the_others_room_and_time(server, sites, asked):
    flood = [question for question in asked if question.site is sites[0]]
    other = [question for question in asked if question.site is sites[1]]
    alone = run_clients(other, 1, 1.5)
    with ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(run_clients, flood, 32, 4.0)
        time.sleep(0.5)
        among_them = run_clients(other, 1, 3.0)
    assert flooding.result().statuses[429] > 0
    assert set(among_them.statuses) == {200}, "a site that asks for one thing at a time was sent away"
    assert among_them.quantile_ms(0.5) < 10 * alone.quantile_ms(0.5) + 500
    assert among_them.wrong == flooding.result().wrong == 0


def test_models_are_switched_and_rolled_back_without_a_failed_or_mixed_answer(server, sites, asked):
    first = [question for question in asked if len(question.expected) <= 4][:6]
    activate(server, 1)
    activate(server, 2)
    second = []
    for question in first:
        answer = question.site.call("POST", MAP, data=question.bundle)
        _, masks = question.site.protection().unprotect_reply(answer.content, read_header(question.bundle))
        assert not torch.allclose(masks["b"], question.expected["b"], atol=TOLERANCE * 10)
        second.append(dataclasses.replace(question, expected=masks))
    by_model, end, got = {1: first, 2: second}, time.monotonic() + 4, {1: 0, 2: 0}
    failed, lock = [], threading.Lock()

    def ask_on_and_on(number):
        place = number
        while time.monotonic() < end:
            place = (place + 1) % len(first)
            answer = first[place].site.call("POST", MAP, data=first[place].bundle)
            if answer.status_code == 429:
                time.sleep(0.05)
                continue
            with lock:
                if answer.status_code != 200:
                    failed.append(answer.status_code)
                    continue
                model = read_header(answer.content).model
                got[model] += 1
                if not is_answer_to(by_model[model][place], answer.content):
                    failed.append("another model's masks")

    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(ask_on_and_on, number) for number in range(6)]
        active = 2
        while time.monotonic() < end:
            if active == 2:
                with server.services.database.writing() as session:
                    active = models.roll_back(session, tasks.find_task(session, TASK.name), actor="operator-7")
                assert active == 1
            else:
                activate(server, 2)
                active = 2
            time.sleep(0.1)
        for client in clients:
            client.result()
    activate(server, 1)
    assert failed == []
    assert min(got.values()) > 3


def test_the_same_request_sent_again_gets_the_same_masks_and_changes_nothing(server, sites, asked):
    """A client whose answer was lost asks again; whoever replays a request learns nothing that it did not give before.

    The reply is sealed for the site, under a nonce that follows from its content: without the site's link key it opens
    for nobody, and another site's token has it refused before any arithmetic.
    """
    a, b, _ = sites
    question = next(question for question in asked if question.site is a)
    activate(server, 1)
    with server.services.database.reading() as session:
        events = len(audit.events(session, None, 1000))
    answers = [a.call("POST", MAP, data=question.bundle).content for _ in range(3)]
    assert all(is_answer_to(question, answer) for answer in answers)
    assert len(set(answers)) == 1, "the same masks under another nonce would tell two rounds of the same numbers apart"
    replayed = b.call("POST", MAP, data=question.bundle)
    assert replayed.status_code == 409
    assert replayed.json()["type"] == "urn:ppcmi:problem:key-mismatch"
    with pytest.raises(KeyMismatchError):
        b.protection().unprotect_reply(answers[0], read_header(question.bundle))
    with server.services.database.reading() as session:
        assert len(audit.events(session, None, 1000)) == events


def test_an_answer_to_another_request_of_the_same_site_is_refused_by_its_client(server, sites, asked):
    """The swap: same site, same key, same number of slices, other content, or the same content of another case."""
    (site, *_), images = sites, make_latents(2, 77)
    bundles = [site.bundle(images, case=1), site.bundle(make_latents(2, 78), case=1), site.bundle(images, case=2)]
    answers = [site.call("POST", MAP, data=bundle).content for bundle in bundles]
    for asked_for, bundle in enumerate(bundles):
        for got, answer in enumerate(answers):
            if asked_for == got:
                site.protection().unprotect_reply(answer, read_header(bundle))
            else:
                with pytest.raises(BundleError, match="another request"):
                    site.protection().unprotect_reply(answer, read_header(bundle))


def test_a_site_that_asks_for_unusually_much_is_told_when_to_come_back_and_the_operator_once(tmp_path):
    rates = {"rates": RateSettings(mapped_slices_per_hour=20)}
    with app_server(tmp_path / "server", rates) as server:
        a, b = server.add_consortium("Hospital A", "Hospital B")
        add_model(server.services, random_umn())
        bundles = [site.bundle(make_latents(8, 1)) for site in (a, b)]
        statuses = [a.call("POST", MAP, data=bundles[0]).status_code for _ in range(6)]
        assert statuses == [200, 200, 429, 429, 429, 429]
        refusal = a.call("POST", MAP, data=bundles[0])
        assert refusal.json()["type"] == "urn:ppcmi:problem:volume"
        assert 60 < int(refusal.headers["Retry-After"]) <= 3600
        assert b.call("POST", MAP, data=bundles[1]).status_code == 200
        with server.services.database.reading() as session:
            events = session.query(AuditEvent).where(AuditEvent.action == "map.volume").all()
        assert [(event.actor, event.objects) for event in events] == [(a.site_id, {"slices": 20})]


def test_a_request_that_is_not_begun_in_time_is_sent_away_rather_than_kept(tmp_path):
    with app_server(tmp_path / "server", queue_seconds=0.5, batch_slices=4) as server:
        a, b = server.add_consortium("Hospital A", "Hospital B")
        add_model(server.services, random_umn())
        entered, go = threading.Event(), threading.Event()
        loaded = server.mapper._load(1)

        class Held:
            def map(self, images, codec):
                entered.set()
                assert go.wait(30)
                return loaded.map(images, codec)

        server.mapper._models[1] = Held()
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(a.call, "POST", MAP, data=a.bundle(make_latents(6, 1)))
            assert entered.wait(30)
            start = time.monotonic()
            late = b.call("POST", MAP, data=b.bundle(make_latents(1, 2)))
            assert 0.4 < time.monotonic() - start < 5
            assert (late.status_code, late.json()["type"]) == (429, "urn:ppcmi:problem:too-late")
            assert int(late.headers["Retry-After"]) >= 1
            go.set()
            assert first.result(30).status_code == 200, "one that was begun is ended, however long it takes"
        assert server.mapper.waiting == 0
