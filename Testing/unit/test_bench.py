"""The benchmark of all systems: who is scored on what, and what the tables, targets and the page make of it."""

import csv
import json
import time
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK
import torch
import torch.nn.functional as F

from benchmarks import kept
from benchmarks.bench import budgets, plots
from benchmarks.bench import table as bench_table
from benchmarks.bench.curve import Curve, seconds_to
from benchmarks.bench.page import Contents, page
from benchmarks.bench.published import PAPER
from benchmarks.bench.rows import (
    ALONE,
    COUNTS,
    FOURTH,
    POOLED,
    SHIFTED,
    SITES,
    UNCOMPRESSED,
    Bench,
    ours,
    server_part,
    table_of,
)  # fmt: skip
from benchmarks.bench.scoring import by_site, diagonal_mm, estimate, paired_p, score_held_out, scored
from benchmarks.bench.splits import DataSet, Split, thinned
from benchmarks.bench.table import PAIRED, Table, measurements, read_tables, seconds_to_published
from benchmarks.bench.targets import byte_targets, targets
from benchmarks.kept import KeptRows
from benchmarks.results import HIGH, LOW, REPOSITORY
from benchmarks.sites import at_published_size, load_site
from ppcmi.codec.training import CodecTrainingConfig
from ppcmi.fitting import FitConfig
from ppcmi.formats.itk_files import image_from_volume
from ppcmi.scales import Profile
from ppcmi.task import load_task
from ppcmi.volume import Geometry, Volume
from ppcmi_server.umn.model import build_network
from ppcmi_server.umn.training import EpochReport
from support.descriptions import describe_umn
from support.shapes import make_masks, make_slices

