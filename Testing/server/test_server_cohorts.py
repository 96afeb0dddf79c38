"""Cohorts on the server: uploads that go on, refusals that say why, and withdrawal that leaves nothing."""

from contextlib import contextmanager

import pytest
from sqlalchemy import func, select

from ppcmi.cohort_file import CohortReader, CohortWriter
from ppcmi.errors import ServerRefusedError, TrainingError
from ppcmi.scales import Profile, Stream
from ppcmi.sealing import new_private_key, public_key_of
from ppcmi_server import tasks
from ppcmi_server.database.schema import Cohort, Consortium, Frame, Job, JobCohort, Model
from ppcmi_server.intake.cohorts import list_cohorts, sites_of_earlier_codec
from ppcmi_server.storage.blobs import BlobStore
from ppcmi_server.training import jobs
from support.app_server import TASK, app_server, make_latents, pseudonym
from support.storages import stored_files

pytestmark = pytest.mark.usefixtures("every_storage")


@pytest.fixture(scope="module")
def server(tmp_path_factory, every_storage):
    with app_server(tmp_path_factory.mktemp("cohorts") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def site(server, every_storage):
    return server.add_consortium("Hospital A", "Hospital B")[0]


@pytest.fixture
def cohort(site, tmp_path):
    return site.write_cohort(tmp_path / "a.ppcmi", cases=[1, 2])


def frames_of(cohort):
    return [frame.data for _, frame in cohort.frames()]


@contextmanager
def refused(status, sentence):
    """The server refuses with that status and a sentence of this kind."""
    with pytest.raises(ServerRefusedError, match=f"(?i){sentence}") as caught:
        yield
    assert caught.value.status == status


def test_an_upload_that_was_cut_off_goes_on_and_repeating_changes_nothing(site, cohort):
    data = frames_of(cohort)
    cohort_id = site.client.create_cohort(TASK.name, cohort.header_bytes)
    site.client.put_frame(cohort_id, 2, data[2])
    assert site.client.cohort(cohort_id) == {
        "cohort_id": cohort_id, "state": "open", "frames": [2], "partial": {}, "cases": 1, "chunk_bytes": 8 << 20,
    }  # fmt: skip
    assert site.client.create_cohort(TASK.name, cohort.header_bytes) == cohort_id  # the same, after a crash
    for index in (0, 1, 2, 3, 3):
        status = site.call("PUT", f"/v1/cohorts/{cohort_id}/frames/{index}", data=data[index]).status_code
        assert status == (200 if index == 2 else 201) or index == 3
    answers = [site.client.commit_cohort(cohort_id, 4, cohort.end.digest) for _ in range(2)]
    assert answers == [{"cases": 2, "slices": 8}] * 2  # slices as they are, not their variants
    assert site.client.cohort(cohort_id)["state"] == "whole"
    site.client.put_frame(cohort_id, 1, data[1])  # late, but the same
    with refused(409, "another frame of this index"):
        site.client.put_frame(cohort_id, 1, data[0])
    with refused(409, "takes no more frames"):
        site.client.put_frame(cohort_id, 4, data[1])


def test_a_commit_that_does_not_fit_is_refused_with_what_is_missing(site, cohort):
    data = frames_of(cohort)
    cohort_id = site.client.create_cohort(TASK.name, cohort.header_bytes)
    for index in (0, 3):
        site.client.put_frame(cohort_id, index, data[index])
    with refused(409, r"Frames 1, 2 are missing \(2 in all\)"):
        site.client.commit_cohort(cohort_id, 4, cohort.end.digest)
    for index in (1, 2):
        site.client.put_frame(cohort_id, index, data[index])
    with refused(409, "more frames than the commit says"):
        site.client.commit_cohort(cohort_id, 3, cohort.end.digest)
    with refused(409, "digest is another"):
        site.client.commit_cohort(cohort_id, 4, "0" * 64)
    assert site.client.cohort(cohort_id)["state"] == "open"
    site.client.commit_cohort(cohort_id, 4, cohort.end.digest)
    with refused(409, "committed with another digest"):
        site.client.commit_cohort(cohort_id, 4, "0" * 64)


def test_frames_that_were_altered_moved_or_cut_are_refused_and_leave_nothing(server, site, cohort):
    data = frames_of(cohort)
    cohort_id = site.client.create_cohort(TASK.name, cohort.header_bytes)
    altered = bytearray(data[0])
    altered[-1] ^= 1
    for index, bad in ((0, bytes(altered)), (1, data[0]), (0, data[0][:100]), (0, b"{}"), (0, b"")):
        with refused(422, "upload the file again|export the cohort again"):
            site.client.put_frame(cohort_id, index, bad)
    assert site.client.cohort(cohort_id)["frames"] == []
    assert not [name for name in stored_files(server.services) if cohort_id in name]


def test_a_cohort_of_another_codec_or_inner_key_does_not_come_in(site, tmp_path):
    other_codec = site.write_cohort(tmp_path / "codec.ppcmi", [1], codec="f" * 32)
    with refused(409, "another codec"):
        site.client.create_cohort(TASK.name, other_codec.header_bytes)
    other_key = site.write_cohort(tmp_path / "key.ppcmi", [1], inner_key=b"k" * 32)
    cohort_id = site.client.create_cohort(TASK.name, other_key.header_bytes)
    with refused(409, "inner key"):
        site.client.put_frame(cohort_id, 0, frames_of(other_key)[0])


def test_latents_of_other_shapes_are_refused_before_they_are_unpacked(site, tmp_path, monkeypatch):
    """A header may say what it likes; room is made only for the task's own shapes."""
    protection = site.protection()
    wide = make_latents(2, 1).map(lambda _, values: values.repeat(1, 1, 2, 2))
    for streams in ({Stream.IMAGE: wide, Stream.MASK: wide}, {Stream.IMAGE: make_latents(2, 1)}):
        path = tmp_path / f"{len(streams)}.ppcmi"
        with CohortWriter(
            path,
            server_public_key=site.server_public_key,
            task=TASK.identity,
            codec=protection.codec,
            profile=Profile.COARSE,
            mode="two-layer",
            quantization=protection.quantization,
        ) as writer:
            writer.add_case(pseudonym(1), [protection.protect(streams, pseudonym(1), range(2))])
        reader = CohortReader(path)
        cohort_id = site.client.create_cohort(TASK.name, reader.header_bytes)
        monkeypatch.setattr("ppcmi.channel.unpack", None)  # nothing may get so far
        with refused(422, "shapes of the task|image and mask latents"):
            site.client.put_frame(cohort_id, 0, frames_of(reader)[0])
        monkeypatch.undo()


def test_a_cohort_for_another_server_is_told_apart(site, tmp_path):
    own = site.server_public_key
    try:
        site.server_public_key = public_key_of(new_private_key())
        foreign = site.write_cohort(tmp_path / "foreign.ppcmi", [1])
    finally:
        site.server_public_key = own
    with refused(409, "another"):
        site.client.create_cohort(TASK.name, foreign.header_bytes)


def add_model(server, cohort_ids):
    """A job on the cohorts, done, and the model that came of it, as a worker registers them."""
    with server.services.database.writing() as session:
        task = tasks.find_task(session, TASK.name)
        job = Job(task_id=task.id, state="done", config={}, created="2026-01-01T00:00:00Z")
        session.add(job)
        session.flush()
        session.add_all(JobCohort(job_id=job.id, cohort_id=cohort_id) for cohort_id in cohort_ids)
        session.add(
            Model(
                task_id=task.id, number=job.id, job_id=job.id, state="ready", preset="default", profile="coarse",
                mode="two-layer", scope="consortium", codecs={}, config={}, seed=1, code_version="test", file="none",
                file_digest="0" * 64, cases=2, slices=8, created="2026-01-01T00:00:00Z",
            )
        )  # fmt: skip
        return job.id


def test_withdrawing_a_cohort_removes_bytes_and_key_and_marks_its_models(server, site, cohort, tmp_path):
    kept_id = site.upload(site.write_cohort(tmp_path / "b.ppcmi", [3]))
    stored_before = site.client.me()["stored_bytes"]
    cohort_id = site.upload(cohort)
    assert site.client.me()["stored_bytes"] > stored_before + sum(len(data) for data in frames_of(cohort)) * 0.9
    before, after = add_model(server, [cohort_id, kept_id]), add_model(server, [kept_id])
    with server.services.database.reading() as session:
        wrapped = session.get_one(Cohort, cohort_id).wrapped_key
        header = session.get_one(Cohort, cohort_id).header
    stored = stored_files(server.services)
    assert sum(f"cohorts/{cohort_id}/" in name for name in stored) == 4
    if server.services.database.kind == "sqlite":  # PostgreSQL's files are not the server's
        assert any(wrapped in data for data in stored.values())  # the search finds what it looks for

    for _ in range(2):
        site.client.withdraw(cohort_id)

    left = stored_files(server.services)
    assert not [name for name in left if cohort_id in name]
    assert not [name for name, data in left.items() if wrapped in data or header in data]
    with server.services.database.reading() as session:
        assert session.scalar(select(func.count()).where(Frame.cohort_id == cohort_id)) == 0
    marked = {model["number"]: model["withdrawn_data"] for model in site.client.models(TASK.name)}
    assert (marked[before], marked[after]) == (True, False)
    state = site.client.cohort(cohort_id)
    assert (state["state"], state["frames"], state["partial"], state["cases"]) == ("withdrawn", [], {}, 0)
    assert site.client.me()["stored_bytes"] == stored_before
    with refused(409, "withdrawn"):
        site.client.put_frame(cohort_id, 0, frames_of(cohort)[0])
    assert site.client.create_cohort(TASK.name, cohort.header_bytes) == cohort_id  # it does not come back as another
    assert site.client.cohort(kept_id)["state"] == "whole"


def test_a_withdrawal_while_a_frame_arrives_leaves_nothing_of_it(server, site, cohort, monkeypatch):
    cohort_id = site.client.create_cohort(TASK.name, cohort.header_bytes)
    write = BlobStore.write

    def withdraw_then_write(blobs, name, content):
        site.client.withdraw(cohort_id)
        write(blobs, name, content)

    monkeypatch.setattr(BlobStore, "write", withdraw_then_write)
    with refused(409, "withdrawn"):
        site.client.put_frame(cohort_id, 0, frames_of(cohort)[0])
    assert not [name for name in stored_files(server.services) if cohort_id in name]


def test_withdrawing_cases_one_by_one_ends_with_the_cohort_withdrawn(server, site, cohort):
    cohort_id = site.upload(cohort)
    model = add_model(server, [cohort_id])
    with refused(404, "no such case"):
        site.client.withdraw(cohort_id, pseudonym(9))
    for _ in range(2):
        site.client.withdraw(cohort_id, pseudonym(1))
    assert site.client.cohort(cohort_id)["cases"] == 1
    assert sum(f"cohorts/{cohort_id}/" in name for name in stored_files(server.services)) == 2
    assert {m["number"]: m["withdrawn_data"] for m in site.client.models(TASK.name)}[model]
    site.client.withdraw(cohort_id, pseudonym(2))
    assert site.client.cohort(cohort_id)["state"] == "withdrawn"
    assert not [name for name in stored_files(server.services) if cohort_id in name]


def test_what_a_crash_left_behind_a_withdrawal_is_swept_up_at_the_start(server, site, cohort):
    cohort_id = site.upload(cohort)
    blobs = server.services.blobs
    blobs.write(f"cohorts/{cohort_id}/0-orphan", b"an upload whose row was not written")
    blobs.write(f"cohorts/{'0' * 32}/0-orphan", b"of a cohort that is gone")
    server.services.cohorts.sweep()
    assert (
        sum("orphan" in name for name in stored_files(server.services)) == 2
    )  # an upload may be about to write their rows
    server.services.cohorts.sweep(older_than_s=0)
    assert sum(f"cohorts/{cohort_id}/" in name for name in stored_files(server.services)) == 4
    assert not [name for name in stored_files(server.services) if "orphan" in name]


def test_a_job_trains_on_what_fits_and_says_what_to_do_where_nothing_does(server, site, tmp_path):
    with server.services.database.writing() as session:
        task = tasks.find_task(session, TASK.name)
        for cohort in session.scalars(select(Cohort)):
            cohort.state = "withdrawn"  # start from nothing
        with pytest.raises(TrainingError, match="no whole cohort"):
            jobs.queue_job(session, task, jobs.TrainingRequest())
    coarse = site.upload(site.write_cohort(tmp_path / "coarse.ppcmi", [1]))
    full = site.upload(site.write_cohort(tmp_path / "full.ppcmi", [2], profile=Profile.FULL))
    site.client.create_cohort(TASK.name, site.write_cohort(tmp_path / "open.ppcmi", [3]).header_bytes)
    with server.services.database.writing() as session:
        with pytest.raises(TrainingError, match="coarse, full"):
            jobs.queue_job(session, task, jobs.TrainingRequest())
        job, new = jobs.queue_job(session, task, jobs.TrainingRequest(profile=Profile.COARSE))
        assert new
        assert {cohort.id for cohort in jobs.cohorts_of(session, job)} == {coarse, full}
        with pytest.raises(TrainingError, match="unfinished and has other options"):
            jobs.queue_job(session, task, jobs.TrainingRequest(profile=Profile.FULL))
        assert jobs.queue_job(session, task, jobs.TrainingRequest()) == (job, False)
        jobs.request_stop(session, job.id)
        job, _ = jobs.queue_job(session, task, jobs.TrainingRequest(profile=Profile.FULL))
        assert [cohort.id for cohort in jobs.cohorts_of(session, job)] == [full]


def test_cohorts_of_an_earlier_codec_are_told_apart_and_not_trained_on(server, site, tmp_path):
    earlier = site.upload(site.write_cohort(tmp_path / "earlier.ppcmi", [5]))
    with server.services.database.writing() as session:
        for job in jobs.unfinished_jobs(session):
            jobs.request_stop(session, job.id)
        consortium = session.get_one(Consortium, tasks.find_task(session, TASK.name).id)
        codec, consortium.codec = consortium.codec, "9" * 32
    try:
        with server.services.database.writing() as session:
            task = tasks.find_task(session, TASK.name)
            assert {cohort.id: fits for cohort, _, _, fits in list_cohorts(session, task)}[earlier] is False
            assert sites_of_earlier_codec(session, task) == ["Hospital A"]
            with pytest.raises(TrainingError, match="of an earlier codec; have the sites export"):
                jobs.queue_job(session, task, jobs.TrainingRequest())
    finally:
        with server.services.database.writing() as session:
            task = tasks.find_task(session, TASK.name)
            session.get_one(Consortium, task.id).codec = codec
            assert {cohort.id: fits for cohort, _, _, fits in list_cohorts(session, task)}[earlier] is True
