"""Fetching from and storing to an archive over DICOMweb: a real Orthanc, and impostors of one."""

import json
import stat

import pydicom
import pytest
from pydicom.uid import generate_uid

from ppcmi.archive.fetched import fetched_series
from ppcmi.archive.instance_files import series_name
from ppcmi.archive.stored_results import StoredResults
from ppcmi.archive.web import ArchivedSeries, DicomWebArchive
from ppcmi.archive.web_transport import ArchiveAccess, DownloadLimits
from ppcmi.client import Patience
from ppcmi.connection_errors import CertificateError
from ppcmi.errors import ConnectionFailedError, ReadError, ServerRefusedError, UsageError, WriteError
from support.dicom_studies import small_volume, study_of, write_study
from support.loopback import Answer, loopback_server, write_certificate
from support.orthanc import PASSWORD, USER, free_port, orthanc

HURRIED = Patience(connect_s=2, read_s=10, attempts=3, pause_s=0.01)
UNSEEN = "a-token-that-nobody-sees"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@pytest.fixture(scope="module")
def study(server, tmp_path_factory):
    study = write_study(tmp_path_factory.mktemp("study"), [small_volume(), small_volume()])
    server.add(*study.files)
    return study


@pytest.fixture
def archive(server):
    return DicomWebArchive(ArchiveAccess(server.dicomweb, user=USER, password=PASSWORD), patience=HURRIED)


def fetch(archive, series, folder):
    return list(archive.download(series, folder))


def pixels_by_uid(files):
    datasets = [pydicom.dcmread(file) for file in files]
    return {str(d.SOPInstanceUID): (d.file_meta.TransferSyntaxUID, d.PixelData) for d in datasets}


def test_a_study_arrives_as_it_was_stored(archive, study, tmp_path):
    found = archive.image_series(study.uid)
    assert sorted(series.uid for series in found) == list(study.series)
    events = [fetch(archive, series, tmp_path / "in")[-1] for series in found]
    assert sum(event.instances for event in events) == len(study.files)
    assert pixels_by_uid((tmp_path / "in").iterdir()) == pixels_by_uid(study.files)


def test_every_encoding_arrives_as_it_was_stored(archive, server, data_folder, tmp_path):
    files = [path for path in sorted(data_folder("dicom_samples").glob("transfer_syntaxes_mr/**/*")) if path.is_file()]
    files = [path for path in files if path.read_bytes()[128:132] == b"DICM"]
    for number, path in enumerate(files):
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.save_as(tmp_path / f"{number}.dcm")
    files = sorted(tmp_path.glob("*.dcm"))
    assert len({pydicom.dcmread(path).file_meta.TransferSyntaxUID for path in files}) == 7
    server.add(*files)
    for series in archive.image_series(study_of(files).uid):
        fetch(archive, series, tmp_path / "in")
    assert pixels_by_uid((tmp_path / "in").iterdir()) == pixels_by_uid(files)


def test_files_say_nothing_by_their_names_and_are_for_nobody_else(archive, study, tmp_path):
    fetch(archive, archive.image_series(study.uid)[0], tmp_path / "in")
    assert stat.S_IMODE((tmp_path / "in").stat().st_mode) == 0o700
    for path in (tmp_path / "in").iterdir():
        uid = str(pydicom.dcmread(path).SOPInstanceUID)
        assert len(path.stem) == 32
        assert set(path.stem) <= set("0123456789abcdef")
        assert uid not in path.name


def test_one_series_is_fetched_where_it_is_named(archive, study):
    assert [series.uid for series in archive.image_series(study.uid, (study.series[1],))] == [study.series[1]]


def test_series_without_images_are_not_fetched(archive, server, tmp_path):
    study = write_study(tmp_path)
    report = pydicom.dcmread(study.files[0])
    report.Modality, report.SeriesInstanceUID = "SR", generate_uid()
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    report.save_as(tmp_path / "report.dcm")
    server.add(*study.files, tmp_path / "report.dcm")
    assert len(archive.image_series(study.uid)) == 1


