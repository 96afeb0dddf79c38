"""PNG and TIFF files as Pillow and tifffile write them."""

import numpy as np
import pytest
import SimpleITK
import tifffile
from PIL import Image

from ppcmi.errors import GeometryError, ReadError
from ppcmi.reading import read_volume

PIXELS = np.arange(30, dtype=np.uint8).reshape(5, 6)
DOTS_AN_INCH_AT_A_TENTH_MM = 254


def check_refused(path, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        read_volume(path)
    assert path.name not in str(caught.value)


@pytest.mark.parametrize("ending", [".png", ".tif", ".tiff"])
def test_a_picture_that_says_how_large_its_pixels_are_is_a_volume_of_one_slice(tmp_path, ending):
    dots = (DOTS_AN_INCH_AT_A_TENTH_MM, DOTS_AN_INCH_AT_A_TENTH_MM / 2)
    Image.fromarray(PIXELS).save(tmp_path / f"x{ending}", dpi=dots)
    found = read_volume(tmp_path / f"x{ending}")
    np.testing.assert_array_equal(found.voxels[0], PIXELS)
    np.testing.assert_allclose(found.geometry.spacing_mm, (0.1, 0.2, 1.0), rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_tiff_of_either_byte_order_and_size_of_pointers(tmp_path, dtype, order, big):
    pixels = PIXELS.astype(dtype) * 3
    tifffile.imwrite(
        tmp_path / "x.tif", pixels, byteorder=order, bigtiff=big, resolution=(100, 50), resolutionunit="CENTIMETER"
    )
    found = read_volume(tmp_path / "x.tif")
    np.testing.assert_array_equal(found.voxels[0], pixels)
    np.testing.assert_allclose(found.geometry.spacing_mm, (0.1, 0.2, 1.0))


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_without_a_size_a_picture_is_refused(tmp_path, ending):
    Image.fromarray(PIXELS).save(tmp_path / f"x{ending}")
    check_refused(tmp_path / f"x{ending}", GeometryError, "does not say how large its pixels are")


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("dots", [72, 96, 150, 300, 600])
def test_the_resolution_of_a_screen_or_printer_is_no_size_in_the_patient(tmp_path, ending, dots):
    Image.fromarray(PIXELS).save(tmp_path / f"x{ending}", dpi=(dots, dots))
    check_refused(tmp_path / f"x{ending}", GeometryError, f"screen or printer shows it .{dots} dots an inch")


def test_a_ratio_without_a_unit_is_no_size(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", PIXELS, resolution=(10, 10), resolutionunit="NONE")
    check_refused(tmp_path / "x.tif", GeometryError, "does not say how large")
    image = SimpleITK.GetImageFromArray(PIXELS)
    image.SetSpacing((0.137, 0.137))  # ITK writes 7 pixels an unknown unit, 4 % off
    SimpleITK.WriteImage(image, str(tmp_path / "x.png"))
    check_refused(tmp_path / "x.png", GeometryError, "does not say how large")


def test_several_pages_have_no_known_distance(tmp_path):
    pages = np.stack([PIXELS] * 3)
    tifffile.imwrite(
        tmp_path / "x.tif", pages, photometric="minisblack", resolution=(100, 100), resolutionunit="CENTIMETER"
    )
    check_refused(tmp_path / "x.tif", ReadError, "several pages")


def test_white_as_zero_would_be_read_inverted(tmp_path):
    tifffile.imwrite(
        tmp_path / "x.tif", PIXELS, photometric="miniswhite", resolution=(100, 100), resolutionunit="CENTIMETER"
    )
    check_refused(tmp_path / "x.tif", ReadError, "counts white as zero")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_color_is_refused(tmp_path, mode):
    Image.fromarray(PIXELS).convert(mode).save(tmp_path / "x.png", dpi=(254, 254))
    check_refused(tmp_path / "x.png", ReadError, "several values")


def test_a_picture_that_is_stored_mirrored_is_refused(tmp_path):
    mirrored = (274, "H", 1, 2, True)
    tifffile.imwrite(
        tmp_path / "x.tif", PIXELS, resolution=(100, 100), resolutionunit="CENTIMETER", extratags=[mirrored]
    )
    check_refused(tmp_path / "x.tif", ReadError, "turned or mirrored")


def test_a_size_that_was_damaged_on_its_way_is_noticed(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "x.png", dpi=(254, 254))
    content = bytearray((tmp_path / "x.png").read_bytes())
    content[content.index(b"pHYs") + 6] ^= 1
    (tmp_path / "x.png").write_bytes(content)
    check_refused(tmp_path / "x.png", ReadError, "damaged")
