"""The mapper: fair to sites, never mixes two requests' slices, and outlives whatever a model does."""

import random
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import torch

from ppcmi.errors import DeviceMemoryError, TrainingError
from ppcmi.latents import Latents
from ppcmi_server.errors import RefusalError
from ppcmi_server.mapping.fair_queue import Answer, FairQueue, Kind, Waiting
from ppcmi_server.mapping.mapper import Mapper, Place
from ppcmi_server.operation.metrics import Metrics
from support.app_server import make_latents

WAIT_S = 30
SITE = "a site"
BROKEN, POISON = "broken", 13.0


class Model:
    """Multiplies by its number; a batch with a poisoned slice, or of the codec ``broken``, fails as a whole."""

    def __init__(self, factor, calls, largest=10**9):
        self.factor, self.calls, self.largest = factor, calls, largest

    def map(self, images, codec):
        self.calls.append(len(images))
        if len(images) > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if codec == BROKEN or (images["b"].flatten(1)[:, 0] == POISON).any():
            raise RuntimeError("not this codec")
        return images.map(lambda _, values: values * self.factor)


def small_latents(value, slices=1):
    """Slices that all hold one value."""
    return Latents({"b": torch.full((slices, 256, 1, 1), float(value))})


def place(site=SITE):
    """A place that no batch waits for."""
    return Place(site, is_used=True)


@pytest.fixture
def make_mapper():
    with ExitStack() as open_mappers:

        def make(calls=None, load=None, largest=10**9, **changes):
            calls = [] if calls is None else calls
            fields = {"queued_requests": 18, "batch_slices": 4, "batch_wait_s": 0.0, "models_in_memory": 2}
            load = load or (lambda model: Model(float(model), calls, largest))
            mapper = Mapper(load, **{**fields, "metrics": Metrics(), **changes})
            open_mappers.callback(mapper.close)
            return mapper

        yield make


def wait_until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


# ---- the order


def queue_of(*requests):
    queue, kind = FairQueue(), Kind(1, "c", ())
    for site, slices in requests:
        queue.put(Waiting(site, kind, small_latents(0, slices), Answer()))
    return queue


def taken(queue, room, batches):
    return [[(part.request.site, part.slices) for part in queue.take(room)] for _ in range(batches)]


def test_a_flood_of_one_site_holds_another_up_for_no_longer_than_a_batch():
    queue = queue_of(*[("flood", 4)] * 50)
    assert taken(queue, 8, 3) == [[("flood", 4)] * 2] * 3
    queue.put(Waiting("other", Kind(1, "c", ()), small_latents(0, 4), Answer()))
    assert ("other", 4) in taken(queue, 8, 1)[0]


def test_sites_that_ask_for_more_than_there_is_get_the_same_number_of_slices_whatever_their_requests_sizes():
    queue = queue_of(*[("many small", 1)] * 200, *[("few large", 40)] * 5, *[("middling", 8)] * 25)
    got = {"many small": 0, "few large": 0, "middling": 0}
    for batch in taken(queue, 8, 50):
        assert sum(slices for _, slices in batch) == 8
        for site, slices in batch:
            got[site] += slices
    assert max(got.values()) - min(got.values()) <= 8


def test_a_large_request_is_taken_in_parts_and_a_batch_is_of_one_kind():
    queue = queue_of(("a", 10))
    queue.put(Waiting("b", Kind(2, "c", ()), small_latents(0, 3), Answer()))
    assert taken(queue, 4, 5) == [[("a", 4)], [("b", 3)], [("a", 4)], [("a", 2)], []]
    assert len(queue) == 0


def test_a_request_that_was_dropped_is_not_taken():
    queue = queue_of(("a", 10), ("b", 1))
    first = next(iter(queue))
    queue.take(4)
    first.answer.cancel()
    assert taken(queue, 4, 2) == [[("b", 1)], []]


# ---- shares of the queue


