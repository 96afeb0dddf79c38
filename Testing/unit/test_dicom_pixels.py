"""Stored values to real ones: bits, signs, scales, padding, inversion, lookup tables, encodings."""

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from ppcmi.dicom import inflating
from ppcmi.dicom.values import LARGEST_FRAME
from ppcmi.errors import ReadError
from ppcmi.reading import read_image, read_volume
from ppcmi.sources import find_sources
from support.dicom_pictures import a_picture, save

RNG = np.random.default_rng(0)
SOME = RNG.integers(0, 4096, (9, 7)).astype(np.uint16)
KINDS = [SOME, SOME.astype(np.int16) - 2048, np.arange(63, dtype=np.uint8).reshape(9, 7)]


def values_of(dataset, folder):
    return read_volume(save(dataset, folder / "x.dcm")).voxels[0]


@settings(max_examples=80, deadline=None)
@given(st.sampled_from([8, 16, 32]), st.data())
def test_stored_values_of_any_bits_and_sign_are_found_among_the_others(tmp_path_factory, allocated, data):
    stored = data.draw(st.integers(1, allocated))
    high = data.draw(st.integers(stored - 1, allocated - 1))
    signed = data.draw(st.booleans())
    low, top = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if signed else (0, 2**stored - 1)
    values = data.draw(st.lists(st.integers(low, top), min_size=12, max_size=12))
    other_bits = data.draw(st.lists(st.integers(0, 2**allocated - 1), min_size=12, max_size=12))
    mask = ((1 << stored) - 1) << (high + 1 - stored)
    words = [
        ((value << (high + 1 - stored)) & mask) | (other & ~mask)
        for value, other in zip(values, other_bits, strict=True)
    ]
    pixels = np.array(words, dtype=f"u{allocated // 8}").reshape(3, 4)
    dataset = a_picture(pixels, BitsStored=stored, HighBit=high, PixelRepresentation=int(signed))
    found = values_of(dataset, tmp_path_factory.mktemp("bits"))
    np.testing.assert_array_equal(found, np.reshape(values, (3, 4)))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 16), st.booleans(),
    st.sampled_from(["1", "2", "-1", "0.5", "0.001", "3.7"]), st.sampled_from(["0", "-1024", "40000", "0.25"]),
)  # fmt: skip
def test_real_values_are_those_of_slope_and_intercept(tmp_path_factory, bits, signed, slope, intercept):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    pixels = RNG.integers(low, high, (8, 5)).astype(np.int16 if signed else np.uint16)
    dataset = a_picture(pixels, BitsStored=bits, HighBit=bits - 1, RescaleSlope=slope, RescaleIntercept=intercept)
    found = values_of(dataset, tmp_path_factory.mktemp("scale"))
    expected = pixels.astype(np.float64) * float(slope) + float(intercept)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    if float(slope).is_integer() and float(intercept).is_integer():
        assert np.issubdtype(found.dtype, np.integer)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("syntax", "compressed"),
    [
        (ImplicitVRLittleEndian, False), (ExplicitVRBigEndian, False), (DeflatedExplicitVRLittleEndian, False),
        (RLELossless, True), (JPEGLSLossless, True),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "pixels", [SOME, SOME.astype(np.int16) - 2048, np.arange(63, dtype=np.uint8).reshape(9, 7)], ids=lambda p: p.dtype
)
def test_the_encoding_makes_no_difference(tmp_path, syntax, compressed, pixels):
    if syntax == JPEGLSLossless and pixels.dtype.kind == "i":
        pytest.skip("its encoder takes no signed values; the samples have it")
    dataset = a_picture(pixels)
    expected = values_of(dataset, tmp_path)
    if compressed:
        dataset.compress(syntax)
    elif syntax == ExplicitVRBigEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes() + bytes(pixels.nbytes % 2)
        dataset.set_original_encoding(False, False)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
    found = values_of(dataset, tmp_path)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found, pixels)


