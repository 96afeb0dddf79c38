"""``ppcmi segment --format dcm`` of real DICOM series, with a real server, to DICOM that lies on the series.

The network is trained on phantoms for seconds and finds nonsense in patients; where the nonsense lies is what counts.
"""

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid
from scipy.spatial.transform import Rotation

from ppcmi.cli.main import main
from ppcmi.phantoms import SCANNERS, make_phantom
from ppcmi.volume import Geometry, Volume, lps_from_ras
from support.dicom import write_series
from support.dicom_results import dciodvfy_errors, files_in, planes_of, source_of


@pytest.fixture(scope="module")
def segmented(a_site, tmp_path_factory):
    """``segmented("name", files)``: a result, beside it other formats, and the source; each made once."""
    done = {}

    def segment(name, files):
        if name not in done:
            output = tmp_path_factory.mktemp("out")
            formats = ("--format", "nii.gz", "dcm", *["dcm-probability"] * (name == "phantom"))
            place = files[0].parent if len(files) > 1 else files[0]
            code = main(["segment", str(place), "-o", str(output), *formats, *a_site.options, "--quiet"])
            assert code == 0
            done[name] = next(output.glob("*.seg.dcm")), source_of(*files)
        return done[name]

    return segment


@pytest.fixture(scope="module")
def a_phantom(tmp_path_factory):
    """Files of a series of an image like those that the network knows, turned in space."""
    scan, _ = make_phantom(SCANNERS["B"], 9)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", (12, -7, 20), degrees=True).as_matrix()
    voxels = (np.clip(scan.voxels, 0, None) / scan.voxels.max() * 4000).astype(np.int16)
    turned = Volume(voxels, Geometry(voxels.shape, turn @ scan.geometry.ijk_to_ras))
    study = {"StudyInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid(), "Modality": "MR"}
    identity = dict.fromkeys(("PatientID", "PatientName", "StudyID", "AccessionNumber"), "4711")
    return write_series(turned, tmp_path_factory.mktemp("phantom"), **study, **identity)


@pytest.fixture(scope="module")
def real_series(data_folder, tmp_path_factory):
    """``real_series(name)``: files of a series; those of CT say that they are MR, as the task is for that."""
    samples = data_folder("dicom_samples")

    def as_mr(files):
        folder = tmp_path_factory.mktemp("as_mr")
        for file in files:
            dataset = pydicom.dcmread(file)
            dataset.Modality = "MR"
            dataset.save_as(folder / file.name)
        return files_in(folder)

    series = {
        "oblique MR": lambda: files_in(samples / "hippocrop_mr_dicom" / "study2"),
        "CT with pixels that are not square": lambda: as_mr(files_in(samples / "ct3slice_with_seg")),
        "enhanced": lambda: [samples / "enhanced_multiframe_mr" / "Siemens" / "XA10" / "6_1.dcm"],
        "tilted and uneven": lambda: as_mr(files_in(samples / "ct_head_gantry_tilt_ge")),
    }
    made = {}

    def files(name):
        if name not in made:
            made[name] = series[name]()
        return made[name]

    return files


def labels_of(path, shape, source):
    """Labels ``(n, rows, columns)`` of a segmentation on its source's frames, and that they lie there."""
    labels = np.zeros(shape, np.uint8)
    at = {tuple(frame.position): k for k, frame in enumerate(source.dicom.frames)}
    for plane in planes_of(path):
        k = at[plane.position]
        assert plane.on_its_pixels
        assert plane.refers_to[0] == pydicom.dcmread(source.dicom.frames[k].file).SOPInstanceUID
        labels[k][plane.pixels > 0] = plane.segment
    return labels


def label_map_at(path, source, shape):
    """Labels of a NIfTI file at the center of each pixel of the source's frames, the nearest; nibabel reads it."""
    image = nibabel.load(path)
    values = np.asarray(image.dataobj)
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    found = np.zeros(shape, np.uint8)
    for k, frame in enumerate(source.dicom.frames):
        across = columns[..., None] * frame.directions[0] * frame.spacing_mm[1]
        lps = frame.position + across + rows[..., None] * frame.directions[1] * frame.spacing_mm[0]
        voxels = nibabel.affines.apply_affine(np.linalg.inv(image.affine), lps @ lps_from_ras[:3, :3])
        nearest = np.rint(voxels).astype(int)
        inside = ((nearest >= 0) & (nearest < values.shape)).all(axis=-1)
        found[k][inside] = values[tuple(nearest[inside].T)]
    return found


def test_structures_lie_on_the_same_voxels_in_dicom_and_in_the_label_map(segmented, a_phantom):
    result, (source, shape) = segmented("phantom", a_phantom)
    labels = labels_of(result, shape, source)
    label_map = result.with_name(result.name.replace(".seg.dcm", ".nii.gz"))
    np.testing.assert_array_equal(labels, label_map_at(label_map, source, shape))
    assert (labels > 0).mean() > 0.01


@pytest.mark.parametrize("name", ["oblique MR", "CT with pixels that are not square", "enhanced"])
def test_the_dicom_result_has_the_label_map_s_structures_on_the_source_s_own_pixels(segmented, real_series, name):
    result, (source, shape) = segmented(name, real_series(name))
    labels = labels_of(result, shape, source)
    label_map = result.with_name(result.name.replace(".seg.dcm", ".nii.gz"))
    np.testing.assert_array_equal(labels, label_map_at(label_map, source, shape))
    assert dciodvfy_errors(result) == []


def test_a_tilted_and_uneven_series_has_its_result_on_the_slices_that_were_made(segmented, real_series):
    name = "tilted and uneven"
    result, (source, shape) = segmented(name, real_series(name))
    labels = labels_of(result, shape, source)
    assert shape == (28, 512, 512)
    regular = label_map_at(result.with_name(result.name.replace(".seg.dcm", ".nii.gz")), source, shape)
    assert labels.any()
    for value in np.unique(labels[labels > 0]):
        ours, nearest = labels == value, regular == value
        if ours.sum() > 1000:  # the label map is between the slices, so that edges differ by a part of a pixel
            assert 2 * (ours & nearest).sum() / (ours.sum() + nearest.sum()) > 0.9


def test_probabilities_are_largest_where_the_structure_was_chosen(segmented, a_phantom):
    result, (source, shape) = segmented("phantom", a_phantom)
    labels = labels_of(result, shape, source)
    probable = np.zeros((4, *shape))
    at = {tuple(frame.position): k for k, frame in enumerate(source.dicom.frames)}
    for plane in planes_of(result.with_name(result.name.replace(".seg.dcm", ".probability.dcm"))):
        probable[plane.segment, at[plane.position]] = plane.pixels / 255
    probable[0] = 1 - probable.sum(axis=0)
    sure = np.sort(probable, axis=0)[-1] - np.sort(probable, axis=0)[-2] > 0.02
    assert sure.mean() > 0.5
    np.testing.assert_array_equal(probable.argmax(axis=0)[sure], labels[sure])


def test_an_image_that_is_no_dicom_is_refused_before_the_run_starts(a_site, tmp_path, capsys):
    words = ["segment", str(a_site.images[0]), "-o", str(tmp_path / "out"), "--format", "dcm", *a_site.options]
    assert main([*words, "--quiet"]) == 2
    assert "none of these is one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