def test_a_site_gets_half_the_queue_two_a_third_each_and_another_site_finds_room(make_mapper):
    mapper, open_places = make_mapper(queued_requests=18), ExitStack()

    def fill(site):
        for count in range(100):
            try:
                open_places.enter_context(mapper.admit(site))
            except RefusalError:
                return count
        raise AssertionError("there is no end")

    with open_places:
        assert [fill(site) for site in "abcde"] == [9, 5, 2, 1, 1]
        with pytest.raises(RefusalError, match="queue is full") as caught:
            open_places.enter_context(mapper.admit("f"))
        assert (caught.value.status, int(caught.value.headers["Retry-After"]) >= 1) == (429, True)
    with open_places:
        for _ in range(6):  # in turns
            for site in "ab":
                open_places.enter_context(mapper.admit(site))
        assert [fill(site) for site in "abc"] == [0, 0, 3]


# ---- batches


def test_batches_hold_one_model_and_codec_and_no_more_slices_than_allowed(make_mapper):
    calls = []
    mapper = make_mapper(calls, batch_wait_s=30, models_in_memory=1)
    sizes = [(2, "c", 1), (2, "c", 2), (3, "c", 1), (2, "d", 2), (2, "c", 2), (3, "c", 5)]
    with mapper.admit(SITE):  # one request that never comes: a batch that could grow waits for it
        requests = [(make_latents(n, i), model) for i, (model, _, n) in enumerate(sizes)]
        answers = [
            mapper.submit(place(), model, codec, images)
            for (images, model), (_, codec, _) in zip(requests, sizes, strict=True)
        ]
        wait_until(lambda: len(calls) >= 1 or mapper.waiting == 0)
    for (images, model), answer in zip(requests, answers, strict=True):
        masks = answer.result(WAIT_S)
        for scale in images:
            assert torch.equal(masks[scale], images[scale] * model)
    assert max(calls) <= 4
    assert sum(calls) == sum(n for _, _, n in sizes)


def test_an_answer_keeps_none_of_the_memory_of_those_that_were_mapped_with_it(make_mapper):
    calls = []
    mapper = make_mapper(calls, batch_wait_s=30)
    with mapper.admit(SITE):  # what never comes: so both are mapped together
        answers = [mapper.submit(place(), 2, "c", small_latents(value, slices=2)) for value in (1, 2)]
        masks = [answer.result(WAIT_S)["b"] for answer in answers]
    assert calls == [4]
    assert [values.untyped_storage().nbytes() for values in masks] == [2 * 256 * 4] * 2


class Held:
    """A model that waits in its first call until it is let go."""

    def __init__(self):
        self.entered, self.go, self.calls = threading.Event(), threading.Event(), []

    def map(self, images, codec):
        self.calls.append(len(images))
        self.entered.set()
        assert self.go.wait(WAIT_S)
        if codec == BROKEN or (images["b"].flatten(1)[:, 0] == POISON).any():
            raise RuntimeError("not this codec")
        return images


def test_a_failure_in_a_batch_of_several_is_only_its_own_requests(make_mapper):
    held = Held()
    mapper = make_mapper(load=lambda _: held)
    first = mapper.submit(place(), 1, "c", small_latents(0))
    assert held.entered.wait(WAIT_S)
    values = [1.0, POISON, 3.0]
    answers = [mapper.submit(place(str(value)), 1, "c", small_latents(value)) for value in values]
    held.go.set()
    assert held.calls[:1] == [1]
    assert first.result(WAIT_S)["b"].unique().tolist() == [0.0]
    assert answers[0].result(WAIT_S)["b"].unique().tolist() == [1.0]
    assert answers[2].result(WAIT_S)["b"].unique().tolist() == [3.0]
    with pytest.raises(RuntimeError, match="not this codec"):
        answers[1].result(WAIT_S)
    assert held.calls == [1, 3, 1, 1, 1]