def test_bright_is_bright_whatever_the_display_inverts(tmp_path):
    dataset = a_picture(
        SOME, ComputedRadiographyImageStorage, BitsStored=12, HighBit=11, PhotometricInterpretation="MONOCHROME1"
    )
    np.testing.assert_array_equal(values_of(dataset, tmp_path), 4095 - SOME)


def test_hounsfield_units_stay_what_they_are(tmp_path):
    dataset = a_picture(SOME, PhotometricInterpretation="MONOCHROME1", RescaleIntercept="-1024")
    np.testing.assert_array_equal(values_of(dataset, tmp_path), SOME.astype(int) - 1024)


@pytest.mark.parametrize("written_as", ["SS", "US"])
def test_padding_gets_the_smallest_value_that_was_measured(tmp_path, written_as):
    pixels = RNG.integers(-1000, 2000, (9, 7)).astype(np.int16)
    pixels[0], pixels[1, 0] = -2000, -1000
    dataset = a_picture(pixels, RescaleIntercept="-24")
    dataset.add_new("PixelPaddingValue", written_as, -2000 if written_as == "SS" else 65536 - 2000)
    found = values_of(dataset, tmp_path)
    assert (found[0] == -1024).all()
    np.testing.assert_array_equal(found[1:], pixels[1:] - 24)


def test_a_range_of_padding_is_padding_and_an_inverted_picture_has_it_dark(tmp_path):
    pixels = RNG.integers(100, 4000, (9, 7)).astype(np.uint16)
    pixels[:2] = [[4090], [4095]]
    dataset = a_picture(
        pixels, ComputedRadiographyImageStorage, BitsStored=12, HighBit=11, PhotometricInterpretation="MONOCHROME1"
    )
    dataset.add_new("PixelPaddingValue", "US", 4095)
    dataset.add_new("PixelPaddingRangeLimit", "US", 4085)
    found = values_of(dataset, tmp_path)
    np.testing.assert_array_equal(found[2:], 4095 - pixels[2:])
    assert (found[:2] == found[2:].min()).all()