def test_a_study_that_the_archive_does_not_have_is_named_as_that(archive, study):
    with pytest.raises(ReadError, match="no such study"):
        archive.image_series("1.2.3.4")
    with pytest.raises(ReadError, match="does not have such a series"):
        archive.image_series(study.uid, ("1.2.3.4",))
    with pytest.raises(UsageError, match="UID"):
        archive.image_series("../../etc/passwd")


@pytest.mark.parametrize("access", [{}, {"user": USER, "password": "wrong"}, {"token": UNSEEN}])
def test_wrong_credentials_are_refused_and_not_repeated_in_the_sentence(server, study, access):
    archive = DicomWebArchive(ArchiveAccess(server.dicomweb, **access), patience=HURRIED)
    with pytest.raises(ServerRefusedError, match="does not know the user or the token") as refused:
        archive.image_series(study.uid)
    assert refused.value.status == 401
    for secret in (UNSEEN, "wrong"):
        assert secret not in str(refused.value) + repr(ArchiveAccess(server.dicomweb, **access))


def test_an_archive_that_is_not_there_is_named_as_that():
    archive = DicomWebArchive(ArchiveAccess(f"http://127.0.0.1:{free_port()}/dicom-web"), patience=HURRIED)
    with pytest.raises(ConnectionFailedError, match=r"The archive cannot be reached"):
        archive.image_series("1.2.3")


def test_a_stored_instance_is_in_its_study(archive, server, tmp_path):
    study = write_study(tmp_path)
    archive.store(study.files[0], study.uid)
    (instance,) = server.instances(StudyInstanceUID=study.uid)
    assert pixels_by_uid(study.files[:1]) == {
        instance["MainDicomTags"]["SOPInstanceUID"]: pixels_by_uid(study.files[:1]).popitem()[1]
    }


def test_what_the_archive_does_not_store_is_an_error_with_its_reason(archive, tmp_path):
    with pytest.raises(ServerRefusedError, match=r"did not store the result: .*\([0-9A-F]{4}\)"):
        archive.store(write_study(tmp_path).files[0], "1.2.3.4.5")


# ---- a study on disk while it is worked on


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_fetched_study_is_private_and_gone_afterwards(archive, study, tmp_path):
    series = archive.image_series(study.uid)
    with fetched_series(archive, series, tmp_path / "out", lambda _: None) as folder:
        assert {path.name for path in folder.iterdir()} == {series_name(uid) for uid in study.series}
        assert len(files_of(folder)) == len(study.files)
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in (folder, *folder.iterdir()))
    assert not folder.exists()
    with (
        pytest.raises(ZeroDivisionError),
        fetched_series(archive, series, tmp_path / "out", lambda _: None) as folder,
    ):
        raise ZeroDivisionError
    assert not folder.exists()


def test_a_download_that_fails_leaves_nothing(study, tmp_path):
    wanted, part = ArchivedSeries(study.uid, study.series[0]), study.files[0].read_bytes()
    answers = [multipart(part, b"no DICOM"), multipart(b"no DICOM")]
    with (
        loopback_server(lambda _: answers.pop(0)) as server,
        pytest.raises((ReadError, ConnectionFailedError)),
        fetched_series(archive_at(server.url), [wanted], tmp_path / "out", lambda _: None),
    ):
        raise AssertionError("it was not fetched")
    assert files_of(tmp_path / "out") == [tmp_path / "out" / ".ppcmi-fetched.lock"]


def test_what_a_killed_run_left_is_not_taken_for_the_study(archive, study, tmp_path):
    left = tmp_path / "out" / ".ppcmi-fetched" / series_name(study.series[0]) / "left.dcm"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"another patient's")
    with fetched_series(archive, archive.image_series(study.uid), tmp_path / "out", lambda _: None) as folder:
        assert len(files_of(folder)) == len(study.files)


