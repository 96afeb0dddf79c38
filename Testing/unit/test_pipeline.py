"""Segmenting one volume through a server that is a function: what comes back, what may not, and how it ends."""

import dataclasses
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from ppcmi.bundle_header import read_header
from ppcmi.channel import open_channel
from ppcmi.codec.refinement import SiteDecoder
from ppcmi.errors import BundleError, CancelledError, ConnectionFailedError, DeviceMemoryError, KeyMismatchError
from ppcmi.in_flight import BUNDLES_IN_FLIGHT, LARGEST_BUNDLE, slices_a_bundle
from ppcmi.klt.inner import InnerLayer
from ppcmi.pipeline import map_latents, run, segment
from ppcmi.quantization import Quantization
from ppcmi.scales import PRIVACY_PROFILES, Profile, Stream
from ppcmi.slicing import slice_volume
from ppcmi.volume import Geometry, Volume
from ppcmi.what_leaves import Sending, segmentation_leaves
from support.private_link import INNER_KEY, LINK_KEY, HalvingServer, link_to, noise_volume, untrained_codec

SLICES = 11


@pytest.fixture(scope="module")
def a_codec():
    return untrained_codec()


@pytest.fixture(scope="module")
def a_volume():
    return noise_volume(SLICES)


def expected_latents(slices, link):
    plain = link.codec.encode_images(slices).of(link.profile)
    if link.protection.inner is None:
        return plain.map(lambda _, values: values / 2)
    keyed = link.protection.inner.apply(plain, Stream.IMAGE).map(lambda _, values: values / 2)
    return link.protection.inner.invert(keyed, Stream.MASK)


