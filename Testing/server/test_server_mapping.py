"""Mapping: requests of several sites in one batch, each answered under its own key; a full queue says so."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ppcmi.bundle_header import read_header
from ppcmi.client import Patience, ServerClient
from ppcmi.errors import CancelledError, KeyMismatchError, ServerRefusedError
from ppcmi.latents import Latents
from ppcmi.scales import Profile, Stream
from ppcmi_server.umn.model import TrainedUmn
from support.app_server import CODEC, TASK, app_server, make_latents, pseudonym
from support.random_models import add_model, random_umn

QUEUED = 6
WAIT_S = 30


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with app_server(tmp_path_factory.mktemp("mapping") / "server", queued_requests=QUEUED) as server:
        yield server


@pytest.fixture(scope="module")
def sites(server):
    return server.add_consortium("Hospital A", "Hospital B")


@pytest.fixture(scope="module")
def umn(server, sites):
    """An active model: a real network with random weights."""
    umn = random_umn()
    add_model(server.services, umn)
    return umn


class Gate:
    """Holds the network's first call until it is opened; remembers how many slices each call mapped."""

    def __init__(self, monkeypatch):
        self.calls, self.entered, self.opened = [], threading.Event(), threading.Event()
        mapped = TrainedUmn.map

        def hold(umn, images, codec):
            self.calls.append(len(images))
            self.entered.set()
            assert self.opened.wait(WAIT_S)
            return mapped(umn, images, codec)

        monkeypatch.setattr(TrainedUmn, "map", hold)


@pytest.fixture
def gate(umn, monkeypatch):
    gate = Gate(monkeypatch)
    yield gate
    gate.opened.set()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def wait_until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def ask(site, bundle, model=1):
    return site.client.map_bundle(TASK.name, bundle, model)


def expected_of(site, umn, images):
    """What the site should get: the network in the inner key's space, and back."""
    inner = site.protection().inner
    return inner.invert(umn.map(inner.apply(images, Stream.IMAGE), CODEC), Stream.MASK)


def assert_equal(got: Latents, expected: Latents):
    for scale in expected:
        torch.testing.assert_close(got[scale], expected[scale].float(), atol=0.03, rtol=0.03)


def test_sites_are_mapped_in_one_batch_and_each_gets_its_own_answer_under_its_own_key(server, sites, umn, gate, pool):
    a, b = sites
    images = {number: make_latents(count, number) for number, count in ((1, 1), (2, 3), (3, 2))}
    bundles = {number: site.bundle(images[number], case=number) for number, site in ((1, a), (2, a), (3, b))}
    answers = {1: pool.submit(ask, a, bundles[1])}
    assert gate.entered.wait(WAIT_S)
    answers |= {number: pool.submit(ask, site, bundles[number]) for number, site in ((2, a), (3, b))}
    wait_until(lambda: server.mapper.waiting == 2)
    gate.opened.set()
    replies = {number: answer.result(WAIT_S) for number, answer in answers.items()}
    assert gate.calls == [1, 5]
    for number, site in ((1, a), (2, a), (3, b)):
        header, masks = site.protection().unprotect_reply(replies[number], read_header(bundles[number]))
        assert (header.case, header.model, header.slice_indices) == (
            pseudonym(number),
            1,
            tuple(range(len(images[number]))),
        )
        assert_equal(masks, expected_of(site, umn, images[number]))
    with pytest.raises(KeyMismatchError):
        a.protection().unprotect_reply(replies[3], read_header(bundles[3]))
    nonces = [read_header(data).nonce for data in (*bundles.values(), *replies.values())]
    assert len(set(nonces)) == len(nonces)