def test_two_runs_do_not_fetch_into_the_same_folder(archive, study, tmp_path):
    series = archive.image_series(study.uid)
    with (
        fetched_series(archive, series, tmp_path / "out", lambda _: None) as folder,
        pytest.raises(UsageError, match="Another run"),
        fetched_series(archive, series, tmp_path / "out", lambda _: None),
    ):
        raise AssertionError("it was let in")
    assert not folder.exists()


def test_files_that_are_fetched_again_look_the_same_unless_something_of_the_series_changed(tmp_path):
    series = write_study(tmp_path / "a")
    changed = pydicom.dcmread(series.files[0])
    changed.PixelData = bytes(len(changed.PixelData))
    changed.save_as(tmp_path / "changed.dcm")
    seen = []
    for first in (series.files[0], series.files[0], tmp_path / "changed.dcm"):
        parts = [path.read_bytes() for path in (first, *series.files[1:])]
        with (
            loopback_server(lambda _, parts=parts: multipart(*parts)) as server,
            fetched_series(
                archive_at(server.url), [ArchivedSeries(series.uid, series.series[0])], tmp_path, lambda _: None
            ) as folder,
        ):
            seen.append([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files_of(folder)])
    assert seen[0] == seen[1]
    assert [(name, size) for name, size, _ in seen[0]] == [(name, size) for name, size, _ in seen[2]]
    assert not {modified for *_, modified in seen[0]} & {modified for *_, modified in seen[2]}


# ---- impostors


def multipart(*parts):
    body = b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts) + b"--b--"
    return Answer(200, body, {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'})


def archive_at(url, **limits):
    return DicomWebArchive(ArchiveAccess(url, token=UNSEEN), DownloadLimits(**limits), HURRIED)


def test_images_of_another_patients_study_end_the_download(tmp_path):
    asked, other = write_study(tmp_path / "a"), write_study(tmp_path / "b")
    wanted = ArchivedSeries(asked.uid, asked.series[0])
    parts = [asked.files[0].read_bytes(), other.files[0].read_bytes()]
    with (
        loopback_server(lambda _: multipart(*parts)) as server,
        pytest.raises(ReadError, match="another study or series"),
    ):
        fetch(archive_at(server.url), wanted, tmp_path / "in")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>Welcome</html>", {"Content-Type": "text/html"}),
        Answer(200, b"[{", {"Content-Type": "application/dicom+json"}),
        Answer(200, b'[{"0020000E": 7}]', {"Content-Type": "application/dicom+json"}),
        Answer(200, b'[{"0020000E": {"vr": "UI", "Value": ["../x"]}}]', {"Content-Type": "application/dicom+json"}),
        Answer(200, b'["text"]', {"Content-Type": "application/dicom+json"}),
        Answer(302, b"", {"Location": "http://127.0.0.1:1/"}),
    ],
    ids=["a page", "cut off", "no UID", "a path as UID", "no object", "elsewhere"],
)
def test_what_does_not_speak_dicomweb_is_named_as_that(answer):
    with loopback_server(lambda _: answer) as server, pytest.raises(ConnectionFailedError) as failed:
        archive_at(server.url).image_series("1.2.3")
    assert str(failed.value).count(".") == 1
    assert "Welcome" not in str(failed.value)


@pytest.mark.parametrize("part", [b"", b"no DICOM at all", bytes(128) + b"DICM" + b"\xff" * 40])
def test_what_is_no_dicom_ends_the_download(part, tmp_path):
    with loopback_server(lambda _: multipart(part)) as server, pytest.raises((ReadError, ConnectionFailedError)):
        fetch(archive_at(server.url), ArchivedSeries("1.2", "1.2.3"), tmp_path / "in")
    assert not list(tmp_path.glob("in/*"))


