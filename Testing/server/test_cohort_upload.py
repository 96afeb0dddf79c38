"""Export of a site's cases and their upload to the real application: what is inside, what is left out, going on."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK
import torch
from torch import nn

from ppcmi import cohort, cohort_export, consortium
from ppcmi.channel import open_channel
from ppcmi.client import ServerClient
from ppcmi.codec.codec import Codec
from ppcmi.cohort_file import CohortKey, CohortReader
from ppcmi.data_folders import find_cases
from ppcmi.errors import CodecError, ConnectionFailedError, SiteError
from ppcmi.export_settings import ExportSettings, usual_variants
from ppcmi.pipeline import run
from ppcmi.protection import protection_of
from ppcmi.quantization import Quantization
from ppcmi.scales import Profile, Stream
from ppcmi.site import SiteProfile
from ppcmi.slicing import slice_labels, slice_volume
from ppcmi.task_labels import read_labelled_case
from ppcmi.task_profile import Membership
from ppcmi_server.access import identity
from ppcmi_server.storage.keys import ServerKeys
from support.app_server import IMPATIENT, TASK, app_server
from support.gate import gate_to

NAMES = ("Jane Doe", "John Doe", "third")


@pytest.fixture(scope="module")
def codec():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        codec = Codec(TASK, "autoencoder")
        for values in filter(torch.is_floating_point, codec.network.state_dict().values()):
            nn.init.normal_(values, std=0.2)  # some are zeros before they are trained
        return codec


@pytest.fixture
def cases(tmp_path):
    """A data folder of three labelled cases and one without labels."""
    random = np.random.default_rng(1)
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        for name in (*NAMES, "unlabelled")[: 4 if part == "images" else 3]:
            voxels = random.integers(0, 3, (5, 64, 64)).astype(np.uint8)
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(tmp_path / part / f"{name}.nii.gz"))
    return tmp_path


@pytest.fixture
def a_site(tmp_path, codec):
    """A founder at the application: its profile, its part in the task, its protection, and the server's folder."""
    with app_server(tmp_path / "server") as server:
        with server.services.database.writing() as session:
            code = identity.add_site(session, "Hospital A")
        site = SiteProfile.enrol(tmp_path / "site", server.url, code)
        part = consortium.create(site, site.client(), TASK.name, "consortium", "two-layer")
        consortium.publish_codec(site.client(), part, codec)
        protection = protection_of(site, part, codec.fingerprint, Profile.COARSE, quantization=Quantization.F32)
        yield SimpleNamespace(profile=site, part=part, protection=protection, server=tmp_path / "server")


def export(a_site, codec, cases, name="a.ppcmi", **settings):
    """The file and the summary of an export."""
    path = cases / name
    steps = cohort_export.export_cohort(
        find_cases(cases), a_site.profile, a_site.part, codec=codec, protection=a_site.protection, path=path,
        settings=ExportSettings(**{"slices_per_bundle": 3, **settings}),
    )  # fmt: skip
    return path, run(steps)


def opened(path, a_site):
    """Every bundle's header and latents, as only the server can open them, still under the inner key."""
    reader = CohortReader(path)
    key = CohortKey.open(reader.header_bytes, ServerKeys.load(a_site.server).private_key)
    channel = open_channel(a_site.profile.link_key(), TASK.identity, "two-layer")
    return [channel.open(key.open_frame(index, frame.data)[1]) for index, frame in reader.frames()]


def test_cases_of_an_upload_that_was_given_up_do_not_count_as_uploaded(a_site, codec, cases):
    path, _ = export(a_site, codec, cases)
    steps = cohort.upload_cohort(path, a_site.profile, a_site.part, a_site.profile.client())
    next(steps)
    steps.close()
    (cohort_id,) = a_site.profile.cohorts()
    cohort.withdraw(a_site.profile, a_site.profile.client(), cohort_id)
    assert a_site.profile.uploaded_cases(TASK.name) == frozenset()


def test_the_same_cases_in_another_cohort_are_counted_until_one_is_withdrawn(a_site, codec, cases):
    profile, client = a_site.profile, a_site.profile.client()
    first, second = (
        run(cohort.upload_cohort(export(a_site, codec, cases, name)[0], profile, a_site.part, client)).cohort_id
        for name in ("a.ppcmi", "b.ppcmi")
    )
    (other,) = cohort.beside(profile, second)
    assert (other.cohort_id, other.cases_again, other.profile) == (first, len(NAMES), other.own_profile)
    cohort.withdraw(profile, client, first, NAMES[0])
    assert cohort.beside(profile, second)[0].cases_again == len(NAMES) - 1
    cohort.withdraw(profile, client, first)
    assert cohort.beside(profile, second) == []