def test_a_site_that_fills_its_share_is_told_when_to_come_back_while_another_gets_in(server, sites, gate, pool):
    a, b = sites
    answers = [pool.submit(ask, a, a.bundle(make_latents(1, 1)))]
    assert gate.entered.wait(WAIT_S)
    answers += [pool.submit(ask, a, a.bundle(make_latents(1, n), case=n)) for n in range(2, QUEUED // 2 + 1)]
    wait_until(lambda: server.mapper.waiting == QUEUED // 2 - 1)
    bundle = a.bundle(make_latents(1, 9))
    refusal = a.call("POST", f"/v1/tasks/{TASK.name}/map?model=1", data=bundle)
    assert refusal.status_code == 429
    assert refusal.headers["Content-Type"] == "application/problem+json"
    assert int(refusal.headers["Retry-After"]) >= 1
    answers.append(pool.submit(ask, b, b.bundle(make_latents(1, 8), case=8)))
    wait_until(lambda: server.mapper.waiting == QUEUED // 2)
    patient = ServerClient(server.url, a.token, patience=Patience(attempts=20, pause_s=0.05, longest_pause_s=0.5))
    late = pool.submit(patient.map_bundle, TASK.name, bundle, 1)
    gate.opened.set()
    assert read_header(late.result(WAIT_S)).in_reply_to == read_header(bundle).nonce.hex()
    assert all(read_header(answer.result(WAIT_S)).model == 1 for answer in answers)


def test_a_request_whose_client_went_away_is_not_mapped(server, sites, gate, pool, caplog):
    caplog.set_level("INFO", logger="ppcmi_server.access")
    a, b = sites
    first = pool.submit(ask, a, a.bundle(make_latents(1, 1)))
    assert gate.entered.wait(WAIT_S)
    gone = pool.submit(ask, b, b.bundle(make_latents(7, 2)))
    wait_until(lambda: server.mapper.waiting == 1)
    b.client.abort()
    with pytest.raises(CancelledError):
        gone.result(WAIT_S)
    last = pool.submit(ask, a, a.bundle(make_latents(2, 3)))
    wait_until(lambda: server.mapper.waiting == 2)
    wait_until(lambda: any(getattr(record, "fields", {}).get("status") == 499 for record in caplog.records))
    gate.opened.set()
    first.result(WAIT_S)
    last.result(WAIT_S)
    assert gate.calls == [1, 2]


def wide(latents):
    return latents.map(lambda _, values: values.repeat(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("status", "sentence", "make"),
    [
        (409, "not trained with this codec", lambda site: site.bundle(make_latents(1, 1), codec="f" * 32)),
        (409, "another inner key", lambda site: site.bundle(make_latents(1, 1), inner_key=b"k" * 32)),
        (409, "privacy profile 'coarse'", lambda s: s.bundle(make_latents(1, 1, Profile.FULL), profile=Profile.FULL)),
        (422, "shapes of the task", lambda site: site.bundle(wide(make_latents(1, 1)))),
        (
            422,
            "image latents and nothing else",
            lambda site: site.protection().protect({Stream.MASK: make_latents(1, 1)}, pseudonym(1), [0]),
        ),
        (422, "cut off", lambda site: site.bundle(make_latents(1, 1))[:-9]),
    ],
)
def test_a_bundle_that_does_not_fit_the_model_is_refused_with_the_reason(sites, umn, status, sentence, make):
    with pytest.raises(ServerRefusedError, match=sentence) as caught:
        ask(sites[0], make(sites[0]))
    assert caught.value.status == status


def test_a_bundle_under_another_sites_link_key_is_refused_before_any_arithmetic(sites, umn, monkeypatch):
    a, b = sites
    monkeypatch.setattr("ppcmi.channel.unpack", None)
    with pytest.raises(ServerRefusedError, match="another link key") as caught:
        ask(a, b.bundle(make_latents(1, 1)))
    assert caught.value.status == 409


def test_without_an_active_model_or_with_an_unknown_one_there_is_no_mapping(server, sites, umn):
    site = sites[0]
    bundle = site.bundle(make_latents(1, 1))
    assert read_header(site.call("POST", f"/v1/tasks/{TASK.name}/map", data=bundle).content).model == 1
    with pytest.raises(ServerRefusedError, match="no such model"):
        ask(site, bundle, model=2)


def test_a_model_whose_file_was_exchanged_does_not_map(tmp_path, umn):
    with app_server(tmp_path / "server") as server:
        (site,) = server.add_consortium("Hospital A")
        add_model(server.services, umn, digest="0" * 64)
        with pytest.raises(ServerRefusedError, match="not the one that was trained") as caught:
            ask(site, site.bundle(make_latents(1, 1)))
        assert caught.value.status == 503