def test_more_than_may_arrive_ends_the_download(tmp_path):
    study = write_study(tmp_path / "a")
    wanted, parts = ArchivedSeries(study.uid, study.series[0]), [path.read_bytes() for path in study.files]
    with loopback_server(lambda _: multipart(*parts)) as server:
        with pytest.raises(ReadError, match="larger than an image may be"):
            fetch(archive_at(server.url, instance_bytes=500), wanted, tmp_path / "in")
        with pytest.raises(ReadError, match="more than a study may have"):
            fetch(archive_at(server.url, study_bytes=3 * len(parts[0])), wanted, tmp_path / "in")
        with pytest.raises(WriteError, match="too little space"):
            fetch(archive_at(server.url, spare_bytes=1 << 60), wanted, tmp_path / "in")


def test_a_busy_archive_is_asked_again(tmp_path):
    study = write_study(tmp_path / "a")
    answers = [Answer(503), Answer(429, headers={"Retry-After": "0"}), multipart(study.files[0].read_bytes())]
    with loopback_server(lambda _: answers.pop(0)) as server:
        (event,) = fetch(archive_at(server.url), ArchivedSeries(study.uid, study.series[0]), tmp_path / "in")
    assert event.instances == 1


def test_a_busy_archive_is_not_asked_forever():
    with (
        loopback_server(lambda _: Answer(503)) as server,
        pytest.raises(ConnectionFailedError, match="busy or down"),
    ):
        archive_at(server.url).image_series("1.2.3")
    assert len(server.requests) == HURRIED.attempts


def test_storing_in_a_busy_archive_sends_the_whole_result_again(tmp_path):
    study = write_study(tmp_path / "a")
    answers = [Answer(503), Answer(200, b"{}", {"Content-Type": "application/dicom+json"})]
    with loopback_server(lambda _: answers.pop(0)) as server:
        archive_at(server.url).store(study.files[0], study.uid)
    first, second = (request.body for request in server.requests)
    assert first == second
    assert len(first) > study.files[0].stat().st_size * 0.9


def failed_with(reason):
    failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [reason]}}]}}
    return Answer(202, json.dumps(failed).encode(), {"Content-Type": "application/dicom+json"})


def test_a_result_that_was_refused_in_a_success_is_refused(tmp_path):
    with (
        loopback_server(lambda _: failed_with(0xA700)) as server,
        pytest.raises(ServerRefusedError, match=r"it has no room \(A700\)"),
    ):
        archive_at(server.url).store(write_study(tmp_path).files[0], "1.2.3")


def test_a_result_that_the_archive_has_already_is_stored(tmp_path):
    study = write_study(tmp_path)
    record = StoredResults(tmp_path)
    with loopback_server(lambda _: failed_with(0x0111)) as server:
        assert archive_at(server.url).deliver(study.files[:1], study.uid, record) == 1
        assert archive_at(server.url).deliver(study.files[:1], study.uid, record) == 0
    assert len(server.requests) == 1


def test_a_refused_result_does_not_keep_the_others_out(tmp_path):
    study = write_study(tmp_path)
    answers = [failed_with(0xA900), Answer(200, b"{}", {"Content-Type": "application/dicom+json"})]
    record = StoredResults(tmp_path)
    with (
        loopback_server(lambda _: answers.pop(0)) as server,
        pytest.raises(ServerRefusedError, match="does not fit its class"),
    ):
        archive_at(server.url).deliver(study.files[:2], study.uid, record)
    assert len((tmp_path / "ppcmi-stored.jsonl").read_text().splitlines()) == 1


def test_an_archive_whose_certificate_is_not_trusted_gets_no_token(tmp_path):
    certificate = write_certificate(tmp_path / "c.pem")
    with loopback_server(lambda _: Answer(200, b"[]"), certificate) as server:
        with pytest.raises(CertificateError, match="--ca"):
            archive_at(server.url).image_series("1.2.3")
        assert not server.requests
        trusting = DicomWebArchive(ArchiveAccess(server.url, UNSEEN, ca_file=certificate), patience=HURRIED)
        with pytest.raises(ReadError, match="no such study"):
            trusting.image_series("1.2.3")
        assert server.requests[0].headers["Authorization"] == f"Bearer {UNSEEN}"
