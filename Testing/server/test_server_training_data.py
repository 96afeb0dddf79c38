"""What the network learns from: the latents that sites sent, without the link layer, as their inner keys leave them."""

import pytest
import torch

from ppcmi.bundle import pack, unpack
from ppcmi.errors import ServerRefusedError, TrainingError
from ppcmi.klt.inner import InnerLayer
from ppcmi.latents import Latents
from ppcmi.protection import Protection
from ppcmi.scales import MINIMIZED_CHANNELS, SCALE_CHANNELS, Profile, Stream
from ppcmi_server import tasks
from ppcmi_server.database.schema import Cohort
from ppcmi_server.training import jobs
from ppcmi_server.training.training_data import load_dataset, stored_cohorts
from support.app_server import TASK, app_server, make_latents

CODECS = ("a" * 32, "b" * 32)
KEYS = (b"a" * 32, b"b" * 32)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two sites with a codec and an inner key of their own; the first one sent case 1 twice, once with all scales."""
    folder = tmp_path_factory.mktemp("data")
    with app_server(folder / "server") as server:
        sites = server.add_consortium("Hospital A", "Hospital B", scope="site")
        for site, codec, key in zip(sites, CODECS, KEYS, strict=True):
            site.upload(site.write_cohort(folder / f"{codec}.ppcmi", [1, 2], codec=codec, inner_key=key))
        full = {"codec": CODECS[0], "inner_key": KEYS[0], "profile": Profile.FULL}
        sites[0].upload(sites[0].write_cohort(folder / "full.ppcmi", [1], slices=3, **full))
        yield server, sites


@pytest.fixture(scope="module")
def server(world):
    return world[0]


def load(server, profile):
    with server.services.database.writing() as session:
        task = tasks.find_task(session, TASK.name)
        job, _ = jobs.queue_job(session, task, jobs.TrainingRequest(profile=profile))
        stored = stored_cohorts(session, jobs.cohorts_of(session, job))
        checks = jobs.codec_checks([part.cohort for part in stored])
        jobs.request_stop(session, job.id)
        chosen = jobs.config_of(job).profile
    scratch = server.services.config.folder / "jobs"
    dataset = load_dataset(server.services, TASK, chosen, stored, scratch=scratch).dataset
    return dataset.select(torch.arange(len(dataset))), checks


def test_latents_arrive_as_the_inner_key_left_them_and_cases_stay_together(server):
    dataset, checks = load(server, Profile.COARSE)
    assert len(dataset) == 2 * (2 * 2 * 4) + 2 * 3
    assert checks == {codec: InnerLayer(key, TASK.identity).check() for codec, key in zip(CODECS, KEYS, strict=True)}
    assert set(dataset.codecs) == set(CODECS)
    assert len(torch.unique(dataset.case)) == 4  # case 1 of one site is not case 1 of the other
    seen = 0
    for codec, key in zip(CODECS, KEYS, strict=True):
        inner = InnerLayer(key, TASK.identity)
        for number in (1, 2):
            sent = {stream: inner.apply(make_latents(4, 10 * number + i), stream) for i, stream in enumerate(Stream)}
            where = torch.nonzero(
                (dataset.member == dataset.codecs.index(codec))
                & (dataset.images["b"].float() - sent[Stream.IMAGE]["b"][0]).abs().amax((1, 2, 3)).lt(0.01)
            )[:, 0]
            assert [int(dataset.variant[first]) for first in where] == [0, 1]
            for first in where:
                own = dataset.select(torch.arange(int(first), int(first) + 4))
                assert len(torch.unique(own.case)) == 1
                for scale in Profile.COARSE.scales:
                    for got, stream in ((own.images, Stream.IMAGE), (own.masks, Stream.MASK)):
                        assert got[scale].dtype == torch.float16
                        torch.testing.assert_close(got[scale].float(), sent[stream][scale], atol=5e-3, rtol=2e-3)
                seen += 1
    assert seen == 8


def test_cohorts_with_more_scales_than_the_profile_serve_it_and_others_do_not(server):
    dataset, _ = load(server, Profile.MINIMAL)
    assert tuple(dataset.images) == ("b",)
    dataset, _ = load(server, Profile.FULL)
    assert (tuple(dataset.images), len(dataset)) == (("s3", "s4", "b"), 6)


def test_latents_of_a_minimized_codec_are_trained_on_as_they_are_and_beside_wider_ones_with_zeros(tmp_path):
    with app_server(tmp_path / "server") as server:
        first, second = server.add_consortium("Hospital A", "Hospital B", scope="site")
        own = {"codec": CODECS[0], "inner_key": KEYS[0], "image_channels": (MINIMIZED_CHANNELS,)}
        first.upload(first.write_cohort(tmp_path / "few.ppcmi", [1], **own))
        alone, _ = load(server, Profile.COARSE)
        assert {s: v.shape[1] for s, v in alone.images.items()} == {"s4": 8, "b": 16}
        assert {s: v.shape[1] for s, v in alone.masks.items()} == {"s4": 128, "b": 256}
        second.upload(second.write_cohort(tmp_path / "many.ppcmi", [1], codec=CODECS[1], inner_key=KEYS[1]))
        both, _ = load(server, Profile.COARSE)
    few = both.select(torch.nonzero(both.member == both.codecs.index(CODECS[0]))[:, 0])
    for scale, values in few.images.items():
        assert values.shape[1] == SCALE_CHANNELS[scale]
        torch.testing.assert_close(values[:, : MINIMIZED_CHANNELS[scale]], alone.images[scale])
        assert not values[:, MINIMIZED_CHANNELS[scale] :].any()


def test_a_cohort_whose_bundles_differ_in_their_channels_is_not_trained_on(tmp_path):
    with app_server(tmp_path / "server") as server:
        (site,) = server.add_consortium("Hospital A")
        mixed = (MINIMIZED_CHANNELS, SCALE_CHANNELS)
        cohort_id = site.upload(site.write_cohort(tmp_path / "mixed.ppcmi", [1, 2], image_channels=mixed))
        with pytest.raises(TrainingError, match=f"{cohort_id} differ in their channels"):
            load(server, Profile.COARSE)


def test_one_codec_under_two_inner_keys_is_not_trained_on(world, tmp_path):
    server, (_, site) = world
    other = site.write_cohort(tmp_path / "other.ppcmi", [5], codec=CODECS[0], inner_key=KEYS[1])
    cohort_id = site.upload(other)
    with pytest.raises(TrainingError, match="different inner keys"):
        load(server, Profile.COARSE)
    with server.services.database.reading() as session:
        assert session.get_one(Cohort, cohort_id).state == "whole"
    site.client.withdraw(cohort_id)
    load(server, Profile.COARSE)


def test_bytes_that_are_missing_are_noticed(server):
    with server.services.database.writing() as session:
        cohort = next(iter(session.query(Cohort).where(Cohort.state == "whole")))
        (stored,) = stored_cohorts(session, [cohort])
    name = stored.frames[0].blob
    kept = server.services.blobs.read(name)
    server.services.blobs.delete(name)
    try:
        with pytest.raises(FileNotFoundError):
            load_dataset(server.services, TASK, Profile.MINIMAL, [stored], scratch=server.services.config.folder)
    finally:
        server.services.blobs.write(name, kept)


def test_in_paper_mode_the_server_holds_plain_latents_and_takes_no_others(tmp_path):
    paper = {"inner_key": None, "profile": Profile.PAPER}
    with app_server(tmp_path / "server") as server:
        (site,) = server.add_consortium("Hospital A", inner_key=None)
        site.upload(site.write_cohort(tmp_path / "paper.ppcmi", [1], **paper))
        keyed = site.write_cohort(tmp_path / "keyed.ppcmi", [2])
        with pytest.raises(ServerRefusedError, match="another mode"):
            site.upload(keyed)
        dataset, checks = load(server, None)
        assert list(checks.values()) == [None]
        for i, got in enumerate((dataset.images, dataset.masks)):
            plain = make_latents(4, 10 + i, Profile.PAPER)
            for scale in plain:
                torch.testing.assert_close(got[scale][:4].float(), plain[scale], atol=5e-3, rtol=2e-3)


def overflowing(bundle):
    """The bundle with finite values that the link layer's sums make infinite."""
    header, streams = unpack(bundle)
    signs = torch.Generator().manual_seed(1)
    return pack(
        header,
        {
            s: v.map(lambda _, x: 3e38 * (2.0 * torch.randint(2, x.shape, generator=signs) - 1))
            for s, v in streams.items()
        },
    )


@pytest.fixture
def forged(monkeypatch):
    """Cohorts are written with such bundles."""
    protect = Protection.protect
    monkeypatch.setattr(Protection, "protect", lambda *arguments: overflowing(protect(*arguments)))


@pytest.mark.usefixtures("forged")
def test_values_that_are_finite_only_under_the_link_layer_are_refused(server, world, tmp_path):
    site = world[1][0]
    own = {"codec": CODECS[0], "inner_key": KEYS[0]}
    with pytest.raises(ServerRefusedError, match="too large for latents") as caught:
        site.upload(site.write_cohort(tmp_path / "huge.ppcmi", [9], **own))
    assert caught.value.status == 422


@pytest.mark.usefixtures("forged")
def test_one_that_was_stored_before_they_were_refused_is_named(tmp_path, monkeypatch):
    with app_server(tmp_path / "server") as server:
        (site,) = server.add_consortium("Hospital A")
        with monkeypatch.context() as lenient:
            lenient.setattr(Latents, "finite", True)
            cohort_id = site.upload(site.write_cohort(tmp_path / "huge.ppcmi", [1]))
        with pytest.raises(TrainingError, match=f"Cohort {cohort_id} holds values that are not finite"):
            load(server, Profile.COARSE)
