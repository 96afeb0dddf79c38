"""Mapping: requests of several sites in one batch, each answered under its own key; a full queue says so."""

import dataclasses
import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ppcmi.bundle_header import read_header
from ppcmi.client import Patience, ServerClient
from ppcmi.errors import CancelledError, KeyMismatchError, ServerRefusedError
from ppcmi.latents import Latents
from ppcmi.scales import Profile, Stream, scale_shapes
from ppcmi_server import tasks
from ppcmi_server.database.schema import Job, Model
from ppcmi_server.errors import RefusalError
from ppcmi_server.mapping import Mapper
from ppcmi_server.umn.model import TrainedUmn, UmnDescription, build_network
from support.app_server import CODEC, TASK, app_server, make_latents, pseudonym

QUEUED = 3
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
    shapes = scale_shapes(TASK.slicing.size, Profile.COARSE.scales)
    description = UmnDescription("default", Profile.COARSE, shapes, (CODEC,))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        umn = TrainedUmn(description, build_network(description))
    for parameter in umn.network.parameters():
        parameter.requires_grad_(False).add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator()))
    add_model(server, sites[0], umn)
    return umn


def add_model(server, site, umn, digest=None):
    """The network as the task's active model 1."""
    file = server.services.config.models_folder / "a.safetensors"
    umn.save(file)
    digest = digest or hashlib.sha256(file.read_bytes()).hexdigest()
    with server.services.database.writing() as session:
        task = tasks.find_task(session, TASK.name)
        session.add(Job(id=1, task_id=task.id, state="done", config={}, created="2026-01-01T00:00:00Z"))
        session.flush()
        session.add(
            Model(
                task_id=task.id, number=1, job_id=1, state="active", preset="default", profile="coarse",
                mode="two-layer", scope="consortium", codecs={CODEC: site.protection().inner.check()}, config={},
                seed=1, code_version="-", file=file.name, file_digest=digest, cases=1, slices=1,
                created="2026-01-01T00:00:00Z",
            )
        )  # fmt: skip


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


def test_a_full_queue_says_when_to_come_back_and_a_patient_client_does(server, sites, gate, pool):
    a, b = sites
    answers = [pool.submit(ask, a, a.bundle(make_latents(1, 1)))]
    assert gate.entered.wait(WAIT_S)
    answers += [pool.submit(ask, a, a.bundle(make_latents(1, n), case=n)) for n in range(2, QUEUED + 1)]
    wait_until(lambda: server.mapper.waiting == QUEUED - 1)
    bundle = b.bundle(make_latents(1, 9))
    refusal = b.call("POST", f"/v1/tasks/{TASK.name}/map?model=1", data=bundle)
    assert refusal.status_code == 429
    assert refusal.headers["Content-Type"] == "application/problem+json"
    assert int(refusal.headers["Retry-After"]) >= 1
    patient = ServerClient(server.url, b.token, patience=Patience(attempts=20, pause_s=0.05, longest_pause_s=0.5))
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
    wait_until(lambda: " 499 " in caplog.text)  # the server has seen it
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
        add_model(server, site, umn, digest="0" * 64)
        with pytest.raises(ServerRefusedError, match="not the one that was trained") as caught:
            ask(site, site.bundle(make_latents(1, 1)))
        assert caught.value.status == 503


@dataclasses.dataclass(eq=False)
class Scaling:
    """A model that multiplies; numbers of slices it was called with."""

    factor: float
    calls: list

    def map(self, images, codec):
        self.calls.append(len(images))
        if codec == "broken":
            raise RuntimeError("not this codec")
        return images.map(lambda _, values: values * self.factor)


def make_mapper(calls, **changes):
    fields = {"queued_requests": 9, "batch_slices": 4, "batch_wait_s": 0.2, "models_in_memory": 1}
    return Mapper(lambda model: Scaling(float(model), calls), **(fields | changes))


def test_batches_hold_one_model_and_codec_and_no_more_slices_than_allowed():
    calls = []
    mapper = make_mapper(calls, batch_wait_s=30)
    sizes = [(2, "c", 1), (2, "c", 2), (3, "c", 1), (2, "d", 2), (2, "c", 2), (3, "c", 5)]
    with mapper.admit():  # one request that never comes: a batch that could grow waits for it
        requests = [(make_latents(n, i), model) for i, (model, _, n) in enumerate(sizes)]
        answers = [
            mapper.submit(model, codec, images) for (images, model), (_, codec, _) in zip(requests, sizes, strict=True)
        ]
        wait_until(lambda: len(calls) >= 1 or mapper.waiting == 0)
    for (images, model), answer in zip(requests, answers, strict=True):
        masks = answer.result(WAIT_S)
        for scale in images:
            assert torch.equal(masks[scale], images[scale] * model)
    assert max(calls) <= 4
    assert sum(calls) == sum(n for _, _, n in sizes)
    mapper.close()


def test_a_failure_is_its_own_batchs_and_a_closed_mapper_sends_everyone_away():
    mapper = make_mapper([], batch_wait_s=0.0)
    with pytest.raises(RuntimeError, match="not this codec"):
        mapper.submit(1, "broken", make_latents(1, 1)).result(WAIT_S)
    assert len(mapper.submit(1, "c", make_latents(2, 1)).result(WAIT_S)) == 2
    mapper.close()
    assert not mapper.alive
    with pytest.raises(RefusalError) as caught:
        mapper.submit(1, "c", make_latents(1, 1))
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "10")