class LosesTheAnswerToTheCommit(ServerClient):
    """The server commits; the line is cut before it says so."""

    def commit_cohort(self, *facts):
        super().commit_cohort(*facts)
        raise ConnectionFailedError("The server cannot be reached.")


def test_what_was_committed_is_known_at_the_site_though_the_answer_was_lost(a_site, codec, cases):
    path, _ = export(a_site, codec, cases)
    profile, task = a_site.profile, a_site.part.task.name
    address, token = profile.identity.server_url, (profile.folder / "token").read_text()
    with pytest.raises(ConnectionFailedError):
        run(cohort.upload_cohort(path, profile, a_site.part, LosesTheAnswerToTheCommit(address, token)))
    assert profile.uploaded_cases(task) == set(NAMES)
    (cohort_id,) = profile.cohorts()
    cohort.withdraw(profile, profile.client(), cohort_id, NAMES[0])
    assert profile.client().cohort(cohort_id)["cases"] == len(NAMES) - 1


def test_the_server_gets_the_codec_s_latents_under_the_inner_key(a_site, codec, cases):
    path, summary = export(a_site, codec, cases)
    assert (summary.cases, summary.slices) == (3, 15)
    first = find_cases(cases)[0]
    image, mask = read_labelled_case(first, TASK)
    images, grid = slice_volume(image, TASK)
    labels = slice_labels(mask, grid, TASK)
    pseudonym = a_site.profile.pseudonym_of(TASK.name, first.name)
    parts = [(header, streams) for header, streams in opened(path, a_site) if header.case == pseudonym]
    assert [header.slice_indices for header, _ in parts] == [(0, 1, 2), (3, 4)]
    for stream, plain in ((Stream.IMAGE, codec.encode_images(images)), (Stream.MASK, codec.encode_masks(labels))):
        for scale in Profile.COARSE.scales:
            keyed = torch.cat([streams[stream][scale] for _, streams in parts])
            assert not torch.allclose(keyed, plain[scale], atol=0.1)
            back = torch.cat([a_site.protection.inner.invert(streams[stream], stream)[scale] for _, streams in parts])
            torch.testing.assert_close(back, plain[scale], atol=1e-3, rtol=1e-3)


def test_augmented_encodings_come_besides_the_case_as_it_is(a_site, codec, cases):
    plain, _ = export(a_site, codec, cases)
    path, _ = export(a_site, codec, cases, "b.ppcmi", variants=2, seed=5)
    by_variant = {
        v: torch.cat([s[Stream.IMAGE]["b"] for h, s in opened(path, a_site) if h.variant == v]) for v in (0, 1, 2)
    }
    torch.testing.assert_close(
        by_variant[0], torch.cat([s[Stream.IMAGE]["b"] for _, s in opened(plain, a_site)]), atol=1e-3, rtol=1e-3
    )
    assert not torch.allclose(by_variant[0], by_variant[1], atol=0.05)
    assert not torch.allclose(by_variant[1], by_variant[2], atol=0.05)


def test_a_case_that_cannot_be_read_is_left_out_and_named(a_site, codec, cases):
    (cases / "images" / "John Doe.nii.gz").write_bytes(b"no image")
    path, summary = export(a_site, codec, cases)
    assert (summary.cases, list(summary.skipped)) == (2, ["John Doe"])
    assert len(CohortReader(path).whole_cases()) == 2
    for name in NAMES:
        (cases / "images" / f"{name}.nii.gz").write_bytes(b"no image")
    with pytest.raises(SiteError, match="could be read"):
        export(a_site, codec, cases, "none.ppcmi")
    assert not (cases / "none.ppcmi").exists()


