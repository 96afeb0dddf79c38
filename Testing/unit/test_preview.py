"""The preview shows what others see, not what flatters us."""

import dataclasses

import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcmi.channel import open_channel
from ppcmi.cli.main import main
from ppcmi.codec.codec import Codec
from ppcmi.errors import UsageError
from ppcmi.klt.inner import InnerLayer
from ppcmi.latents import Latents
from ppcmi.mosaic import mosaic, side_by_side
from ppcmi.preview import best_view, nearest_slice, preview_slice
from ppcmi.protection import Protection
from ppcmi.quantization import Quantization
from ppcmi.scales import Profile, scale_shapes
from ppcmi.slicing import slice_grid
from ppcmi.task_profile import Membership
from support.private_link import TASK_FILE, small_task, untrained_codec
from support.relay import relay_for
from support.shapes import make_masks, make_slices
from support.volumes import a_task, geometries

SIZE = 128
TASK = a_task(size=(SIZE, SIZE))


@pytest.fixture(scope="module")
def codec():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Codec(TASK, "autoencoder")


@pytest.fixture(scope="module")
def a_slice():
    return make_slices(make_masks(1, seed=3, size=SIZE), seed=3)[0].numpy()


def protected(profile, mode="two-layer", inner_key=bytes(range(32)), link_key=bytes(range(32, 64))):
    return Protection(
        channel=open_channel(link_key, TASK.identity, mode),
        inner=None if mode == "paper" else InnerLayer(inner_key, TASK.identity),
        codec="0" * 32,
        profile=profile,
        quantization=Quantization.I8,
    )


def test_the_server_sees_anatomy_and_more_of_it_the_finer_the_profile(codec, a_slice):
    seen = {
        profile: preview_slice(a_slice, codec, protected(profile)).server.correlation
        for profile in (Profile.FULL, Profile.COARSE, Profile.MINIMAL)
    }
    published = preview_slice(a_slice, codec, protected(Profile.PAPER, mode="paper")).server.correlation
    assert seen[Profile.FULL] > 0.75
    assert seen[Profile.FULL] > seen[Profile.MINIMAL] + 0.1
    assert published > seen[Profile.MINIMAL] + 0.1
    assert seen[Profile.FULL] >= seen[Profile.COARSE] >= seen[Profile.MINIMAL] - 0.05


def test_the_servers_view_does_not_depend_on_the_inner_key(codec, a_slice):
    first, second = (
        preview_slice(a_slice, codec, protected(Profile.FULL, inner_key=bytes([key]) * 32)).server for key in (1, 2)
    )
    assert first.name == second.name
    assert first.correlation == pytest.approx(second.correlation, abs=0.01)
    assert np.abs(first.picture - second.picture).mean() < 0.02


def test_what_is_sent_shows_no_more_than_noise_does(codec, a_slice):
    """Of few positions noise looks like any picture now and then: means of many tries are compared.

    A nonce comes from the key and the content, so that every try needs a key of its own.
    """
    shapes = scale_shapes((SIZE, SIZE))
    tries = [preview_slice(a_slice, codec, protected(Profile.FULL, link_key=bytes([key]) * 32)) for key in range(20)]
    noise = [Latents({s: torch.randn(1, *shape) for s, shape in shapes.items()}) for _ in range(20)]
    sent = np.mean([preview.outsider.correlation for preview in tries])
    by_chance = np.mean([best_view(latents, a_slice[0]).correlation for latents in noise])
    assert sent < by_chance + 0.1
    assert tries[0].server.correlation > by_chance + 0.2
    assert max(strongest_tile(preview, Profile.FULL) for preview in tries) < 0.5


def test_the_published_protocol_sends_maps_that_show_the_anatomy(codec, a_slice):
    preview = preview_slice(a_slice, codec, protected(Profile.PAPER, mode="paper"))
    assert preview.outsider.correlation > 0.8
    assert strongest_tile(preview, Profile.PAPER) > 0.8


