"""Scores of a model at a site: together and alone, over the cases that can be read, and what of them is reported."""

import math

import numpy as np
import pytest
import SimpleITK

from ppcmi.codec.refinement import SiteDecoder
from ppcmi.data_folders import find_cases
from ppcmi.errors import SiteError
from ppcmi.metrics import LabelScore, score_case
from ppcmi.pipeline import run
from ppcmi.reading import read_labels, read_volume
from ppcmi.scales import Profile
from ppcmi.validation import CaseScores, Validation, mean_scores, segment_alone, validate
from support.private_link import HalvingServer, link_to, untrained_codec


def a_score(label, dice, hd95_mm=1.0):
    return LabelScore(label, dice=dice, iou=0.5, sensitivity=0.5, specificity=0.5, hd95_mm=hd95_mm, asd_mm=1.0)


@pytest.fixture(scope="module")
def a_codec():
    return untrained_codec()


@pytest.fixture
def a_folder(tmp_path):
    """Two labelled cases and one without labels."""
    random = np.random.default_rng(1)
    for part, names in (("images", ("one", "two", "unlabelled")), ("labels", ("one", "two"))):
        (tmp_path / part).mkdir()
        for name in names:
            voxels = random.integers(0, 4, (4, 32, 32)).astype(np.uint8)
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(tmp_path / part / f"{name}.nii.gz"))
    return tmp_path


def test_each_labelled_case_is_scored_together_and_alone(a_folder, a_codec):
    link = link_to(HalvingServer(task=a_codec.task.identity), a_codec, decoder=SiteDecoder(a_codec))
    events = []
    validation = run(validate(find_cases(a_folder), link), events.append)
    assert [case.case for case in validation.cases] == ["one", "two"]
    assert (events[-1].done, events[-1].total) == (2, 2)
    first = find_cases(a_folder)[0]
    alone = segment_alone(read_volume(first.image), link)
    assert validation.cases[0].alone == tuple(score_case(alone, read_labels(first.label), link.task))
    assert set(validation.private) == set(validation.alone) == {label.name for label in link.task.labels}


def test_alone_is_what_the_site_says_when_the_server_has_no_share(a_folder, a_codec):
    decoder = SiteDecoder(a_codec, {Profile.COARSE.value: 0.0})
    link = link_to(HalvingServer(task=a_codec.task.identity), a_codec, decoder=decoder)
    for case in run(validate(find_cases(a_folder), link)).cases:
        assert str(case.private) == str(case.alone)  # as text, so that two undefined values are the same


def test_without_a_network_of_its_own_a_site_is_not_scored_alone(a_folder, a_codec):
    link = link_to(HalvingServer(task=a_codec.task.identity), a_codec, decoder=None)
    validation = run(validate(find_cases(a_folder), link))
    assert validation.alone == {}
    assert validation.numbers()["alone"] == {}


def test_a_case_that_cannot_be_read_is_left_out_and_named(a_folder, a_codec):
    link = link_to(HalvingServer(task=a_codec.task.identity), a_codec)
    (a_folder / "images" / "one.nii.gz").write_bytes(b"no image")
    validation = run(validate(find_cases(a_folder), link))
    assert ([case.case for case in validation.cases], list(validation.skipped)) == (["two"], ["one"])
    (a_folder / "labels" / "two.nii.gz").write_bytes(b"no labels")
    with pytest.raises(SiteError, match="could be read"):
        run(validate(find_cases(a_folder), link))


def test_means_leave_out_what_is_not_defined():
    means = mean_scores([[a_score("Organ", 0.8, math.nan)], [a_score("Organ", 0.6, 3.0)]])
    assert means["Organ"]["dice"] == pytest.approx(0.7)
    assert means["Organ"]["hd95_mm"] == 3.0
    assert math.isnan(mean_scores([[a_score("Organ", 0.8, math.nan)]])["Organ"]["hd95_mm"])


def test_what_is_reported_is_numbers_and_names_no_case():
    case = CaseScores("Jane Doe", private=(a_score("Organ", 0.8, math.nan),), alone=None)
    numbers = Validation(3, (case,), {}).numbers()
    assert numbers["cases"] == 1
    assert numbers["alone"] == {}
    assert "hd95_mm" not in numbers["labels"]["Organ"]
    assert numbers["labels"]["Organ"]["dice"] == 0.8
    assert "Jane" not in str(numbers)