SLICES, SIZE = 3, 40
NO_LIMITS = {"train": None, "val": None, "test": None}
FOLDS = ("train", "train", "val", "test", "test")
COARSE, SERVER = ours(Profile.COARSE), server_part(Profile.COARSE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five patients a site with two volumes each; the shifted sites are others."""
    folder = tmp_path_factory.mktemp("data") / "hippocampus_mr"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    rows = [("id", "subject_group", "fold", "site", "site_shifted")]
    for patient in range(15):
        fold = FOLDS[patient // 3]
        for scan in range(2):
            name, seed = f"case_{patient:02}_{scan}", 2 * patient + scan
            masks = make_masks(SLICES, seed, SIZE)
            for part, stack in (("images", make_slices(masks, seed)[:, 0] * 1000), ("labels", masks)):
                sagittal = np.ascontiguousarray(np.moveaxis(stack.numpy(), 0, -1))
                volume = Volume(sagittal, Geometry(sagittal.shape, np.eye(4)))
                SimpleITK.WriteImage(image_from_volume(volume), str(folder / part / f"{name}.nii.gz"))
            rows.append((name, f"p{patient}", fold, "ABC"[patient % 3], "ABC"[(patient // 3 + patient) % 3]))
    with (folder / "split.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder


@pytest.mark.parametrize("split", [SITES, SHIFTED, Split("", 2), Split("", 3), Split("site", labelled=1)])
def test_however_cases_are_shared_out_the_same_are_scored_and_no_patient_is_in_two_places(folder, split):
    data = DataSet(folder, {"train": 2, "val": 1, "test": 2})
    sites = data.sites(split, data.task)
    scored = [number for site in sites for number in site.test.numbers]
    usual = [number for site in data.sites(SITES, data.task) for number in site.test.numbers]
    assert sorted(scored) == sorted(usual)
    patients = [set(site.test.patients) for site in sites]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 6  # as many patients as there are
    assert all(
        site.train.cases == (split.labelled or round(2 * (1 if split.column else 3 / split.sites))) for site in sites
    )
    assert (sites[0].validation is None) == (split.labelled is not None)


def test_a_site_has_its_cases_by_fold_and_with_few_labels_none_to_choose_on(folder):
    task = DataSet(folder, NO_LIMITS).task
    usual, shifted = (load_site(folder, task, "A", None, column) for column in ("site", "site_shifted"))
    for site in (usual, shifted):
        assert (site.train.cases, site.validation.cases, site.test.cases) == (4, 2, 4)
    assert not torch.equal(usual.test.slices, shifted.test.slices)
    few = load_site(folder, task, "A", 1)
    assert (few.train.cases, few.validation, few.test.cases) == (1, None, 4)
    assert torch.equal(few.test.slices, usual.test.slices)


@pytest.mark.parametrize("published", [False, True])
def test_what_is_the_truth_on_slices_is_the_truth_on_the_volume_at_either_size(folder, published):
    data = DataSet(folder, NO_LIMITS)
    task = at_published_size(data.task) if published else data.task
    assert task.slicing.size == ((256, 256) if published else (64, 64))
    site = data.sites(SITES, task)[0]
    truth = F.one_hot(site.test.slices.known_labels.long(), task.classes).permute(0, 3, 1, 2).float()
    rows = score_held_out(site.test, truth, task, site.name)
    assert len(rows) == 4
    assert all(row["dice"] == 1 and row["hd95_mm"] == 0 for row in rows)
    empty = torch.zeros_like(truth)
    empty[:, 0] = 1
    missed = score_held_out(site.test, empty, task, "A")
    farthest = [diagonal_mm(volume.geometry) for volume in site.test.truths]
    assert [row["dice"] for row in missed] == [0] * 4
    assert [row["hd95_mm"] for row in missed] == [row["asd_mm"] for row in missed] == pytest.approx(farthest)


def test_a_system_that_misses_structures_has_the_worse_distances():
    masks = np.zeros((10, 8, 8, 8), np.uint8)
    masks[:, 2:5, 2:5, 2:5] = 1
    task = load_task(REPOSITORY / "Resources" / "Tasks" / "fetal-head-us.json")
    value = task.labels[0].value
    geometry = Geometry((8, 8, 8), np.diag((1.0, 2.0, 3.0, 1.0)))
    truths = [Volume(mask * value, geometry) for mask in masks]

    def rows(predicted):
        found = []
        for patient, (mask, truth) in enumerate(zip(predicted, truths, strict=True)):
            (score,) = scored(Volume((mask * value).astype(np.uint8), geometry), truth, task)
            found.append({"site": "A", "patient": patient, "hd95_mm": score.hd95_mm, "asd_mm": score.asd_mm})
        return found

    finds_all, finds_one = np.roll(masks, 2, axis=3), masks.copy()
    finds_one[1:] = 0
    for metric in ("hd95_mm", "asd_mm"):
        all_of_them, one = estimate(rows(finds_all), metric), estimate(rows(finds_one), metric)
        assert one.patients == all_of_them.patients == 10
        assert one.mean == pytest.approx(0.9 * diagonal_mm(geometry))
        assert one.mean > all_of_them.mean
    assert diagonal_mm(geometry) == pytest.approx(7 * np.sqrt(1 + 4 + 9))
    nothing = Volume(np.zeros((8, 8, 8), np.uint8), geometry)
    assert np.isnan(scored(nothing, nothing, task)[0].hd95_mm)
    assert scored(truths[0], nothing, task)[0].asd_mm == pytest.approx(diagonal_mm(geometry))


def test_thinned_cases_are_fewer_slices_with_their_own_labels(folder):
    train = DataSet(folder, NO_LIMITS).sites(SITES, DataSet(folder, NO_LIMITS).task)[0].train
    few = thinned(train, 5)
    assert len(few) == len(few.known_labels) == 5
    assert few.cases == int(few.case.max()) + 1
    assert thinned(train, None) is train


def test_a_patient_counts_once_however_many_cases_there_are():
    rows = [_case("A", patient, dice) for patient, dice in ((1, 0.4), (1, 0.6), (2, 0.9))]
    found = estimate(rows, "dice")
    assert found.mean == pytest.approx(0.7)
    assert found.patients == 2
    assert found.low <= found.mean <= found.high
    assert by_site(rows, "dice") == {"A": pytest.approx(0.7)}


def test_a_paired_test_needs_six_patients_and_sees_what_all_of_them_say():
    better = [_case("A", patient, 0.8 + patient / 100) for patient in range(8)]
    worse = [_case("A", patient, 0.6 + patient / 200) for patient in range(8)]
    assert paired_p(better, worse) == pytest.approx(2 / 2**8)
    assert paired_p(better[:5], worse) is None
    assert paired_p(better, better) is None
    assert paired_p(better, worse, "iou") == paired_p(better, worse)


def test_a_reference_that_is_the_same_for_every_patient_has_no_paired_test():
    better = [_case("A", patient, 0.8 + patient / 100) for patient in range(8)]
    nothing = [_case("A", patient, 0.0) | {"hd95_mm": 90.0 + patient} for patient in range(8)]
    far = [row | {"hd95_mm": 5.0} for row in better]
    assert paired_p(better, nothing) is None
    assert paired_p(far, nothing, "hd95_mm") is None  # its masks are empty, and its distances the images'


def test_every_score_has_its_interval_and_its_p_and_no_p_is_zero():
    ours_row, paper = _row(0.9), _row(0.8)
    for row, step in ((ours_row, 0.001), (paper, 0.002)):
        cases = [_case("A", patient, row["cases"][0]["dice"] - patient * step) for patient in range(40)]
        row["cases"] = [case | {"hd95_mm": 10 * case["dice"]} for case in cases]
    table = _table(SITES, {COARSE: ours_row, PAPER.title: paper})
    found = {number.name: number for number in measurements([table], "make bench")}
    for score in ("Dice", "IoU", "sensitivity", "specificity", "HD95"):
        name = f"hippocampus_mr, three sites / {COARSE} / {score}"
        assert found[name + LOW].measured <= found[name].measured <= found[name + HIGH].measured
        assert 0 < found[name + PAIRED].measured < 1e-6
        assert f"{score}, p" in name + PAIRED
    assert f"hippocampus_mr, three sites / {COARSE} / ASD, p" not in found  # every patient has the same
    text = page(Contents("All", [], [], [table], [], []))
    assert "&lt; 0.001" in text
    assert "<td>0</td>" not in text


def test_parameters_are_those_of_all_networks():
    table = _table(SITES, {COARSE: _row(0.9, umn_parameters=6e6, site_parameters=2e6)})
    found = {number.name.split(" / ")[-1]: number.measured for number in measurements([table], "make bench")}
    assert (found["server's parameters"], found["site's parameters"]) == (6, 2)


@pytest.mark.parametrize("change", [{"code": "another"}, {"budget": "longer"}])
def test_a_kept_row_counts_only_with_the_same_code_and_budget(tmp_path, monkeypatch, change):
    now = {"code": "0123456789ab", "budget": "short"}

    def measured(code, budget, value):
        monkeypatch.setattr(kept, "code", lambda: code)
        rows = KeptRows(tmp_path / "rows.json", budget=budget)
        return rows.row("a row", lambda: {"value": value})["value"]

    assert measured(**now, value=1) == 1
    assert measured(**now, value=2) == 1
    other = now | change
    monkeypatch.setattr(kept, "code", lambda: other["code"])
    assert KeptRows(tmp_path / "rows.json", budget=other["budget"]).rows == {}
    assert measured(**other, value=3) == 3
    assert measured(**now, value=4) == 4


def test_rows_of_other_code_are_in_no_table(tmp_path, monkeypatch):
    rows = {f"three sites / {name}": _row(0.9) | {"code": code} for name, code in ((COARSE, "new"), (POOLED, "old"))}
    (tmp_path / "hippocampus_mr.json").write_text(json.dumps(rows))
    monkeypatch.setattr(bench_table, "code", lambda: "new")
    (table,) = read_tables(tmp_path)
    assert list(table.rows) == [COARSE]


def test_the_time_to_a_dice_is_that_of_the_first_epoch_that_had_it():
    points = [(1.0, 0.2), (2.0, 0.7), (3.0, 0.6), (4.0, 0.8)]
    assert seconds_to(points, 0.7) == 2.0
    assert seconds_to(points, 0.75) == 4.0
    assert seconds_to(points, 0.9) is None


def test_targets_compare_the_rows_that_they_name():
    held = {target.name.split(" / ")[-1]: target for target in targets(_tables(), "make bench")}
    assert held["gain over the published system"].measured == pytest.approx(0.10)
    assert held["distance to the pooled U-Net"].holds is False  # 0.02 where 0.01 is asked
    assert held["loss against float32"].measured == pytest.approx(-0.005)
    assert held["behind the others"].measured == pytest.approx(0.04)
    assert held["best site less worst"].holds is True
    ratio = held["training time to the published Dice, to the published system's"]
    assert (ratio.measured, ratio.holds) == (0.02, True)


def test_sizes_count_as_the_paper_counts_them():
    (target,) = byte_targets([_table(SITES, {COARSE: _row(0.9, bytes_a_slice=51200)}, "fetal_head_us")], "make bench")
    assert target.measured == pytest.approx(51200 / 2**20, abs=1e-4)
    assert target.holds is True


def test_a_training_that_never_was_as_good_fails_its_target_rather_than_having_none():
    slow = _table(SITES, {PAPER.title: _row(0.8, curve=[(9.0, 0.9)]), SERVER: _row(0.8, curve=[(1.0, 0.5)])})
    assert seconds_to_published(slow.rows[SERVER], slow.paper) is None
    (target,) = targets([slow], "make bench")
    assert target.measured == pytest.approx(0.4)
    assert target.holds is False


def test_the_page_holds_every_row_and_fetches_nothing():
    tables = _tables()
    text = page(Contents("All <systems>", ["budget"], ["note"], tables, list(targets(tables, "make bench")), []))
    assert all(row.replace("'", "&#x27;") in text for table in tables for row in table.rows)
    assert "All &lt;systems&gt;" in text
    assert "<script" not in text
    fetched = (
        text.replace("http://www.w3.org/", "")
        .replace("http://purl.org/", "")
        .replace("http://creativecommons.org/", "")
    )
    assert "http" not in fetched


def test_plots_are_the_same_bytes_for_the_same_rows():
    tables = _tables()
    for draw in (plots.dice_against_bytes, plots.dice_by_sites, lambda tables: plots.dice_by_row(tables[0])):
        assert draw(tables) == draw(tables)
        assert draw(tables).startswith('<svg role="img" aria-label=')


def test_every_number_of_a_table_has_a_name_of_its_own():
    names = [number.name for number in measurements(_tables(), "make bench")]
    assert len(set(names)) == len(names)
    assert f"hippocampus_mr, three sites / {COARSE} / Dice" in names


def test_the_time_that_scoring_takes_is_no_time_of_training(tmp_path):
    description = describe_umn("default", Profile.COARSE, (64, 64), ("c",))
    weights = build_network(description).state_dict()
    curve = Curve(tmp_path / "points.json", description, lambda _: time.sleep(0.2) or 0.7)
    for epoch in (1, 2):
        started = time.monotonic()
        curve.save({"batches": 3, "seconds": 10.0, "averaged": weights})
        curve.save({"batches": 6, "seconds": 20.0 + time.monotonic() - started, "averaged": weights})
        curve.watching.report(EpochReport(epoch, 2, 1.0, None, 30.0 + time.monotonic() - started, {}))
        curve.save({"batches": 0, "seconds": 0.0, "averaged": weights})
    assert [seconds for seconds, _ in curve.points] == pytest.approx([10, 20, 30, 40, 50, 60], abs=0.1)


def test_rows_of_raw_images_and_of_the_product_are_measured_and_kept(folder, tmp_path):
    fit = FitConfig(epochs=1, batch_size=4)
    data = DataSet(folder, NO_LIMITS)
    budget = replace(
        budgets.quick(data.task), unet=replace(fit, patience=1), refine=fit, variants=0, curve_cases=1,
        codec=CodecTrainingConfig(images=fit, masks=fit, local=fit, minimizer=fit),
        umn=replace(budgets.quick(data.task).umn, epochs=2, batch_size=8, minimum_steps=2),
    )  # fmt: skip
    bench = Bench(data, budget, tmp_path / "networks", torch.device("cpu"))
    plans = {plan.key: plan for plan in bench.plans()}
    assert len(plans) == len(list(bench.plans()))  # no name twice
    rows = KeptRows(tmp_path / "rows.json")
    for name in (POOLED, COARSE, SERVER, FOURTH):
        plan = plans[f"{table_of(SITES)} / {name}"]
        rows.row(plan.key, plan.measure)
    found = KeptRows(tmp_path / "rows.json").rows
    assert found == rows.rows
    assert {case["site"] for case in found[f"{table_of(SITES)} / {COARSE}"]["cases"]} == {"A", "B", "C"}
    assert {case["site"] for case in found[f"{table_of(SITES)} / {FOURTH}"]["cases"]} == {"C"}
    row = found[f"{table_of(SITES)} / {SERVER}"]
    assert len(row["curve"]) == 2
    assert row["curve"][0][0] < row["curve"][1][0]
    # s4 and b of a slice of 64 x 64: 8 * 16 + 16 * 4 values of half a byte there, 128 * 16 + 256 * 4 back, and headers.
    assert 96 + 1536 < row["bytes_a_slice"] < 96 + 1536 + 2 * 2000
    assert "case_" not in (tmp_path / "rows.json").read_text()


def _case(site, patient, dice):
    others = dict.fromkeys(("iou", "sensitivity", "specificity"), dice) | {"hd95_mm": None, "asd_mm": 1.0}
    return {"site": site, "case": patient, "patient": patient, "dice": dice, **others}


def _row(dice, sites="ABC", **facts):
    cases = [_case(site, 10 * "ABC".index(site) + number, dice) for site in sites for number in range(3)]
    return {
        "cases": cases,
        "seconds": 1.0,
        "commit": "0123456789ab",
        "machine": "a machine",
        "date": "2026-01-01",
    } | facts


def _table(split, rows, data="hippocampus_mr"):
    return Table(data, table_of(split), rows)


def _tables():
    sites = {
        POOLED: _row(0.92), ALONE: _row(0.88), COARSE: _row(0.90, bytes_a_slice=3e3), UNCOMPRESSED: _row(0.895),
        SERVER: _row(0.85, curve=[(1.0, 0.7), (2.0, 0.82)]), FOURTH: _row(0.86, sites="C"),
        PAPER.title: _row(0.80, bytes_a_slice=9e5, curve=[(50.0, 0.5), (100.0, 0.8)]),
    }  # fmt: skip
    counts = {f"{COARSE}, {count} sites": _row(0.9 - count / 100) for count in (1, 7)}
    return [_table(SITES, sites), _table(SHIFTED, {COARSE: _row(0.9)}), Table("hippocampus_mr", COUNTS, counts)]