def test_an_upload_that_was_cut_off_goes_on_where_it_was(a_site, codec, cases):
    path, _ = export(a_site, codec, cases)
    frames = [len(frame.data) for _, frame in CohortReader(path).frames()]
    client = a_site.profile.client()
    with gate_to(client.url) as gate:
        behind = ServerClient(gate.url, (a_site.profile.folder / "token").read_text().strip(), patience=IMPATIENT)
        gate.shut_after(sum(frames[:2]) + 8000)  # the requests' heads, and half of the third frame
        with pytest.raises(ConnectionFailedError):
            run(cohort.upload_cohort(path, a_site.profile, a_site.part, behind, in_flight=1))
    (cohort_id,) = a_site.profile.cohorts()
    assert client.cohort(cohort_id)["frames"] == [0, 1]
    assert a_site.profile.uploaded_cases(TASK.name) == set(NAMES)  # whether the server has all may not be known
    summary = run(cohort.upload_cohort(path, a_site.profile, a_site.part, client))
    assert (summary.bytes_sent, summary.bytes_again) == (sum(frames[2:]), 0)
    assert (summary.cases, summary.slices) == (3, 15)
    assert a_site.profile.uploaded_cases(TASK.name) == set(NAMES)
    assert run(cohort.upload_cohort(path, a_site.profile, a_site.part, client)).bytes_sent == 0


def test_a_case_and_then_the_cohort_are_taken_back(a_site, codec, cases):
    path, _ = export(a_site, codec, cases)
    client = a_site.profile.client()
    cohort_id = run(cohort.upload_cohort(path, a_site.profile, a_site.part, client)).cohort_id
    cohort.withdraw(a_site.profile, client, cohort_id, "Jane Doe")
    assert client.cohort(cohort_id)["cases"] == 2
    assert a_site.profile.cohorts()[cohort_id]["cases"] == 2
    assert "Jane Doe" in a_site.profile.uploaded_cases(TASK.name)  # a model may have seen it
    with pytest.raises(SiteError, match="no case"):
        cohort.withdraw(a_site.profile, client, cohort_id, "Jane Doe")
    cohort.withdraw(a_site.profile, client, cohort_id)
    assert client.cohort(cohort_id)["state"] == "withdrawn"
    with pytest.raises(SiteError, match="withdrawn"):
        run(cohort.upload_cohort(path, a_site.profile, a_site.part, client))


def test_the_published_codec_is_not_exported_without_its_skip(a_site, cases):
    published = Codec(TASK, "paper")
    with pytest.raises(CodecError, match="full"):
        export(a_site, published, cases)
    assert cohort_export.usual_profile(Membership("consortium", "two-layer", founder=True), published) is Profile.FULL


def test_what_nobody_chose_depends_on_how_many_cases_and_which_protocol(codec):
    assert (usual_variants(5), usual_variants(20), usual_variants(21)) == (
        4,
        4,
        2,
    )
    member = Membership("consortium", "two-layer", founder=True)
    assert cohort_export.usual_profile(member, codec) is Profile.COARSE
    assert cohort_export.usual_profile(dataclasses.replace(member, mode="paper"), codec) is Profile.PAPER


def test_nothing_is_exported_in_a_profile_in_which_the_codec_loses_a_structure(a_site, codec, cases):
    names = [label.name for label in TASK.labels]
    kept, lost = dict.fromkeys(names, 0.99), {**dict.fromkeys(names, 0.99), names[0]: 0.4}
    weak = {"cases": 2, "psnr_db": {}, "ssim": {}, "mask_dice": {"coarse": lost, "minimal": lost, "full": kept}}

    def export_in(profile, quality=weak):
        judged = Codec(TASK, "autoencoder", {"quality": quality})
        judged.load_state_dict(codec.state_dict())
        protection = protection_of(a_site.profile, a_site.part, judged.fingerprint, profile)
        path = cases / f"{profile}.ppcmi"
        steps = cohort_export.export_cohort(
            find_cases(cases), a_site.profile, a_site.part, codec=judged, protection=protection, path=path
        )
        return path, lambda: run(steps)

    path, steps = export_in(Profile.MINIMAL)
    with pytest.raises(CodecError, match=f"In profile minimal the codec keeps '{names[0]}' at a Dice of 0.400 only"):
        steps()
    assert not path.exists()
    for profile in (Profile.FULL, Profile.COARSE):  # the usual one was decided upon when the codec was published
        path, steps = export_in(profile)
        steps()
        assert path.exists()
    for unreadable in ({}, {"mask_dice": 3}, {**weak, "mask_dice": {"finest": kept}}, None):
        export_in(Profile.MINIMAL, unreadable)[1]()  # nothing is known of it, so nothing is refused
