"""The numbers that a user agrees to are those that leave; the sentences are no better than the protection."""

import dataclasses
import json
import os
import stat

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcmi.bundle import pack
from ppcmi.bundle_header import packed_size
from ppcmi.consent_log import Answer, ConsentLog
from ppcmi.errors import CodecError, WriteError
from ppcmi.latents import Latents
from ppcmi.methods.shapes import item_shapes
from ppcmi.outgoing import Outgoing, Waiting
from ppcmi.pipeline import run, segment
from ppcmi.quantization import Quantization
from ppcmi.scales import MINIMIZED_CHANNELS, PRIVACY_PROFILES, SCALE_CHANNELS, Profile, Stream
from ppcmi.task_profile import Membership, TaskProfile
from ppcmi.volume import Volume
from ppcmi.what_leaves import (
    NO_CHECK,
    Leaving,
    NetworkLeaving,
    Sending,
    consent_text,
    export_leaves,
    export_of_slices,
    network_text,
    segmentation_leaves,
    what_goes,
    what_stays,
)
from support.bundles import make_header
from support.private_link import HalvingServer, link_to, small_task, untrained_codec
from support.volumes import a_geometry, a_task


@settings(max_examples=60, deadline=None)
@given(
    first=st.integers(0, 9990),
    slices=st.integers(1, 40),
    profile=st.sampled_from(PRIVACY_PROFILES),
    quantization=st.sampled_from(Quantization),
    streams=st.sampled_from([(Stream.IMAGE,), (Stream.IMAGE, Stream.MASK)]),
    channels=st.sampled_from([SCALE_CHANNELS, MINIMIZED_CHANNELS]),
    variant=st.integers(0, 120),
)
def test_a_bundles_size_is_known_before_it_is_made(first, slices, profile, quantization, streams, channels, variant):
    shapes = item_shapes(a_task(size=(32, 64)), profile, streams, channels)
    header = make_header(
        profile=profile, quantization=quantization, shapes=shapes, variant=variant,
        slice_indices=tuple(range(first, first + slices)),
    )  # fmt: skip
    latents = {
        stream: Latents({scale: torch.randn(slices, *shape) for scale, shape in own.items()})
        for stream, own in shapes.items()
    }
    assert packed_size(header) == len(pack(header, latents))


@pytest.fixture(scope="module")
def a_codec():
    return untrained_codec()


@pytest.mark.parametrize("profile", [Profile.FULL, Profile.COARSE, Profile.MINIMAL])
def test_a_segmentation_sends_as_many_bytes_as_the_user_was_told(a_codec, profile):
    volume = Volume(np.random.default_rng(1).random((11, 40, 50)), a_geometry((11, 40, 50)))
    link = link_to(HalvingServer(), a_codec, profile=profile)
    sent = run(segment(volume, link)).progress.bytes_sent
    sending = Sending(
        profile, quantization=Quantization.F32, slices_per_bundle=link.slices_per_bundle, codec=a_codec.preset
    )
    leaving = segmentation_leaves([volume.geometry], small_task(), sending)
    assert (leaving.slices, leaving.bytes, leaving.masks) == (11, sent, False)
    assert leaving.numbers_a_slice == {"full": 1792, "coarse": 768, "minimal": 256}[profile]


def test_slices_are_counted_along_the_tasks_axis():
    sagittal = a_task(axis="sagittal", size=(32, 32))
    leaving = segmentation_leaves([a_geometry((5, 40, 50)), a_geometry((5, 40, 7))], sagittal, Sending(Profile.MINIMAL))
    assert (leaving.cases, leaving.slices) == (2, 57)


def test_an_export_counts_masks_and_every_augmented_encoding():
    task, sending = a_task(size=(64, 64)), Sending(Profile.COARSE)
    once = export_of_slices([10], task, sending, variants=0)
    thrice = export_leaves([a_geometry((10, 8, 8))], task, sending, variants=2)
    images = segmentation_leaves([a_geometry((10, 8, 8))], task, sending)
    assert images.numbers_a_slice == 8 * 4 * 4 + 16 * 2 * 2
    assert once.numbers_a_slice == images.numbers_a_slice + 128 * 4 * 4 + 256 * 2 * 2
    assert once.bytes > images.bytes + 10 * (128 * 4 * 4 + 256 * 2 * 2) / 2
    assert thrice.times == 3
    assert 3 * once.bytes <= thrice.bytes <= 3 * once.bytes + 100


