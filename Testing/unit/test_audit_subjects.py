"""Who is attacked and with what: subjects split by patient, rows of the report, what an attacker is given."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from ppcmi.audit.settings import knowledge_of, settings_of, two_layers
from ppcmi.audit.subjects import attributes_of, patients_of, read_subjects, split_subjects, thin
from ppcmi.codec.codec import Codec
from ppcmi.codec.slice_set import SliceSet, read_slice_set, read_usable_cases
from ppcmi.data_folders import CaseFiles, find_cases
from ppcmi.errors import AuditError, CasesFailedError
from ppcmi.latents import Latents
from ppcmi.scales import Profile
from support.batch_runs import write_voxels
from support.codecs import quick_slice_set, tiny_task
from support.private_link import small_task

CASES = 14
PATIENTS = [f"p{index // 2}" for index in range(CASES)]  # two cases each


@pytest.fixture(scope="module")
def subjects():
    return split_subjects(quick_slice_set(CASES, seed=1), PATIENTS, seed=1)


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(1)
    return Codec(tiny_task(), "autoencoder")


def setting_named(codec: Codec, name: str):
    rows = settings_of(codec, scope="consortium", profiles=[Profile.FULL, Profile.COARSE])
    return next(row for row in rows if row.name == name)


def test_no_patient_is_in_two_parts_and_no_case_is_lost(subjects):
    parts = [set(p.tolist()) for p in (subjects.victim_patient, subjects.outside_patient, subjects.collected_patient)]
    assert all(not one & other for one in parts for other in parts if one is not other)
    assert sum(part.cases for part in (subjects.victims, subjects.outside, subjects.collected)) == CASES
    assert len(subjects.slice_patient) == len(subjects.victims)


def test_the_same_seed_splits_alike_and_another_differently():
    cases = quick_slice_set(CASES, seed=1)
    one, again, other = (split_subjects(cases, PATIENTS, seed) for seed in (1, 1, 2))
    assert torch.equal(one.victim_patient, again.victim_patient)
    assert one.victim_patient.tolist() != other.victim_patient.tolist()


def test_too_few_patients_and_cases_without_labels_are_refused():
    cases = quick_slice_set(5, seed=1)
    with pytest.raises(AuditError, match="at least 6 patients"):
        split_subjects(cases, ["a", "b", "c", "d", "e"], seed=1)
    with pytest.raises(AuditError, match="labelled"):
        split_subjects(SliceSet(cases.slices, None, cases.case), ["a"] * 5, seed=1)


def test_patients_come_from_the_table_and_a_case_without_an_entry_is_one_of_its_own(tmp_path):
    def case(**attributes: str) -> CaseFiles:
        return CaseFiles("x", tmp_path, None, attributes=attributes)

    exams = [case(exam="1"), case(exam="1"), case(exam=""), case(exam="")]
    assert len(set(patients_of(exams, None))) == 3
    assert len(set(patients_of([case(), case()], None))) == 2
    with pytest.raises(AuditError, match="no column"):
        patients_of(exams, "nobody")


def test_patients_of_held_out_folds_are_attacked_first(subjects):
    def attacked(folds):
        return split_subjects(quick_slice_set(CASES, seed=1), PATIENTS, seed=1, folds=folds)

    unseen = attacked(["train"] * 10 + ["test"] * 4)  # of the last two patients, and two are attacked
    assert sorted(set(unseen.victim_patient.tolist())) == [5, 6]
    assert unseen.held_out
    val_later = attacked(["val"] * 4 + ["train"] * 4 + ["val"] * 2 + ["test"] * 4)
    assert sorted(set(val_later.victim_patient.tolist())) == [5, 6]
    too_few = attacked(["train"] * 12 + ["test"] * 2)
    assert 6 in too_few.victim_patient
    assert not too_few.held_out
    half = attacked(["train"] * 11 + ["test"] * 3)  # a case of patient 5 is not held out
    assert not half.held_out
    assert not subjects.held_out
    assert torch.equal(attacked([None] * CASES).victim_patient, subjects.victim_patient)


def write_cases(folder, shape):
    """Eight labelled ones."""
    for number in range(8):
        random = np.random.default_rng(number)
        for kind, highest in (("images", 300), ("labels", 3)):
            (folder / kind).mkdir(exist_ok=True)
            write_voxels(folder / kind / f"case{number}.nii.gz", random.integers(0, highest, shape))


@pytest.fixture
def a_folder(tmp_path):
    """Eight labelled cases of seven patients."""
    write_cases(tmp_path, shape=(4, 20, 22))
    rows = [f"case{number},p{max(number, 1)},{'old' if number % 2 else 'new'}\n" for number in range(8)]
    (tmp_path / "split.csv").write_text("".join(["id,patient,scanner\n", *rows]))
    return tmp_path


@pytest.mark.parametrize("kind", ["image", "labels"])
def test_a_case_that_cannot_be_used_is_named_with_the_cause_and_the_others_keep_what_is_theirs(kind, a_folder):
    ({"image": a_folder / "images", "labels": a_folder / "labels"}[kind] / "case3.nii.gz").write_bytes(b"no image")
    told = []
    subjects = read_subjects(find_cases(a_folder), small_task(), None, seed=1, left_out=told.append)
    (sentence,) = told
    assert sentence.startswith(f"left out case3, as its {kind} cannot be used: The ")
    assert (subjects.cases, subjects.patients) == (7, 6)
    scanners = subjects.attributes["scanner"]
    assert len(scanners) == subjects.victims.cases + subjects.collected.cases


def test_of_long_volumes_no_more_than_one_is_in_memory_as_a_whole(tmp_path):
    """A check of 50 scans of the chest would take gigabytes otherwise."""
    write_cases(tmp_path, shape=(200, 20, 22))
    cases, task = find_cases(tmp_path), small_task()
    whole = read_slice_set(cases, task)
    tracemalloc.start()
    try:
        usable = read_usable_cases(cases, task, left_out=pytest.fail, slices_a_case=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert torch.equal(usable.slices.slices, thin(whole, 1).slices)
    assert torch.equal(usable.slices.known_labels, thin(whole, 1).known_labels)
    assert usable.slices.case.tolist() == list(range(8))
    assert peak < whole.slices.nbytes / 2


def test_where_no_case_can_be_used_there_is_no_check(a_folder):
    for path in (a_folder / "images").iterdir():
        path.write_bytes(b"no image")
    told = []
    with pytest.raises(CasesFailedError, match="None of the chosen cases can be used"):
        read_subjects(find_cases(a_folder), small_task(), None, seed=1, left_out=told.append)
    assert len(told) == 8


def table(tmp_path, **columns):
    """Cases with these columns, a value for each case."""
    names = list(columns)
    rows = zip(*columns.values(), strict=True)
    return [CaseFiles("x", tmp_path, None, attributes=dict(zip(names, row, strict=True))) for row in rows]


def test_columns_that_say_something_of_patients_are_attributes_and_those_that_name_them_are_not(tmp_path):
    cases = table(
        tmp_path,
        patient=PATIENTS,
        mother=["m0" if patient in ("p0", "p1", "p2") else "m1" for patient in PATIENTS],
        scanner=["", *("old" if index < 8 else "new" for index in range(1, CASES))],
        day=[f"day {index}" for index in range(CASES)],
        ward=["one", "one", *["two"] * (CASES - 2)],
        same=["x"] * CASES,
    )
    found = attributes_of(cases, None)
    assert set(found) == {"mother", "scanner"}, "a ward of a single patient would name it"
    assert found["scanner"] == ["", *["old"] * 7, *["new"] * 6]
    assert attributes_of(cases, "mother") == {}, "it names patients, and no other column is shared by two of these"


def test_attributes_go_with_their_cases():
    names = {"patient": PATIENTS}
    subjects = split_subjects(quick_slice_set(CASES, seed=1), PATIENTS, seed=1, attributes=names)
    patients = torch.cat((subjects.victim_patient, subjects.collected_patient)).tolist()
    assert subjects.attributes == {"patient": [f"p{number}" for number in patients]}


@pytest.mark.parametrize(
    ("slices_a_case", "places"),
    [(1, [4]), (2, [2, 6]), (3, [1, 4, 6]), (4, [1, 3, 5, 7]), (8, list(range(8))), (9, list(range(8)))],
)
def test_thinning_takes_the_middles_of_equal_parts_of_a_case_in_order(slices_a_case, places):
    cases = quick_slice_set(2, seed=1)
    kept = thin(cases, slices_a_case)
    assert kept.case.tolist() == [0] * len(places) + [1] * len(places)
    assert torch.equal(kept.slices, cases.slices[[*places, *(8 + place for place in places)]])
    assert torch.equal(kept.labels, cases.labels[[*places, *(8 + place for place in places)]])


def test_a_thinned_case_is_spread_evenly_however_many_slices_it_has():
    for slices in range(1, 60):
        case = torch.zeros(slices, dtype=torch.int64)
        volume = SliceSet(torch.arange(slices).float()[:, None, None, None], None, case)
        for taken in range(1, 40):
            places = thin(volume, taken).slices.flatten()
            assert len(places) == min(taken, slices)
            assert torch.equal(places, places.unique())
            ends = float(places[0]), slices - 1 - float(places[-1])
            assert abs(ends[0] - ends[1]) <= 1


def test_rows_say_who_looks_at_what_and_only_scales_of_the_profile_are_seen(codec, subjects):
    rows = settings_of(codec, scope="site", profiles=[Profile.FULL, Profile.COARSE], noises=(0.5,))
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert not any("member" in name for name in names)  # with a codec for each site no member can help
    for row in rows:
        seen = row.look(subjects.victims.slices[:2], torch.zeros(2, dtype=torch.int64), site_keys=1)
        assert tuple(seen.latents) == row.profile.scales


def test_the_server_sees_one_key_for_all_cases_and_the_network_a_new_one_for_each_bundle(codec, subjects):
    twice = subjects.victims.slices[:1].repeat(2, 1, 1, 1)
    cases = torch.tensor([0, 1])
    server = setting_named(codec, f"{two_layers(Profile.COARSE)}; server with the codec").look(twice, cases, 1)
    assert torch.allclose(server.latents["b"][0], server.latents["b"][1], atol=1e-5)
    network = setting_named(codec, f"{two_layers(Profile.COARSE)}; network")
    other = torch.cat((subjects.victims.slices[:1], subjects.victims.slices[9:10]))
    apart = network.look(other, cases, 1).latents["b"]
    assert not torch.allclose(apart[0], network.look(other[:1], cases[:1], 2).latents["b"][0], atol=1e-3)
    plain = codec.encode_images(other)["b"]
    assert torch.allclose(apart.flatten(1).norm(dim=1), plain.flatten(1).norm(dim=1), rtol=1e-4)


def test_an_attacker_gets_no_image_of_a_victim_and_rehearses_under_keys_that_are_not_the_sites(codec, subjects):
    setting = setting_named(codec, f"{two_layers(Profile.COARSE)}; server with the codec")
    knowledge = knowledge_of(setting, subjects, codec, seed=3, leaked=2)
    own = {picture.sum().item() for picture in knowledge.slices} | {p.sum().item() for p in knowledge.pairs.slices}
    assert not own & {picture.sum().item() for picture in subjects.victims.slices}
    assert len(knowledge.pairs.seen) + len(knowledge.collected) == len(subjects.collected)
    assert len(torch.unique(knowledge.pairs.seen.case)) == 2
    plain = codec.encode_images(knowledge.pairs.slices).of(Profile.COARSE)
    rehearsed = knowledge.protect(plain, knowledge.pairs.seen.case, knowledge.generator)
    assert not torch.allclose(rehearsed["b"], knowledge.pairs.seen.latents["b"], atol=1e-2)


def test_a_codec_that_is_unknown_is_not_passed_on(codec, subjects):
    setting = setting_named(codec, f"{two_layers(Profile.COARSE)}; server without the codec")
    knowledge = knowledge_of(setting, subjects, codec, seed=3)
    assert knowledge.codec is None
    assert knowledge.encoder is codec


def test_noise_has_the_deviation_that_it_says_and_keeps_out_of_the_way_of_keys(codec, subjects):
    quiet = setting_named(codec, f"{two_layers(Profile.COARSE)}; server with a member")
    noisy = setting_named(codec, f"{two_layers(Profile.COARSE, 0.5)}; server with a member")
    slices, case = subjects.victims.slices, subjects.victims.case
    plain, seen = quiet.look(slices, case, 1).latents["b"], noisy.look(slices, case, 1).latents["b"]
    assert float((seen - plain).std() / plain.std()) == pytest.approx(0.5, rel=0.05)


def test_latents_of_a_bundle_come_back_in_the_order_of_their_slices(codec, subjects):
    """Cases may lie in any order: bundles are cut by case and put back."""
    network = setting_named(codec, f"{two_layers(Profile.COARSE)}; network")
    slices, mixed = subjects.victims.slices[:4], torch.tensor([1, 0, 1, 0])
    seen = network.look(slices, mixed, 1).latents
    norms = codec.encode_images(slices).of(Profile.COARSE)
    assert isinstance(seen, Latents)
    for scale, values in seen.items():
        assert torch.allclose(values.flatten(1).norm(dim=1), norms[scale].flatten(1).norm(dim=1), rtol=1e-4)