def test_a_model_that_cannot_be_loaded_fails_its_requests_and_no_others(make_mapper):
    def load(model):
        if model == 2:
            raise TrainingError("The model's file is missing or damaged.")
        return Model(float(model), [])

    mapper = make_mapper(load=load)
    answers = {model: mapper.submit(place(), model, "c", small_latents(1)) for model in (1, 2, 3)}
    assert answers[1].result(WAIT_S)["b"].unique().tolist() == [1.0]
    assert answers[3].result(WAIT_S)["b"].unique().tolist() == [3.0]
    with pytest.raises(TrainingError):
        answers[2].result(WAIT_S)
    assert mapper.alive


def test_batches_that_do_not_fit_into_memory_are_halved_and_grow_again_one_slice_at_a_time(make_mapper):
    calls = []
    mapper = make_mapper(calls, batch_slices=16, largest=4)
    assert len(mapper.submit(place(), 1, "c", small_latents(2, 16)).result(WAIT_S)) == 16
    assert calls[:3] == [16, 8, 4]
    calls.clear()
    assert len(mapper.submit(place(), 1, "c", small_latents(2, 14)).result(WAIT_S)) == 14
    assert calls[:3] == [4, 5, 2]  # a full batch was fine, so one more is tried
    with pytest.raises(DeviceMemoryError):
        make_mapper(largest=0).submit(place(), 1, "c", small_latents(2)).result(WAIT_S)


def test_a_request_that_is_given_up_half_mapped_is_not_mapped_to_its_end(make_mapper):
    held = Held()
    mapper = make_mapper(load=lambda _: held)
    long = mapper.submit(place(), 1, "c", small_latents(0, 100))
    assert held.entered.wait(WAIT_S)
    assert long.cancel()
    held.go.set()
    assert len(mapper.submit(place(), 1, "c", small_latents(1, 2)).result(WAIT_S)) == 2
    assert held.calls == [4, 2]


def test_a_closed_mapper_sends_everyone_away(make_mapper):
    held = Held()
    mapper = make_mapper(load=lambda _: held)
    under_way = mapper.submit(place(), 1, "c", small_latents(0))
    assert held.entered.wait(WAIT_S)
    waiting = mapper.submit(place(), 1, "c", small_latents(0))
    threading.Timer(0.05, held.go.set).start()
    mapper.close()
    assert not mapper.alive
    assert len(under_way.result(0)) == 1
    for refused in (waiting.result, lambda: mapper.submit(place(), 1, "c", small_latents(1))):
        with pytest.raises(RefusalError) as caught:
            refused()
        assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "10")


def test_no_slice_ever_comes_back_to_another_request_whatever_happens_between(make_mapper):
    """Eight sites, two models and codecs, requests of all sizes; some are given up, some fail, memory runs short."""
    mapper = make_mapper(queued_requests=64, batch_slices=16, largest=11, batch_wait_s=0.001)

    def ask_on_and_on(number):
        chance, outcomes = random.Random(number), {"mapped": 0, "failed": 0, "given up": 0}
        for turn in range(60):
            model, slices = chance.choice((2, 3)), chance.choice((1, 1, 2, 5, 30))
            codec = chance.choice(("c", "c", "c", "d", BROKEN))
            values = torch.arange(slices) + 1000 * turn + 100_000 * number + 20.0
            if chance.random() < 0.1:
                values[chance.randrange(slices)] = POISON
            images = Latents({"b": values.reshape(-1, 1, 1, 1).repeat(1, 8, 1, 1)})
            with mapper.admit(str(number)) as own:
                answer = mapper.submit(own, model, codec, images)
                if chance.random() < 0.15:
                    time.sleep(0.002 * chance.random())
                    answer.cancel()
                try:
                    masks = answer.result(WAIT_S)
                except CancelledError:
                    outcomes["given up"] += 1
                except RuntimeError:
                    assert codec == BROKEN or POISON in values
                    outcomes["failed"] += 1
                else:
                    assert torch.equal(masks["b"], images["b"] * model)
                    outcomes["mapped"] += 1
        return outcomes

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(ask_on_and_on, range(8)))
    assert mapper.alive
    for kind in ("mapped", "failed", "given up"):
        assert sum(one[kind] for one in outcomes) > 10