def test_what_a_minimized_codec_sends_is_less_by_the_channels_that_it_leaves_out():
    minimized, whole = (
        segmentation_leaves([a_geometry((10, 8, 8))], a_task(size=(64, 64)), Sending(Profile.COARSE, codec=preset))
        for preset in ("minimized", "autoencoder")
    )
    assert whole.numbers_a_slice == 16 * minimized.numbers_a_slice


def test_a_sites_codec_is_what_tells_how_much_leaves(tmp_path):
    membership = Membership("consortium", "two-layer", founder=True)
    part = TaskProfile(tmp_path, a_task(size=(64, 64)), membership)
    assert Sending.of(part, Profile.COARSE).codec == "minimized", "what is usual, before there is one"
    part.codec_path.write_bytes(untrained_codec().to_bytes())
    assert Sending.of(part, Profile.COARSE).codec == "autoencoder"
    part.codec_path.write_bytes(b"x" * 50)
    with pytest.raises(CodecError, match="damaged"):
        Sending.of(part, Profile.COARSE)


def text_of(*, masks=False, **changes):
    task, sending = a_task(size=(256, 256)), Sending(**{"profile": Profile.COARSE} | changes)
    if masks:
        return consent_text(export_of_slices([60, 40], task, sending, variants=2))
    return consent_text(segmentation_leaves([a_geometry((60, 256, 256))], task, sending))


def test_the_text_names_what_leaves_in_numbers():
    assert "60 slices leave as 3,072 protected numbers each, 95.9 kB in all (profile coarse, i4)" in text_of()
    export = text_of(masks=True)
    assert "100 slices of 2 cases" in export
    assert "each 3 times" in export
    assert "labels leave in the same form" in export
    assert "pseudonym" in export
    assert "no masks" not in export


@pytest.mark.parametrize(
    ("profile", "share"), [("full", "an eighth"), ("coarse", "a sixteenth"), ("minimal", "a thirty-second")]
)
def test_the_text_says_at_which_resolution_the_server_could_see(profile, share):
    assert share in text_of(profile=Profile(profile))


def test_the_text_tells_of_members_and_of_the_published_mode_where_they_matter():
    assert "colludes" in text_of()
    assert "colludes" not in text_of(scope="site")
    assert "do not use it with patients' data" in text_of(mode="paper", profile=Profile.PAPER)
    assert "no plain latents" not in text_of(mode="paper", profile=Profile.PAPER)


COMPARED = {
    "paper": ({"mode": "paper", "profile": Profile.PAPER}, {}),
    "privacy-sf": (
        {"mode": "plain", "profile": Profile.MINIMAL, "codec": "privacy-sf"},
        {"method": "privacy-sf"},
    ),
    "mixup": (
        {"mode": "plain", "profile": Profile.MIXUP, "codec": "mixup"},
        {"method": "mixup", "patch": 16},
    ),
}
"""Sending and task of what is there to compare with."""


def leaving_of(compared, *, masks=True):
    sending, changes = COMPARED[compared]
    task = dataclasses.replace(a_task(size=(64, 64)), **changes)
    if masks:
        return export_of_slices([60, 40], task, Sending(**sending), variants=1)
    return segmentation_leaves([a_geometry((16, 64, 64))], task, Sending(**sending))


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("compared", COMPARED)
def test_of_what_is_there_to_compare_with_nothing_is_called_protected_and_no_check_is_missed(compared, masks):
    text = consent_text(leaving_of(compared, masks=masks))
    assert "protected numbers" not in text
    assert "do not use it with patients' data" in text
    assert NO_CHECK in text
    assert "docs/methods.md" in NO_CHECK
    assert "No privacy check was made" not in text
    assert NO_CHECK not in text_of(masks=masks)


def test_the_text_says_for_each_method_what_its_server_gets():
    published, privacy_sf, mixup = (" ".join(what_goes(leaving_of(compared))) for compared in COMPARED)
    assert "100 slices of 2 cases leave as" in published
    assert "which the server turns back into plain latents, each 2 times (augmented)" in published
    assert "100 slices of 2 cases leave as 2,048 numbers each that no key protects" in privacy_sf
    # An image of 16 x 16 x 16 voxels, and as much for each of the mask's classes.
    numbers = 16**3 * (1 + a_task().classes)
    assert f"Up to 100 mixed patches of the images of 2 cases leave, as {numbers:,} numbers each" in mixup
    assert "each 2 times (mixed anew)" in mixup
    assert "slice" not in mixup
    assert "The labels leave mixed with others in the same way" in mixup


