from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import label as connected

from ppcmi.data_folders import find_cases
from ppcmi.errors import WriteError
from ppcmi.phantoms import SCANNERS, folds, make_phantom, write_phantom_folder
from ppcmi.reading import read_labels, read_volume
from ppcmi.slicing import cropped_labels, slice_labels, slice_volume
from ppcmi.task import load_task

SITES = ("A", "B", "C")
TASK = load_task(Path(__file__).parents[2] / "Resources" / "Tasks" / "phantom.json")
ORGAN, VESSEL, LESION = 1, 2, 3


@pytest.fixture(scope="module")
def cases():
    """Eight phantoms of each scanner."""
    return {site: [make_phantom(SCANNERS[site], seed) for seed in range(8)] for site in SITES}


def best_threshold_dice(values, truth):
    """The best Dice of any interval of intensities, whoever chooses it."""
    edges = np.quantile(values, np.linspace(0, 1, 41))
    inside = np.histogram(values[truth], edges)[0]
    everything = np.histogram(values, edges)[0]
    hits, size = (np.concatenate([[0], np.cumsum(counts)]) for counts in (inside, everything))
    first, last = np.triu_indices(len(edges), 1)
    return (2 * (hits[last] - hits[first]) / (size[last] - size[first] + truth.sum())).max()


def test_a_seed_is_a_phantom(cases):
    image, labels = make_phantom(SCANNERS["B"], 5)
    np.testing.assert_array_equal(image.voxels, cases["B"][5][0].voxels)
    np.testing.assert_array_equal(labels.voxels, cases["B"][5][1].voxels)
    np.testing.assert_array_equal(image.geometry.ijk_to_ras, cases["B"][5][0].geometry.ijk_to_ras)
    assert not np.array_equal(image.voxels, cases["B"][6][0].voxels)
    assert not np.array_equal(labels.voxels, cases["B"][6][1].voxels)


@pytest.mark.parametrize("site", SITES)
def test_every_structure_is_in_every_case_and_in_the_frame(cases, site):
    for image, labels in cases[site]:
        slices, grid = slice_volume(image, TASK)
        assert 24 <= len(slices) <= 32
        assert slices.shape[1:] == (3, 64, 64)
        assert cropped_labels(labels, grid) == 0
        millilitres = np.bincount(labels.voxels.ravel(), minlength=4) * image.geometry.spacing_mm.prod() / 1000
        assert len(millilitres) == TASK.classes
        assert 40 < millilitres[ORGAN] < 200
        assert 2 < millilitres[VESSEL] < 20
        assert 0.2 < millilitres[LESION] < 15
        assert np.flatnonzero((slice_labels(labels, grid, TASK) > 0).any(axis=(1, 2))).size >= 8


@pytest.mark.parametrize("site", SITES)
def test_organ_and_vessel_are_one_piece_with_lesions_within(cases, site):
    for _, labels in cases[site]:
        everything = labels.voxels > 0
        pieces, _ = connected(everything, np.ones((3, 3, 3)))
        assert np.bincount(pieces[everything]).max() >= 0.97 * everything.sum()


@pytest.mark.parametrize("site", SITES)
def test_no_threshold_finds_a_structure(cases, site):
    found = []
    for image, labels in cases[site]:
        slices, grid = slice_volume(image, TASK)
        truth = slice_labels(labels, grid, TASK)
        found.append([best_threshold_dice(slices[:, 1], truth == value) for value in (ORGAN, VESSEL, LESION)])
    organ, vessel, lesion = np.mean(found, axis=0)
    assert organ < 0.75
    assert vessel < 0.4
    assert lesion < 0.2


def test_structures_differ_from_what_surrounds_them_more_than_noise(cases):
    for site in SITES:
        contrasts = []
        for image, labels in cases[site]:
            slices, grid = slice_volume(image, TASK)
            truth = slice_labels(labels, grid, TASK)
            means = [slices[:, 1][truth == value].mean() for value in (ORGAN, VESSEL, LESION)]
            contrasts.append((means[1] - means[0], means[0] - means[2]))
        vessel, lesion = np.mean(contrasts, axis=0)
        assert vessel > 0.1
        assert lesion > 0.08


def test_one_anatomy_looks_different_in_each_scanner(cases):
    histograms = {}
    for site in SITES:
        slices = np.concatenate([slice_volume(image, TASK)[0][:, 1] for image, _ in cases[site]])
        histograms[site] = np.histogram(slices[slices > 0.1], 20, (0.1, 1))[0] / (slices > 0.1).sum()
    for one, other in (("A", "B"), ("A", "C"), ("B", "C")):
        assert np.abs(histograms[one] - histograms[other]).sum() > 0.3
    volumes = [(cases[site][3][1].voxels > 0).sum() * cases[site][3][1].geometry.spacing_mm.prod() for site in SITES]
    np.testing.assert_allclose(volumes, np.mean(volumes), rtol=0.05)  # the anatomy is the same


def test_scanners_have_grids_of_their_own(cases):
    grids = [cases[site][0][0].geometry for site in SITES]
    assert len({tuple(np.round(grid.spacing_mm, 3)) for grid in grids}) == 3
    signs = {tuple(np.sign(grid.ijk_to_ras[:3, :3][np.abs(grid.ijk_to_ras[:3, :3]).argmax(axis=0), range(3)]))
             for grid in grids}  # fmt: skip
    assert len(signs) == 3
    for site in ("B", "C"):
        directions = cases[site][0][0].geometry.ijk_to_ras[:3, :3] / cases[site][0][0].geometry.spacing_mm
        assert np.abs(directions).max(axis=0).min() < np.cos(np.radians(3))  # oblique
    assert len({cases[site][0][0].voxels.dtype for site in SITES}) == 3


def test_a_folder_of_phantoms_is_a_data_folder(tmp_path):
    write_phantom_folder(tmp_path / "cases", cases_per_site=2, seed=1)
    cases = find_cases(tmp_path / "cases")
    assert [case.name for case in cases] == [f"phantom_{site}_0{number}" for site in SITES for number in (1, 2)]
    assert [case.site for case in cases] == list("AABBCC")
    assert {case.fold for case in cases} == {"train"}
    voxels = []
    for case in cases:
        image, labels = read_volume(case.image), read_labels(case.label)
        assert image.geometry.matches(labels.geometry)
        assert set(np.unique(labels.voxels)) == {0, 1, 2, 3}
        voxels.append(image.voxels[:20, :50, :50].tobytes())
    assert len(set(voxels)) == 6


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, "t"), (2, "tt"), (3, "ttT"), (4, "ttvT"), (8, "tttttvTT"), (12, "tttttttvvTTT")],
)
def test_folds_end_with_validation_and_test(count, expected):
    assert "".join({"train": "t", "val": "v", "test": "T"}[fold] for fold in folds(count)) == expected


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="choose another folder") as caught:
        write_phantom_folder(tmp_path / "file", cases_per_site=1, seed=0)
    assert str(tmp_path) not in str(caught.value)
