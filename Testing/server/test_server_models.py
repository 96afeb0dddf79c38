"""Models as sites and operator see them: scores of each site, and a model that maps only once somebody activates it."""

import re

import pytest

from ppcmi.errors import ServerRefusedError, TrainingError
from ppcmi_server import audit, models, tasks
from ppcmi_server.cli.main import main
from ppcmi_server.database.schema import Job, Model, Validation
from ppcmi_server.training import jobs
from ppcmi_server.umn.training import EpochReport
from support.app_server import CODEC, TASK, app_server
from support.random_models import add_model, random_umn

pytestmark = pytest.mark.usefixtures("every_storage")

GOOD = {"Organ": {"dice": 0.9, "iou": 0.82, "hd95_mm": 2.5}, "Vessel": {"dice": 0.7}}
POOR = {"Organ": {"dice": 0.5}, "Vessel": {"dice": 0.3}}


@pytest.fixture(scope="module")
def server(tmp_path_factory, every_storage):
    with app_server(tmp_path_factory.mktemp("models") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def sites(server, every_storage):
    return server.add_consortium("Hospital A", "Hospital B")


@pytest.fixture(scope="module", autouse=True)
def two_models(server, sites):
    with server.services.database.writing() as session:
        task = tasks.find_task(session, TASK.name)
        for number in (1, 2):
            session.add(Job(id=number, task_id=task.id, state="done", config={}, created="2026-01-01T00:00:00Z"))
            session.flush()
            jobs.record_epoch(session, number, EpochReport(2, 2, 0.4, None, 1.5))
            jobs.record_epoch(session, number, EpochReport(1, 2, 0.8, 0.9, 1.5))
            jobs.record_epoch(session, number, EpochReport(1, 2, 0.7, 0.9, 1.5))  # once more, after a crash
            session.add(
                Model(
                    task_id=task.id, number=number, job_id=number, state="ready", preset="default", profile="coarse",
                    mode="two-layer", scope="consortium", codecs={CODEC: None}, config={}, seed=1, code_version="-",
                    file="absent", file_digest="-", cases=6, slices=24, created="2026-01-01T00:00:00Z",
                )
            )  # fmt: skip


def command(server, capsys, *arguments):
    assert main([*arguments, "--dir", str(server.services.config.folder)]) == 0
    return capsys.readouterr().out


def test_a_model_comes_with_its_curve_and_each_sites_newest_scores(server, sites, capsys):
    a, b = sites
    a.client.report_validation(TASK.name, 1, {"cases": 2, "labels": POOR})
    a.client.report_validation(TASK.name, 1, {"cases": 3, "labels": GOOD, "alone": POOR})
    b.client.report_validation(TASK.name, 1, {"cases": 1, "labels": POOR})
    first, second = a.client.models(TASK.name)
    assert (first["number"], first["codec"], first["cases"], first["slices"]) == (1, CODEC, 6, 24)
    assert [(point["epoch"], point["train_loss"]) for point in first["curve"]] == [(1, 0.7), (2, 0.4)]
    assert second["validations"] == []
    scores = {report["site"]: report for report in first["validations"]}
    assert set(scores) == {"Hospital A", "Hospital B"}
    assert scores["Hospital A"]["cases"] == 3
    assert scores["Hospital A"]["labels"]["Organ"]["dice"] == 0.9
    assert scores["Hospital A"]["alone"]["Vessel"]["dice"] == 0.3
    out = command(server, capsys, "model", "list", TASK.name)
    assert "model 1, Hospital A: Dice 0.800 over 3 cases, alone 0.400" in out
    assert "model 1, Hospital B: Dice 0.400 over 1 cases, alone -" in out


def test_a_sites_scores_of_a_model_replace_those_before_and_no_others(server, sites):
    """However often it reports, the server keeps and reads as many reports as there are sites."""
    for site in sites:
        for number in (1, 2):
            for cases in (4, 5):
                site.client.report_validation(TASK.name, number, {"cases": cases, "labels": GOOD})
    with server.services.database.reading() as session:
        kept = [(validation.site_id, validation.numbers["cases"]) for validation in session.query(Validation)]
    assert sorted(kept) == sorted((site.site_id, 5) for site in sites for _ in range(2))


def test_of_several_reports_that_an_earlier_server_kept_the_newest_counts(server, sites):
    with server.services.database.writing() as session:
        (model, _) = models.list_models(session, tasks.find_task(session, TASK.name))
        for cases in (7, 8):
            numbers = {"cases": cases, "labels": GOOD, "alone": {}}
            moment = "2026-01-01T00:00:00Z"
            session.add(Validation(model_id=model.id, site_id=sites[0].site_id, numbers=numbers, created=moment))
            session.flush()
    (first, _) = sites[0].client.models(TASK.name)
    assert [report["cases"] for report in first["validations"] if report["site"] == "Hospital A"] == [8]
    sites[0].client.report_validation(TASK.name, 1, {"cases": 9, "labels": GOOD})
    with server.services.database.reading() as session:
        kept = [validation.numbers["cases"] for validation in session.query(Validation).filter_by(model_id=model.id)
                if validation.site_id == sites[0].site_id]  # fmt: skip
    assert kept == [9]


@pytest.mark.parametrize("label", ["Kidney", ""])
def test_scores_of_labels_that_the_task_lacks_are_refused(sites, label):
    for part in ("labels", "alone"):
        numbers = {"cases": 1, "labels": GOOD, part: {label: {"dice": 0.5}}}
        with pytest.raises(ServerRefusedError) as caught:
            sites[0].client.report_validation(TASK.name, 2, numbers)
        assert caught.value.status == 422


def test_the_operator_activates_and_the_one_before_is_retired(server, sites, capsys):
    def states():
        return [model["state"] for model in sites[1].client.models(TASK.name)]

    def active():
        found = sites[1].client.task(TASK.name)["active_model"]
        return found and found["number"]

    assert (states(), active()) == (["ready", "ready"], None)
    command(server, capsys, "model", "activate", TASK.name, "1")
    assert (states(), active()) == (["active", "ready"], 1)
    command(server, capsys, "model", "activate", TASK.name, "2")
    assert (states(), active()) == (["retired", "active"], 2)
    command(server, capsys, "model", "activate", TASK.name, "1")  # back again
    assert (states(), active()) == (["active", "retired"], 1)
    assert re.search(r"tiny@1 +1 +2\n", command(server, capsys, "task", "list"))


def test_rolling_back_goes_to_the_model_that_was_active_before_and_again_further_back(tmp_path, capsys):
    with app_server(tmp_path / "server") as server:
        server.add_consortium("Hospital A")
        for number in (1, 2, 3):
            add_model(server.services, random_umn(number), number=number, state="ready")

        def active(change=None, *arguments):
            with server.services.database.writing() as session:
                task = tasks.find_task(session, TASK.name)
                if change is not None:
                    change(session, task, *arguments, actor="operator-7")
                return [model.number for model in models.list_models(session, task) if model.state == "active"]

        with pytest.raises(TrainingError, match="No model was active before"):
            active(models.roll_back)
        assert [active(models.activate, number) for number in (1, 3, 3, 2)] == [[1], [3], [3], [2]]
        assert active(models.roll_back) == [3]
        assert active(models.activate, 2) == [2]
        assert main(["model", "rollback", TASK.name, "--dir", str(tmp_path / "server")]) == 0
        assert "Model 3 of tiny is active again." in capsys.readouterr().out
        assert active(models.roll_back) == [1]
        with pytest.raises(TrainingError, match="No model was active before"):
            active(models.roll_back)
        assert active() == [1]
        with server.services.database.reading() as session:
            told = [(event.actor, event.objects["model"]) for event in audit.events(session, None, 3)]
    assert sorted(told) == [("operator", 3), ("operator-7", 1), ("operator-7", 2)]