def test_padding_is_known_by_its_stored_value_not_by_what_a_table_makes_of_it(tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [256, 0, 16], "US"
    table.LUTData = (1000 + np.arange(256, dtype=np.uint16)).astype("<u2").tobytes()
    table["LUTData"].VR = "OW"
    pixels = np.arange(100, 163, dtype=np.uint8).reshape(9, 7)
    pixels[0] = 255
    dataset = a_picture(pixels, ComputedRadiographyImageStorage, ModalityLUTSequence=Items([table]))
    dataset.add_new("PixelPaddingValue", "US", 255)
    found = values_of(dataset, tmp_path)
    assert (found[0] == 1107).all()
    np.testing.assert_array_equal(found[1:], 1000 + pixels[1:].astype(int))


def test_a_slice_of_padding_alone_is_dark_in_a_volume_and_refused_by_itself(tmp_path):
    for k, value in enumerate((-2000, 7, 9)):
        dataset = a_picture(np.full((4, 4), value, np.int16), SeriesInstanceUID="1.2", ImagePositionPatient=[0, 0, k])
        dataset.add_new("PixelPaddingValue", "SS", -2000)
        save(dataset, tmp_path / str(k))
    assert read_volume(tmp_path).voxels[:, 0, 0].tolist() == [7, 7, 9]
    with pytest.raises(ReadError, match="no measured values, only padding"):
        read_volume(tmp_path / "0")


def test_a_file_that_changed_after_it_was_found_is_read_as_it_is_now(tmp_path):
    path = save(a_picture(SOME), tmp_path / "x.dcm")
    (source,) = find_sources(path).images
    save(a_picture(SOME[::-1].copy(), RescaleIntercept="-5", PatientName="Longer"), path)
    np.testing.assert_array_equal(read_image(source).volume.voxels[0], SOME[::-1].astype(int) - 5)


def test_the_smallest_value_is_the_whole_volume_s_not_the_slice_s(tmp_path):
    for k, low in enumerate((50, 10, 70)):
        pixels = np.full((4, 4), low + 5, np.int16)
        pixels[0], pixels[1] = -2000, low
        dataset = a_picture(pixels, SeriesInstanceUID="1.2.3", ImagePositionPatient=[0, 0, k])
        dataset.add_new("PixelPaddingValue", "SS", -2000)
        save(dataset, tmp_path / str(k))
    found = read_volume(tmp_path).voxels
    assert found[:, 0].tolist() == [[10] * 4] * 3
    assert found[:, 1, 0].tolist() == [50, 10, 70]


def test_a_lookup_table_makes_the_values(tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.LUTData = (np.arange(4096, dtype=np.uint16) ** 2 % 5000).astype("<u2").tobytes()
    table["LUTData"].VR, table.ModalityLUTType = "OW", "US"
    dataset = a_picture(SOME, MRImageStorage, BitsStored=12, HighBit=11, ModalityLUTSequence=Items([table]))
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    np.testing.assert_array_equal(values_of(dataset, tmp_path), (SOME**2) % 5000)


def test_slices_of_which_some_have_other_types_are_one_volume(tmp_path):
    for k, pixels in enumerate((SOME, SOME.astype(np.int16) - 2000, SOME)):
        save(a_picture(pixels, SeriesInstanceUID="1.2.3", ImagePositionPatient=[0, 0, k]), tmp_path / str(k))
    expected = np.stack([SOME, SOME.astype(int) - 2000, SOME])
    np.testing.assert_array_equal(read_volume(tmp_path).voxels, expected)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"RescaleSlope": "0"}, "no scale"),
        ({"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11}, "12 bits"),
        ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, "1 bits"),
        ({"BitsStored": 17}, "contradicts itself"),
        ({"HighBit": 3}, "contradicts itself"),
        ({"BitsStored": None}, "damaged"),
        ({"PixelData": None}, "no pixels"),
        ({"PixelData": b"1234"}, "fewer pixels than it says"),
        ({"PixelData": bytes(9 * 7 * 4)}, "more pixels than it says"),
        ({"Rows": 0}, "no pixels"),
        ({"Rows": 65535, "Columns": 65535}, "65535 x 65535 pixels"),
        ({"NumberOfFrames": 3}, "film"),
    ],
)
def test_pixels_that_cannot_be_what_the_header_says_are_refused(tmp_path, changes, sentence):
    dataset = a_picture(SOME)
    for keyword, value in changes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    with pytest.raises(ReadError, match=sentence) as caught:
        values_of(dataset, tmp_path)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 10, 60])
def test_compressed_pixels_that_are_cut_off_are_refused(tmp_path, keep):
    dataset = a_picture(SOME)
    dataset.compress(RLELossless)
    dataset.PixelData = dataset.PixelData[: 8 + keep]
    with pytest.raises(ReadError):
        values_of(dataset, tmp_path)


def test_compressed_bytes_that_are_none_are_refused(tmp_path):
    dataset = a_picture(SOME)
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(range(64))])
    with pytest.raises(ReadError, match="encoding is damaged or not known"):
        values_of(dataset, tmp_path)


def test_a_deflated_file_that_becomes_huge_is_refused_unread(tmp_path, monkeypatch):
    dataset = a_picture(np.zeros((2000, 2000), np.uint16))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = save(dataset, tmp_path / "x.dcm")
    assert path.stat().st_size < 100_000
    assert read_volume(path).voxels.size == 4_000_000
    monkeypatch.setattr(inflating, "LARGEST", 1 << 20)
    with pytest.raises(ReadError, match="far too large"):
        find_sources(path)
    assert LARGEST_FRAME > 2000 * 2000


def test_text_that_is_burnt_in_is_warned_of(tmp_path):
    (source,) = find_sources(save(a_picture(SOME, BurnedInAnnotation="YES"), tmp_path / "x.dcm")).images
    assert any("burnt into it" in warning for warning in read_image(source).warnings)
    (source,) = find_sources(save(a_picture(SOME, BurnedInAnnotation="NO"), tmp_path / "y.dcm")).images
    assert not read_image(source).warnings