@pytest.mark.parametrize("mode", ["two-layer", "paper"])
@pytest.mark.parametrize("profile", PRIVACY_PROFILES)
def test_latents_come_back_as_the_server_mapped_them_in_the_order_of_the_slices(a_codec, a_volume, mode, profile):
    slices, _ = slice_volume(a_volume, a_codec.task)
    server = HalvingServer(task=a_codec.task.identity, mode=mode)
    link = link_to(server, a_codec, mode=mode, profile=profile)
    got = run(map_latents(a_codec.encode_images(slices), link))
    for scale, values in expected_latents(slices, link).items():
        torch.testing.assert_close(got[scale], values, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("with_decoder", [False, True])
def test_the_result_has_the_volume_s_own_grid_and_is_what_the_decoder_says(a_codec, a_volume, with_decoder):
    server = HalvingServer(task=a_codec.task.identity)
    link = link_to(server, a_codec, decoder=SiteDecoder(a_codec) if with_decoder else None)
    result = run(segment(a_volume, link, with_probabilities=True))
    assert result.labels.geometry.matches(a_volume.geometry, tolerance_mm=0)
    assert result.labels.voxels.dtype == np.uint8
    assert result.probabilities.shape == (a_codec.task.classes, *a_volume.geometry.shape)
    assert np.array_equal(result.probabilities.argmax(axis=0), result.labels.voxels)
    np.testing.assert_allclose(result.probabilities.sum(axis=0), 1, atol=1e-3)


def test_how_slices_are_bundled_makes_no_difference(a_codec, a_volume):
    results = []
    for slices_per_bundle, in_flight in [(1, 8), (4, 1), (64, 2)]:
        link = link_to(HalvingServer(task=a_codec.task.identity), a_codec)
        link = dataclasses.replace(link, slices_per_bundle=slices_per_bundle, in_flight=in_flight)
        results.append(run(segment(a_volume, link, with_probabilities=True)).probabilities)
    np.testing.assert_allclose(results[1], results[0], atol=1e-3)
    np.testing.assert_allclose(results[2], results[0], atol=1e-3)


def sizes_of_bundles(total, **changes):
    step = slices_a_bundle(total, **changes)
    return [min(step, total - start) for start in range(0, total, step)]


def test_a_case_goes_in_as_many_bundles_as_may_be_under_way_unless_they_got_too_small_or_too_large():
    assert sizes_of_bundles(11) == [11]
    assert sizes_of_bundles(32) == [16, 16]
    assert sizes_of_bundles(64) == [16, 16, 16, 16]
    assert sizes_of_bundles(128) == [32, 32, 32, 32]
    assert sizes_of_bundles(300) == [32] * 9 + [12]
    assert sizes_of_bundles(32, in_flight=1) == [32]
    assert sizes_of_bundles(11, largest=4) == [4, 4, 3]


def test_a_case_of_usual_size_is_shared_among_bundles_and_sends_what_the_user_was_told(a_codec):
    volume = Volume(np.random.default_rng(2).random((40, 32, 32), dtype=np.float32), Geometry((40, 32, 32), np.eye(4)))
    server = HalvingServer(task=a_codec.task.identity)
    link = link_to(server, a_codec, slices_per_bundle=LARGEST_BUNDLE, in_flight=BUNDLES_IN_FLIGHT)
    sent = run(segment(volume, link)).progress.bytes_sent
    assert sorted(len(header.slice_indices) for header in server.headers) == [8, 16, 16]
    sending = Sending(link.profile, quantization=Quantization.F32, codec=a_codec.preset)
    leaving = segmentation_leaves([volume.geometry], a_codec.task, sending)
    assert leaving.bytes == sent


def test_answers_that_come_out_of_order_end_up_where_they_belong(a_codec, a_volume):
    class LastFirst(HalvingServer):
        def answer(self, bundle, model):
            time.sleep(0.2 / (1 + read_header(bundle).slice_indices[0]))
            return super().answer(bundle, model)

    in_order = link_to(HalvingServer(task=a_codec.task.identity), a_codec)
    out_of_order = link_to(LastFirst(task=a_codec.task.identity), a_codec)
    first = run(segment(a_volume, in_order, with_probabilities=True)).probabilities
    second = run(segment(a_volume, out_of_order, with_probabilities=True)).probabilities
    np.testing.assert_allclose(second, first, atol=1e-3)


def test_several_bundles_are_under_way_at_once_but_no_more_than_allowed(a_codec, a_volume):
    class WaitsForAnother(HalvingServer):
        both = threading.Barrier(2, timeout=5)

        def answer(self, bundle, model):
            if read_header(bundle).slice_indices[0] < 6:
                self.both.wait()
            return super().answer(bundle, model)

    server = WaitsForAnother(task=a_codec.task.identity)
    run(segment(a_volume, link_to(server, a_codec)))
    assert 2 <= server.most_at_once <= 3


def test_a_case_has_one_pseudonym_for_one_run_and_another_for_the_next(a_codec, a_volume):
    server = HalvingServer(task=a_codec.task.identity)
    link = link_to(server, a_codec)
    run(segment(a_volume, link))
    first = {header.case for header in server.headers}
    nonces = {header.nonce for header in server.headers}
    assert len(nonces) == len(server.headers)
    run(segment(a_volume, link))
    both = {header.case for header in server.headers}
    assert (len(first), len(both)) == (1, 2)


@pytest.mark.parametrize("quantization", list(Quantization))
def test_the_same_volume_gives_the_same_bits_again(a_codec, a_volume, quantization):
    server = HalvingServer(task=a_codec.task.identity)
    link = link_to(server, a_codec)
    link = dataclasses.replace(link, protection=dataclasses.replace(link.protection, quantization=quantization))
    first, second = (run(segment(a_volume, link, with_probabilities=True)) for _ in range(2))
    assert np.array_equal(first.probabilities, second.probabilities)


def test_only_the_profile_s_scales_of_the_image_leave(a_codec, a_volume):
    server = HalvingServer(task=a_codec.task.identity)
    run(segment(a_volume, link_to(server, a_codec, profile=Profile.MINIMAL)))
    assert {tuple(header.shapes[Stream.IMAGE]) for header in server.headers} == {("b",)}
    assert {header.streams for header in server.headers} == {(Stream.IMAGE,)}


def test_an_answer_to_another_request_is_refused(a_codec, a_volume):
    class Mixer(HalvingServer):
        def answer(self, bundle, model):
            header, streams = self.channel.open(bundle)
            return self.seal(header, streams[Stream.IMAGE], model=model, in_reply_to="0" * 32)

    server = Mixer(task=a_codec.task.identity)
    with pytest.raises(BundleError, match="another request"):
        run(segment(a_volume, link_to(server, a_codec)))


@pytest.mark.parametrize("model", [8, None])
def test_an_answer_of_another_model_is_refused(a_codec, a_volume, model):
    class OtherModel(HalvingServer):
        def answer(self, bundle, _):
            return super().answer(bundle, model)

    server = OtherModel(task=a_codec.task.identity)
    with pytest.raises(BundleError, match="another model"):
        run(segment(a_volume, link_to(server, a_codec)))


@pytest.mark.parametrize("times", [(1, 2, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2)])
def test_an_answer_of_other_shapes_than_masks_have_is_refused(a_codec, a_volume, times):
    class Larger(HalvingServer):
        def seal(self, header, latents, **changes):
            return super().seal(header, latents.map(lambda _, values: values.repeat(times)), **changes)

    with pytest.raises(BundleError, match="other shapes than the task's masks"):
        run(segment(a_volume, link_to(Larger(task=a_codec.task.identity), a_codec)))


def test_an_answer_under_another_link_key_is_an_error_not_noise(a_codec, a_volume):
    class OtherKey(HalvingServer):
        def seal(self, header, latents, **changes):
            self.channel = open_channel(bytes(32), a_codec.task.identity, "two-layer")
            return super().seal(header, latents, **changes)

    server = OtherKey(task=a_codec.task.identity)
    with pytest.raises(KeyMismatchError):
        run(segment(a_volume, link_to(server, a_codec, in_flight=1)))


def test_an_answer_under_another_inner_key_is_an_error_not_noise(a_codec, a_volume):
    class OtherInner(HalvingServer):
        def answer(self, bundle, model):
            header, streams = self.channel.open(bundle)
            other = InnerLayer(bytes(32), a_codec.task.identity).check()
            return self.seal(header, streams[Stream.IMAGE], model=model, inner_check=other)

    server = OtherInner(task=a_codec.task.identity)
    with pytest.raises(KeyMismatchError):
        run(segment(a_volume, link_to(server, a_codec)))


def test_a_server_that_fails_ends_the_case_and_what_is_under_way(a_codec, a_volume):
    class Failing(HalvingServer):
        both = threading.Barrier(2, timeout=5)

        def answer(self, bundle, model):
            first = read_header(bundle).slice_indices[0]
            if first <= 3:
                self.both.wait()
            if first == 0:
                raise ConnectionFailedError("The server cannot be reached.")
            self.aborted.wait(5)
            return super().answer(bundle, model)

    server = Failing(task=a_codec.task.identity)
    with pytest.raises(ConnectionFailedError):
        run(segment(a_volume, link_to(server, a_codec)))
    assert server.aborted.is_set()


class SlowServer(HalvingServer):
    """Answers only when it is told to stop."""

    def answer(self, bundle, model):
        self.aborted.wait(5)
        return super().answer(bundle, model)


def until_the_server_is_asked(steps):
    next(progress for progress in steps if progress.stage == "map")


def test_closing_the_generator_reaches_the_server(a_codec, a_volume):
    server = SlowServer(task=a_codec.task.identity)
    steps = segment(a_volume, link_to(server, a_codec))
    until_the_server_is_asked(steps)
    start = time.monotonic()
    steps.close()
    assert server.aborted.is_set()
    assert time.monotonic() - start < 1


def test_cancelling_between_batches_is_an_error_of_its_own(a_codec, a_volume):
    server = SlowServer(task=a_codec.task.identity)
    cancel = threading.Event()
    steps = segment(a_volume, link_to(server, a_codec), cancelled=cancel.is_set)
    until_the_server_is_asked(steps)
    cancel.set()
    with pytest.raises(CancelledError):
        run(steps)
    assert server.aborted.is_set()


def test_while_the_server_thinks_the_caller_s_window_stays_alive(a_codec, a_volume):
    class Thinking(HalvingServer):
        def answer(self, bundle, model):
            time.sleep(0.5)
            return super().answer(bundle, model)

    link = link_to(Thinking(task=a_codec.task.identity), a_codec)
    run(segment(a_volume, link))  # warm up: the first use of a network is slower
    moments = []
    run(segment(a_volume, link), lambda _: moments.append(time.monotonic()))
    assert max(np.diff(moments)) < 0.4


def test_progress_only_goes_forward_and_adds_up(a_codec, a_volume):
    server = HalvingServer(task=a_codec.task.identity)
    seen = []
    result = run(segment(a_volume, link_to(server, a_codec)), seen.append)
    assert [event.done for event in seen] == sorted(event.done for event in seen)
    assert seen[-1] == result.progress
    assert (seen[-1].done, seen[-1].total) == (SLICES, SLICES)
    assert list(dict.fromkeys(event.stage for event in seen)) == ["slice", "encode", "map", "decode", "restore"]
    assert seen[-1].bytes_sent > SLICES * 256 * 4
    assert set(seen[-1].seconds) == {"slice", "encode", "protect", "wait", "unprotect", "decode", "restore"}
    assert all(seconds >= 0 for seconds in seen[-1].seconds.values())


def test_a_stage_is_told_before_it_is_begun(a_codec, a_volume):
    told, while_decoding = [], []

    class Watched(SiteDecoder):
        def decode(self, latents, slices, profile):
            while_decoding.append(told[-1].stage)
            return super().decode(latents, slices, profile)

    class Watching(HalvingServer):
        def answer(self, bundle, model):
            time.sleep(0.1)  # so that the site waits for it
            return super().answer(bundle, model)

    link = link_to(Watching(task=a_codec.task.identity), a_codec, decoder=Watched(a_codec), in_flight=1)
    run(segment(a_volume, link), told.append)
    assert set(while_decoding) == {"decode"}
    assert (told[0].stage, told[0].total) == ("slice", 0)
    asked = [before.stage for before, after in itertools.pairwise(told) if after.bytes_sent > before.bytes_sent]
    assert asked == ["encode"] * len(while_decoding)
    assert told[-1].stage == "restore"


def test_provenance_says_what_made_it_and_nothing_secret(a_codec, a_volume):
    result = run(segment(a_volume, link_to(HalvingServer(task=a_codec.task.identity), a_codec)))
    assert result.provenance["task"] == a_codec.task.identity
    assert result.provenance["model"] == "7"
    assert result.provenance["codec"] == a_codec.fingerprint
    said = " ".join(result.provenance.values())
    assert LINK_KEY.hex() not in said
    assert INNER_KEY.hex() not in said


@pytest.fixture
def a_worker():
    with ThreadPoolExecutor(1) as worker:
        yield worker


def test_a_worker_gives_the_same_result(a_codec, a_volume, a_worker):
    link = link_to(HalvingServer(task=a_codec.task.identity), a_codec)
    alone = run(segment(a_volume, link, with_probabilities=True))
    with_worker = run(segment(a_volume, link, with_probabilities=True, worker=a_worker))
    assert np.array_equal(with_worker.labels.voxels, alone.labels.voxels)
    np.testing.assert_allclose(with_worker.probabilities, alone.probabilities, atol=1e-3)


def test_with_a_worker_the_caller_s_thread_computes_nothing(a_codec, a_volume, a_worker):
    threads = set()

    class Watched(SiteDecoder):
        def decode(self, latents, slices, profile):
            threads.add(threading.get_ident())
            time.sleep(0.3)
            return super().decode(latents, slices, profile)

    link = link_to(HalvingServer(task=a_codec.task.identity), a_codec, decoder=Watched(a_codec))
    moments = []
    run(segment(a_volume, link, worker=a_worker), lambda _: moments.append(time.monotonic()))
    assert threading.get_ident() not in threads
    assert len(threads) == 1
    assert max(np.diff(moments)) < 0.25


def with_memory_for(slices, task):
    """A decoder on a device that runs out of memory with more slices at once."""

    class Small(SiteDecoder):
        largest_seen = 0

        def decode(self, latents, images, profile):
            if len(images) > slices:
                raise torch.OutOfMemoryError("out of memory")
            self.largest_seen = max(self.largest_seen, len(images))
            return super().decode(latents, images, profile)

    return Small(task)


def test_too_large_a_batch_is_halved_until_it_fits_into_memory(a_codec, a_volume):
    server = HalvingServer(task=a_codec.task.identity)
    expected = run(segment(a_volume, link_to(server, a_codec, decoder=SiteDecoder(a_codec))))
    decoder = with_memory_for(2, a_codec)
    link = dataclasses.replace(link_to(server, a_codec, decoder=decoder), slices_per_bundle=SLICES)
    result = run(segment(a_volume, link))
    assert np.array_equal(result.labels.voxels, expected.labels.voxels)
    assert decoder.largest_seen == 2


def test_a_single_slice_that_does_not_fit_is_an_error_that_says_what_to_do(a_codec, a_volume):
    link = link_to(HalvingServer(task=a_codec.task.identity), a_codec, decoder=with_memory_for(0, a_codec))
    with pytest.raises(DeviceMemoryError, match="CPU"):
        run(segment(a_volume, link))