def strongest_tile(preview, profile):
    """The highest |r| of a tile of the finest scale in the mosaic with the image at its size."""
    channels, rows, columns = scale_shapes((SIZE, SIZE), profile.scales)[profile.scales[0]]
    small = preview.image.reshape(rows, SIZE // rows, columns, SIZE // columns).mean(axis=(1, 3))
    across = 8
    tiles = preview.leaving[: channels // across * rows].reshape(channels // across, rows, across, columns)
    tiles = tiles.transpose(0, 2, 1, 3).reshape(channels, -1)
    return max(abs(np.corrcoef(tile, small.ravel())[0, 1]) for tile in tiles if tile.std() > 0)


def test_pictures_are_gray_of_the_slices_size_and_numbers_are_the_profiles(codec, a_slice):
    preview = preview_slice(a_slice, codec, protected(Profile.COARSE))
    for picture in (preview.image, preview.server.picture, preview.outsider.picture):
        assert (picture.shape, picture.dtype) == ((SIZE, SIZE), np.float32)
    for picture in (preview.image, preview.leaving, preview.server.picture):
        assert picture.min() >= 0
        assert picture.max() <= 1
    assert preview.numbers == 128 * 64 + 256 * 16
    assert preview.numbers < preview.bytes < preview.numbers + 2000


def test_an_empty_slice_has_a_preview(codec):
    preview = preview_slice(np.zeros((1, SIZE, SIZE), np.float32), codec, protected(Profile.COARSE))
    assert preview.server.correlation == 0
    assert np.isfinite(preview.server.picture).all()


def test_with_neighbors_the_slice_itself_is_shown():
    task = a_task(size=(64, 64), neighbors=1)
    codec = Codec(task, "autoencoder")
    channels = np.stack([np.full((64, 64), value, np.float32) for value in (0.1, 0.5, 0.9)])
    protection = dataclasses.replace(
        protected(Profile.MINIMAL), channel=open_channel(bytes(32), task.identity, "two-layer"), inner=None
    )
    assert (preview_slice(channels, codec, protection).image == 0.5).all()


def test_a_mosaic_has_a_tile_a_channel():
    latents = Latents({s: torch.zeros(1, *shape) for s, shape in scale_shapes((64, 64)).items()})
    latents["s3"][0, 9] = 1.0  # second row, second column of tiles
    latents["b"][0, 0] = -1.0
    picture = mosaic(latents)
    bright = np.argwhere(picture > 0.9)
    assert (bright.min(axis=0), bright.max(axis=0)) == (pytest.approx([8, 8]), pytest.approx([15, 15]))
    assert picture[-1, -1] == 0.5
    assert picture.min() < 0.2


@settings(max_examples=40, deadline=None)
@given(geometry=geometries(), where=st.floats(0, 1, exclude_max=True))
def test_the_slice_at_a_point_is_found_in_any_orientation(geometry, where):
    grid = slice_grid(geometry, TASK.slicing)
    index = int(where * len(grid))
    marked = np.zeros(geometry.shape, np.uint8)
    grid.from_voxels(marked)[index] = 1
    k, j, i = np.argwhere(marked)[0]
    ras = geometry.ijk_to_ras @ np.array([i, j, k, 1.0])
    assert nearest_slice(grid, tuple(ras[:3])) == index
    assert 0 <= nearest_slice(grid, (1e6, 1e6, 1e6)) < len(grid)


def test_pictures_in_a_row_have_one_height():
    row = side_by_side([np.zeros((10, 20), np.float32), np.ones((40, 40), np.float32)], 20)
    assert row.shape == (20, 40 + 8 + 20)
    assert (row[:, :40] == 0).all()
    assert (row[:, 48:] == 255).all()


def test_by_command_the_preview_is_a_picture_and_nothing_leaves(tmp_path, capsys):
    task = small_task()
    codec = untrained_codec()
    with relay_for(TASK_FILE.read_text()) as relay:
        site = relay.enrol(tmp_path, "Hospital A")
        part = site.add_task(task, Membership("site", "two-layer", founder=True), bytes(range(32)))
        codec.save(part.codec_path)
    image = SimpleITK.GetImageFromArray(np.random.default_rng(1).random((6, 40, 50)).astype(np.float32))
    SimpleITK.WriteImage(image, str(tmp_path / "scan.nii.gz"))
    words = ["preview", "--task", task.name, str(tmp_path / "scan.nii.gz"), "-o", str(tmp_path / "p.png")]
    assert main([*words, "--site", str(site.folder), "--device", "cpu", "--slice", "5"]) == 0
    out = capsys.readouterr().out
    assert "6 slices leave as 768 protected numbers each" in out
    assert "without any key" in out
    assert SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "p.png"))).shape[0] == 512
    assert main([*words, "--site", str(site.folder), "--slice", "6"]) == UsageError.exit_code