def test_of_mixed_patches_the_text_denies_no_pixels_and_tells_of_the_labels_in_an_export_alone():
    export, requests = (leaving_of("mixup", masks=masks) for masks in (True, False))
    for leaving in (export, requests):
        assert "pixels" not in what_stays(leaving).lower()
        assert "patches leave, nothing in them" in consent_text(leaving)
    assert what_stays(export).startswith("No DICOM tags")
    assert what_stays(requests).startswith("No masks, no DICOM tags")
    assert "and the labels of both" in consent_text(export)
    assert "and the labels of both" not in consent_text(requests)


def test_the_text_says_that_backups_outlast_a_withdrawal():
    backups = "Copies in the server's backups stay until those are deleted: ask its operator how long that is."
    assert f"until it is withdrawn. {backups}" in text_of(masks=True)
    assert "backups" not in text_of()
    assert backups in network_text(NetworkLeaving("a", cases=3, rounds=2, bytes=1000))


def test_the_text_tells_of_recognition_and_of_membership_beside_pictures():
    for mode, profile in (("two-layer", Profile.COARSE), ("paper", Profile.PAPER)):
        assert "recognize the same image, and perhaps the same patient" in text_of(mode=mode, profile=profile)
    assert "whether a case was in their training" in text_of(masks=True)
    assert "training" not in text_of()


@pytest.mark.parametrize("masks", [False, True])
def test_the_text_promises_nothing_that_is_not_so(masks):
    text = text_of(masks=masks).lower()
    for promise in ("anonym", "cannot be reconstructed", "impossible", "fully", "secure", "guarantee", "safe"):
        assert promise not in text


def a_leaving():
    return export_of_slices([3, 4], a_task(size=(32, 32)), Sending(Profile.COARSE), variants=1)


def test_the_log_keeps_what_was_agreed_to_in_order(tmp_path):
    log = ConsentLog(tmp_path)
    assert log.entries() == []
    log.record("export", a_leaving(), Answer.NO)
    log.record("export", a_leaving(), Answer.YES)
    entries = log.entries()
    assert [entry.answer for entry in entries] == ["no", "yes"]
    assert entries[0].what["bytes"] == a_leaving().bytes
    assert entries[0].time.endswith("+00:00")
    (path,) = tmp_path.iterdir()
    assert all(set(json.loads(line)) >= {"time", "task", "what", "text_version"} for line in path.open())
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_line_that_was_cut_off_costs_one_entry(tmp_path):
    log = ConsentLog(tmp_path)
    for answer in (Answer.YES, Answer.NO):
        log.record("export", a_leaving(), answer)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-30])
    log.record("export", a_leaving(), Answer.COMMAND)
    assert [entry.answer for entry in log.entries()] == ["yes", "command"]


def test_without_a_log_there_is_no_consent(tmp_path):
    with pytest.raises(WriteError, match="nothing is sent"):
        ConsentLog(tmp_path / "absent").record("export", a_leaving(), Answer.YES)


@pytest.mark.skipif(os.name != "posix", reason="the disk is made full by a POSIX limit")
def test_a_full_disk_that_takes_half_an_entry_is_no_consent(tmp_path):
    import resource

    log = ConsentLog(tmp_path)
    log.record("export", a_leaving(), Answer.YES)
    (path,) = tmp_path.iterdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40, before[1]))
    try:
        with pytest.raises(WriteError, match="nothing is sent"):
            log.record("export", a_leaving(), Answer.YES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    log.record("export", a_leaving(), Answer.NO)
    assert [entry.answer for entry in log.entries()] == ["yes", "no"]


def test_what_is_logged_names_no_case():
    assert set(a_leaving().document()) == {
        "profile", "mode", "scope", "quantization", "streams", "cases", "slices", "times", "numbers_a_slice", "bytes"
    }  # fmt: skip
    assert dataclasses.asdict(a_leaving())["cases"] == 2


def test_what_a_cohort_is_survives_until_its_upload_goes_on(tmp_path):
    task = small_task()
    sending = Sending(Profile.MINIMAL, quantization=Quantization.F16)
    leaving = export_of_slices([5, 7], task, sending, variants=2)
    assert Leaving.of_document(leaving.task, leaving.document()) == leaving
    outgoing = Outgoing(tmp_path)
    assert outgoing.waiting() == []
    path = outgoing.new_path()
    path.write_bytes(b"cohort")
    assert outgoing.waiting() == []  # nobody said what it is
    outgoing.keep(Waiting(path, leaving))
    assert outgoing.waiting() == [Waiting(path, leaving)]
    assert path.parent.stat().st_mode & 0o777 == 0o700
    outgoing.remove(path)
    assert outgoing.waiting() == []
    assert list(path.parent.iterdir()) == []
