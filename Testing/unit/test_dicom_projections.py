"""Single pictures as volumes of one slice: projections and ultrasound, with the spacing that is known, or refused."""

import numpy as np
import pytest
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    JPEGBaseline8Bit,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from ppcmi.errors import GeometryError, PpcmiError, ReadError
from ppcmi.reading import read_image
from ppcmi.sources import find_sources
from ppcmi.volume import lps_from_ras
from support.dicom_pictures import a_picture, a_region, regions, save

GRAY = np.random.default_rng(0).integers(0, 256, (40, 60)).astype(np.uint8)
COLOR = np.stack([GRAY] * 3, axis=-1)
WHOLE = (0, 59, 0, 39)


def image_of(dataset, folder):
    (source,) = find_sources(save(dataset, folder / "x.dcm")).images
    return read_image(source)


def ultrasound(pixels=GRAY, **attributes):
    return a_picture(pixels, UltrasoundImageStorage, **attributes)


def spacing_of(image):
    return image.volume.geometry.spacing_mm[:2].tolist()


@pytest.mark.parametrize("kind", [ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation])
def test_a_projection_is_one_slice_with_its_spacing(tmp_path, kind):
    image = image_of(a_picture(GRAY, kind, PixelSpacing=[0.2, 0.1]), tmp_path)
    np.testing.assert_array_equal(image.volume.voxels[0], GRAY)
    np.testing.assert_allclose(lps_from_ras @ image.volume.geometry.ijk_to_ras, np.diag([0.1, 0.2, 1, 1]))
    assert not image.warnings


def test_spacing_at_the_detector_is_warned_of(tmp_path):
    dataset = a_picture(GRAY, ComputedRadiographyImageStorage, PixelSpacing=None, ImagerPixelSpacing=[0.2, 0.1])
    image = image_of(dataset, tmp_path)
    assert spacing_of(image) == [0.1, 0.2]
    (warning,) = image.warnings
    assert "at the detector" in warning


def test_a_region_of_tissue_says_how_large_the_pixels_are(tmp_path):
    tissue, spectrum = a_region((5, 50, 5, 30), 0.3), a_region((0, 59, 31, 39), 1.0, kind=3, data=3, units=4)
    image = image_of(ultrasound(SequenceOfUltrasoundRegions=regions(spectrum, tissue)), tmp_path)
    np.testing.assert_allclose(spacing_of(image), [0.3, 0.6])
    np.testing.assert_array_equal(image.volume.voxels[0], GRAY)
    assert any("does not say whether text is burnt into it" in warning for warning in image.warnings)


def test_a_stated_spacing_will_do_for_ultrasound(tmp_path):
    image = image_of(ultrasound(PixelSpacing=[0.2, 0.1], BurnedInAnnotation="NO"), tmp_path)
    assert spacing_of(image) == [0.1, 0.2]
    assert not image.warnings


@pytest.mark.parametrize(
    ("dataset", "error", "sentence"),
    [
        (ultrasound(), GeometryError, "not calibrated"),
        (a_picture(GRAY, ComputedRadiographyImageStorage, PixelSpacing=None), GeometryError, "how large its pixels"),
        (ultrasound(SequenceOfUltrasoundRegions=regions(a_region(WHOLE, 0.3, units=0))), GeometryError, "centimetres"),
        (ultrasound(SequenceOfUltrasoundRegions=regions(a_region(WHOLE, 0.0))), GeometryError, "not calibrated in"),
        (ultrasound(SequenceOfUltrasoundRegions=regions(a_region(WHOLE, 0.3, kind=3, data=3))), ReadError, "spectrum"),
        (
            ultrasound(SequenceOfUltrasoundRegions=regions(a_region((0, 29, 0, 39), 1), a_region((30, 59, 0, 39), 1))),
            ReadError, "several pictures beside each other",
        ),
        (
            ultrasound(PixelSpacing=[0.1, 0.1], SequenceOfUltrasoundRegions=regions(a_region(WHOLE, 0.3))),
            GeometryError, "two different things",
        ),
        (
            a_picture(GRAY, UltrasoundMultiFrameImageStorage, NumberOfFrames=3, PixelSpacing=[1, 1]),
            ReadError, "film, whose frames do not say where they lie",
        ),
        (a_picture(GRAY, CTImageStorage, ImagePositionPatient=None), ReadError, "do not say where they lie"),
    ],
)  # fmt: skip
def test_a_picture_of_unknown_size_or_place_is_refused(tmp_path, dataset, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        image_of(dataset, tmp_path)
    assert str(tmp_path) not in str(caught.value)


def test_gray_that_is_stored_as_color_is_gray_with_colored_marks_around_it(tmp_path):
    pixels = COLOR.copy()
    pixels[:4, :10] = (255, 128, 0)
    dataset = ultrasound(pixels, SequenceOfUltrasoundRegions=regions(a_region((0, 59, 5, 39), 0.3)))
    image = image_of(dataset, tmp_path)
    np.testing.assert_array_equal(image.volume.voxels[0, 5:], GRAY[5:])


def test_color_where_there_is_tissue_is_refused(tmp_path):
    pixels = COLOR.copy()
    pixels[20, 20] = (255, 0, 0)
    dataset = ultrasound(pixels, SequenceOfUltrasoundRegions=regions(a_region((0, 59, 5, 39), 0.3)))
    with pytest.raises(ReadError, match="in color"):
        image_of(dataset, tmp_path)


@pytest.mark.parametrize("interpretation", ["YBR_FULL_422", "YBR_FULL"])
def test_gray_in_a_colored_jpeg_is_gray(tmp_path, interpretation):
    pillow = pytest.importorskip("PIL.Image")
    from io import BytesIO

    from pydicom.encaps import encapsulate

    smooth = np.add.outer(np.arange(40) * 3, np.arange(60) * 2).astype(np.uint8)
    stream = BytesIO()
    sampling = {"YBR_FULL_422": 1, "YBR_FULL": 0}[interpretation]
    pillow.fromarray(np.stack([smooth] * 3, axis=-1)).save(stream, "JPEG", quality=98, subsampling=sampling)
    dataset = ultrasound(COLOR, PhotometricInterpretation=interpretation, PixelSpacing=[0.1, 0.1])
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    found = image_of(dataset, tmp_path).volume.voxels[0].astype(int)
    assert np.abs(found - smooth).max() <= 3


def test_pictures_of_one_series_are_images_of_their_own_and_fail_alone(tmp_path):
    for number in range(4):
        spacing = [0.1, 0.1] if number else None
        dataset = ultrasound(GRAY // (number + 1), PixelSpacing=spacing, SeriesInstanceUID="1.2.3", SeriesNumber=1)
        save(dataset, tmp_path / f"still{number}.dcm")
    found = find_sources(tmp_path).images
    assert [source.name for source in found] == ["still0", "still1", "still2", "still3"]
    with pytest.raises(PpcmiError, match="not calibrated"):
        read_image(found[0])
    for number in range(1, 4):
        np.testing.assert_array_equal(read_image(found[number]).volume.voxels[0], GRAY // (number + 1))
