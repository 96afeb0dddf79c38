"""Mixup-Privacy: what leaves are mixtures, they can be taken apart at the site, and by the server as well."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from ppcmi.audit.attacks.mixtures import MixedPatches
from ppcmi.audit.attacks.mixup_separation import mean_mixtures, separate
from ppcmi.audit.attacks.mixup_unmixing import unmix_requests
from ppcmi.bundle import pack, unpack
from ppcmi.bundle_header import packed_size
from ppcmi.codec.codec import Codec
from ppcmi.codec.learned_cases import learned_from
from ppcmi.codec.slice_set import SliceSet
from ppcmi.errors import BundleError, CodecError, ReadError, SiteError, TaskError
from ppcmi.latents import Latents
from ppcmi.methods.mixup import site_unmixing
from ppcmi.methods.mixup.case import LabelledPatches, PatchCase, Unmixing, draw_references, mixed_with_several
from ppcmi.methods.mixup.export import PatchesToExport
from ppcmi.methods.mixup.mixing import latents_to_soft, mix, one_hot, soft_to_latents, unmix_naively
from ppcmi.methods.mixup.patches import PatchGrid
from ppcmi.methods.mixup.references import MOST_OF_A_CASE, MOST_REFERENCES, References, without_any
from ppcmi.methods.shapes import item_shapes, most_items
from ppcmi.scales import PRIVACY_PROFILES, Profile, Stream
from ppcmi.task import parse_task, task_to_json
from ppcmi.volume import Geometry, Volume
from ppcmi_server.umn.config import usual_config
from ppcmi_server.umn.model import TrainedUmn, UmnDescription, build_network, losses_of
from support.bundles import make_header
from support.codecs import tiny_task
from support.shapes import make_masks, make_slices

SIDE = 16
TASK = replace(tiny_task(), method="mixup", patch=SIDE)


def axial_geometry(slices, side):
    return Geometry((slices, side, side), np.diag([-1.0, -1.0, 1.0, 1.0]))


def some_patches(count, seed):
    """Pictures and labels ``(count, 16, 16, 16)``: two structures, alike within a stack and different between them."""
    labels = make_masks(count, seed, size=SIDE)[:, None].repeat(1, SIDE, 1, 1)
    return make_slices(labels[:, 0], seed)[:, 0][:, None].repeat(1, SIDE, 1, 1), labels


def test_a_task_says_how_large_its_patches_are_and_only_where_there_are_patches():
    text = task_to_json(TASK)
    assert parse_task(text) == parse_task(task_to_json(parse_task(text)))
    assert parse_task(text).patch == SIDE
    document = json.loads(text)
    with pytest.raises(TaskError, match="patch"):
        parse_task(json.dumps(document | {"patch": 15}))
    with pytest.raises(TaskError, match="mixup' only"):
        parse_task(json.dumps(document | {"method": "privacy-sf"}))
    assert "patch" not in task_to_json(tiny_task())


@pytest.mark.parametrize("shape", [(20, 40, 33), (5, 64, 64), (16, 16, 16), (1, 32, 32)])
def test_patches_cover_a_stack_and_blend_back_to_what_was_cut(shape):
    stack = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    grid = PatchGrid.over(shape, SIDE)
    patches = grid.cut(stack)
    assert patches.shape == (len(grid), SIDE, SIDE, SIDE)
    blended = grid.blend(torch.stack((1 - patches, patches), dim=1))
    assert blended.shape == (shape[0], 2, *shape[1:])
    assert torch.allclose(blended[:, 1], stack, atol=1e-5)


def test_where_no_patch_lies_there_is_background():
    grid = PatchGrid.over((16, 64, 64), SIDE, (slice(0, 16), slice(30, 40), slice(30, 40)))
    assert len(grid) == 1
    blended = grid.blend(torch.cat((torch.zeros(1, 1, 16, 16, 16), torch.ones(1, 1, 16, 16, 16)), dim=1))
    assert blended[:, 1, 35, 35].min() > 0.99
    assert blended[:, 0, 5, 5].min() == 1


def test_naive_unmixing_undoes_a_mixture_that_the_server_got_right():
    (_, target), (_, reference) = some_patches(3, 1), some_patches(3, 2)
    known, share = one_hot(reference, 3), torch.tensor([0.2, 0.5, 0.8])
    found = unmix_naively(mix(one_hot(target, 3), known, share), known, share)
    assert torch.allclose(found, one_hot(target, 3), atol=1e-5)
    assert torch.equal(latents_to_soft(soft_to_latents(found)), found)


def of_three_cases():
    """References of three cases of 5, 4 and 3 patches, whose pictures and labels are given as well."""
    cases = [some_patches(count, seed) for count, seed in ((5, 3), (4, 4), (3, 5))]
    references = without_any(SIDE)
    for name, (pictures, labels) in zip("abc", cases, strict=True):
        references = references.with_more(pictures, labels, name)
    return references, cases


def test_no_patch_is_mixed_with_one_of_its_own_case_whether_its_name_is_known_or_not():
    references, ((pictures, labels), *_) = of_three_cases()
    assert references.cases == (*"aaaaabbbbccc",)
    assert references.of_others(pictures[2:3]).cases == references.without("a").cases == (*"bbbbccc",)
    assert references.of_others(some_patches(2, 9)[0]).cases == references.cases
    chosen = draw_references(5, references.without("a"), 10, torch.Generator().manual_seed(1))
    assert [sorted(row) for row in chosen.tolist()] == [list(range(7))] * 5  # all, where more are wanted
    mixture = mixed_with_several(pictures, references, 7, torch.Generator().manual_seed(1))
    share = mixture.share[:, None, None, None]
    partners = (mixture.pictures - share * pictures.repeat_interleave(7, dim=0)) / (1 - share)
    nearest = torch.cdist(partners.flatten(1), references.pictures.flatten(1)).argmin(dim=1)
    assert set(nearest.tolist()) == set(range(5, 12))
    exported = LabelledPatches(pictures, labels, TASK, references, seed=1).protect(slice(0, 5), 0)
    assert exported[Stream.IMAGE]["x"].shape == (5, SIDE, SIDE, SIDE)
    soft = latents_to_soft(exported[Stream.MASK]["y"])
    assert torch.allclose(soft.sum(dim=1), torch.ones(5, SIDE, SIDE, SIDE))
    assert ((exported[Stream.IMAGE]["x"] - pictures).abs().flatten(1).amax(dim=1) > 0.05).all()
    with pytest.raises(SiteError, match="at least two"):
        LabelledPatches(pictures, labels, TASK, references.without("b", "c"), seed=1)


def test_no_case_takes_the_room_of_all_others_and_one_that_comes_again_takes_its_own():
    many, labels = torch.rand(70, 2, 2, 2), torch.ones(70, 2, 2, 2, dtype=torch.uint8)
    references = without_any(2).with_more(many, labels, "a")
    assert len(references) == MOST_OF_A_CASE
    references = references.with_more(1 - many, labels, "b").with_more(many / 2, labels, "c")
    assert len(references) == MOST_REFERENCES
    assert set(references.cases) == {"a", "b"}
    again = references.with_more(many[:3], labels[:3], "a")
    assert again.cases == ("b",) * MOST_OF_A_CASE + ("a",) * 3


def a_case(seed):
    labels = make_masks(1, seed)[0].repeat(SIDE, 1, 1)
    return SliceSet(make_slices(labels[:1], seed).repeat(SIDE, 1, 1, 1), labels, torch.zeros(SIDE).long())


def test_the_first_case_of_a_site_leaves_once_there_is_a_second(tmp_path):
    path = tmp_path / "references.safetensors"
    export = PatchesToExport(path, TASK)
    count = export.add(a_case(1), "a")
    assert export.ready() == {}
    with pytest.raises(SiteError, match="at least two together"):
        export.require_none_waiting()
    export.add(a_case(2), "b")
    ready = export.ready()
    assert {case: len(patches) for case, patches in ready.items()} == {"a": count, "b": count}
    assert [set(patches._references.cases) for patches in ready.values()] == [{"b"}, {"a"}]
    assert export.ready() == {}
    export.require_none_waiting()
    again = PatchesToExport(path, TASK)  # the next export finds the others at once
    again.add(a_case(1), "a")
    assert set(again.ready()["a"]._references.cases) == {"b"}
    with pytest.raises(ReadError, match="no structure"):
        again.add(replace(a_case(3), labels=0 * a_case(3).labels), "c")


def test_one_image_under_two_names_is_no_second_case(tmp_path):
    export = PatchesToExport(tmp_path / "references.safetensors", TASK)
    export.add(a_case(1), "a")
    export.add(a_case(1), "b")
    assert export.ready() == {}


def test_from_a_mixed_segmentation_the_server_reads_the_share_and_both_masks():
    """What docs/methods.md says: its values are 0, 1, a and 1 - a, and where they are tells the masks."""
    (_, target), (_, reference) = some_patches(1, 3), some_patches(1, 4)
    soft = mix(one_hot(target, 3), one_hot(reference, 3), torch.tensor([0.3]))
    thousandths = soft.mul(1000).round()
    assert torch.unique(thousandths).tolist() == [0, 300, 700, 1000]
    for share, mask in ((300, target), (700, reference)):
        assert torch.equal(((thousandths == share) | (thousandths == 1000)).float(), one_hot(mask, 3))


def test_references_are_patches_with_a_structure_and_lie_in_a_file_of_their_owner(tmp_path):
    pictures, labels = some_patches(4, 4)
    labels = labels * torch.tensor([1, 1, 0, 1])[:, None, None, None]
    references = without_any(SIDE).with_more(pictures[:2], labels[:2], "a").with_more(pictures[2:], labels[2:], "b")
    assert references.cases == ("a", "a", "b")
    path = tmp_path / "references.safetensors"
    references.save(path)
    assert path.stat().st_mode & 0o077 == 0
    again = References.load(path, SIDE)
    assert torch.allclose(again.pictures, references.pictures, atol=1 / 255)
    assert torch.equal(again.labels, references.labels)
    assert again.cases == references.cases
    assert len(References.load(tmp_path / "none", SIDE)) == 0
    tensors = {"pictures": references.pictures, "labels": references.labels}
    path.write_bytes(safetensors.torch.save(tensors, {"ppcmi": '{"format": "ppcmi-references/1"}'}))
    assert len(References.load(path, SIDE)) == 0  # of no patch is known which case it is of
    few = '{"format": "ppcmi-references/2", "cases": ["a"]}'
    for damaged in (b"x" * 50, safetensors.torch.save(tensors, {"ppcmi": few})):
        path.write_bytes(damaged)
        with pytest.raises(SiteError, match="damaged"):
            References.load(path, SIDE)


def test_a_bundle_of_mixtures_has_one_scale_a_stream_and_is_as_large_as_it_says():
    streams = {
        Stream.IMAGE: Latents({"x": torch.rand(2, SIDE, SIDE, SIDE)}),
        Stream.MASK: Latents({"y": torch.rand(2, 3 * SIDE, SIDE, SIDE)}),
    }
    header = make_header(
        profile=Profile.MIXUP, mode="plain", inner_check=None, shapes=item_shapes(TASK, Profile.MIXUP, streams),
    )  # fmt: skip
    packed = pack(header, streams)
    assert len(packed) == packed_size(header)
    _, opened = unpack(packed)
    assert {stream: latents.shapes for stream, latents in opened.items()} == {s: v.shapes for s, v in streams.items()}
    with pytest.raises(BundleError, match="shapes"):
        make_header(profile=Profile.MIXUP, shapes={Stream.IMAGE: {"y": (48, 16, 16)}})
    with pytest.raises(BundleError, match="shapes"):
        make_header(profile=Profile.COARSE, shapes={Stream.IMAGE: {"x": (16, 16, 16)}})


def test_mixup_is_nothing_that_a_user_chooses_among_privacy_profiles():
    assert [str(profile) for profile in PRIVACY_PROFILES] == ["paper", "full", "coarse", "minimal"]


def test_a_volume_goes_out_as_mixtures_and_comes_back_as_labels_on_its_grid():
    pictures, labels = some_patches(12, 5)
    references = without_any(SIDE).with_more(pictures, labels)
    volume = Volume(
        (make_slices(make_masks(1, 6), 6)[0].repeat(20, 1, 1) * 1000).short().numpy(), axial_geometry(20, 64)
    )
    generator = torch.Generator().manual_seed(1)
    case = PatchCase(volume, TASK, Unmixing(references, None, times=3), generator, with_probabilities=True)
    assert len(case) <= 3 / 10 * most_items(TASK, 20, (Stream.IMAGE,))
    stack = Volume(make_masks(1, 6)[0].repeat(20, 1, 1).numpy(), volume.geometry)
    truth = PatchGrid.over((20, 64, 64), SIDE).cut(torch.from_numpy(stack.voxels)).repeat_interleave(3, dim=0)
    for start in range(0, len(case), 16):
        where = slice(start, min(start + 16, len(case)))
        case.protect(where)
        known, share = one_hot(case._mixture.references[where], 3), case._mixture.share[where]
        case.recover(Latents({"y": soft_to_latents(mix(one_hot(truth[where], 3), known, share))}), where)
    found, probabilities = case.finish()
    assert found.geometry == volume.geometry
    assert probabilities.shape == (3, *volume.voxels.shape)
    assert (found.voxels == stack.voxels).mean() > 0.999


def test_without_references_nothing_is_sent():
    volume = Volume(torch.ones(4, 64, 64).short().numpy(), axial_geometry(4, 64))
    with pytest.raises(SiteError, match="export labelled cases first"):
        PatchCase(volume, TASK, Unmixing(without_any(SIDE), None), torch.Generator(), with_probabilities=False)


def test_the_sites_unmixing_belongs_to_its_codec(tmp_path):
    codec = Codec(TASK, "mixup")
    path = tmp_path / "unmixing.safetensors"
    assert site_unmixing.load(path, codec) is site_unmixing.unmixing_of(codec)
    site_unmixing.save(site_unmixing.unmixing_of(codec), codec, path, ["0123"])
    site_unmixing.load(path, codec)
    assert learned_from(path) == {"0123"}
    with pytest.raises(CodecError, match="another codec"):
        site_unmixing.load(path, Codec(TASK, "mixup"))
    assert Codec.from_bytes(codec.to_bytes()).fingerprint == codec.fingerprint
    with pytest.raises(CodecError, match="nothing is encoded"):
        codec.encode_images(torch.zeros(1, 1, 64, 64))


def test_the_servers_network_gives_probabilities_of_every_class_and_learns_soft_targets(tmp_path):
    shapes = item_shapes(TASK, Profile.MIXUP, Stream)
    description = UmnDescription("mixup", Profile.MIXUP, shapes[Stream.IMAGE], shapes[Stream.MASK], ("c",))
    umn = TrainedUmn(description, build_network(description))
    answer = umn.map(Latents({"x": torch.rand(3, SIDE, SIDE, SIDE)}), "c")
    assert torch.allclose(latents_to_soft(answer["y"]).sum(dim=1), torch.ones(3, SIDE, SIDE, SIDE), atol=1e-5)
    soft = {
        "y": soft_to_latents(mix(one_hot(some_patches(3, 1)[1], 3), one_hot(some_patches(3, 2)[1], 3), torch.rand(3)))
    }
    losses = losses_of("mixup")
    assert (losses(soft, soft) < losses({"y": answer["y"]}, soft)).all()
    umn.save(tmp_path / "model")
    assert TrainedUmn.load(tmp_path / "model").description == umn.description
    assert umn.flops() > 0
    assert usual_config("mixup", Profile.MIXUP).profile is Profile.MIXUP


def test_a_server_takes_mixtures_apart_because_references_come_again():
    """The upper bound: without noise, and many more mixtures than patches and references, nothing stays hidden."""
    generator = torch.Generator().manual_seed(3)
    pictures = torch.rand(28, 8, 8, 8, generator=generator)
    targets, labels = pictures[:20], torch.ones(8, 8, 8, 8, dtype=torch.uint8)
    references = without_any(8).with_more(pictures[20:], labels)
    mixture = mixed_with_several(targets, references, 6, generator)
    mixed = MixedPatches(mixture.pictures.reshape(20, 6, 8, 8, 8), pictures.mean(dim=0), references=8)

    def error(found):
        return float((found - targets).square().mean())

    one_mixture, mean = error(mixed.pictures[:, 0]), error(mean_mixtures(mixed))
    assert mean < one_mixture
    assert error(unmix_requests(mixed, seed=1)) < 0.1 * mean
    assert separate(mixed, seed=1).shape == targets.shape
