"""Names, dates and paths are planted everywhere a hospital might have them; none of them leaves the site.

Every byte that the site sends goes through a recorder. Searched are those bytes, also what is encrypted in them for
the server or for other members, all files of the server, its log and its database, and what is inside the cohort file
and the results. Controls show that the search would find what it looks for.
"""

import csv
import http.client
import socket
import time
import zlib
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pydicom
import pytest

from ppcmi.cli.main import main
from ppcmi.cohort_file import CohortKey, CohortReader
from ppcmi.phantoms import SCANNERS, make_phantom
from ppcmi_server.storage.keys import ServerKeys
from support.markers import Markers, write_marked_case, write_marked_dicom, write_marked_nifti, write_marked_scene
from support.real_server import real_server
from support.recorder import appearances, found_in, recorder_of

TASK_FILE = Path(__file__).parents[2] / "Resources" / "Tasks" / "phantom.json"

OF_THE_SCAN = (
    "InstitutionName", "InstitutionAddress", "OperatorsName", "PerformingPhysicianName", "StationName",
    "DeviceSerialNumber", "ProtocolName", "SeriesDescription", "ImageComments",
)  # fmt: skip
"""What a scanner says of itself and its series; a result says who it was made by instead."""


@pytest.fixture(scope="module")
def markers():
    return Markers()


@pytest.fixture(scope="module")
def connected_to():
    """The ports that this process connects to."""
    ports = set()
    connect = socket.socket.connect

    def note(self, address):
        ports.add(address[1])
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", note)
        yield ports


@pytest.fixture(scope="module")
def a_day(tmp_path_factory, markers, connected_to):
    """Everything a site does, with markers everywhere: the recorder, the server, and the files that were made."""
    home = tmp_path_factory.mktemp("home") / markers.word() / markers.word()
    cases = home / markers.word()
    names = [markers.word() for _ in range(3)]
    for seed, name in enumerate(names):
        write_marked_case(seed, cases, name, markers)
    with (cases / "split.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["id", "fold", "patient"])
        folds = ("train", "train", "val")
        table.writerows([name, fold, markers.word()] for name, fold in zip(names, folds, strict=True))
    scan, _ = make_phantom(SCANNERS["B"], 9)
    series = write_marked_dicom(scan, home / markers.word(), markers)
    nifti = write_marked_nifti(make_phantom(SCANNERS["C"], 5)[0], home / markers.word(), markers)
    scene = write_marked_scene(make_phantom(SCANNERS["B"], 6)[0], home / markers.word(), markers)

    server_folder = tmp_path_factory.mktemp("server") / "folder"
    with real_server(server_folder, TASK_FILE) as server, recorder_of(server.url) as recorder:
        cohort, results = home / f"{markers.word()}.ppcmi", home / markers.word()
        for arguments in (
            ["site", "init", "--server", recorder.url, "--code", server.add_site("Hospital A")],
            ["consortium", "create", "--task", "phantom"],
            ["codec", "train", "--task", "phantom", "--cases", cases, "--effort", "0.01", "--publish-anyway"],
            ["cohort", "export", "--task", "phantom", "--cases", cases, "-o", cohort],
            ["cohort", "upload", cohort],
        ):
            _site(home, *arguments)
        server.command("train", "phantom", "--epochs", "1")
        server.command("model", "activate", "phantom", "1")
        _site(home, "codec", "refine", "--task", "phantom", "--cases", cases, "--effort", "0.01")
        _site(home, "model", "validate", "--task", "phantom", "--cases", cases)
        scan_file = cases / "images" / f"{names[0]}.nrrd"
        segment = ("segment", "--task", "phantom")
        _site(home, *segment, series, scan_file, nifti, "-o", results)
        filed = home / markers.word()
        _site(home, *segment, series, "--format", "dcm", "--quantization", "f16", "-o", filed)
        _site(home, *segment, nifti, scene, "--quantization", "f32", "-o", home / markers.word())
        yield SimpleNamespace(
            recorder=recorder,
            server=server,
            cohort=cohort,
            results=results,
            profile=home / "profile",
            series=series,
            filed=filed,
        )


def _site(home, *arguments):
    assert main([*(str(a) for a in arguments), "--site", str(home / "profile"), "--device", "cpu", "--quiet"]) == 0


def test_there_is_much_to_find(a_day, markers):
    assert len(markers.words) > 2500
    sent = a_day.recorder.sent
    assert len(sent) > 100_000
    for call in (b"POST /v1/enrol", b"PUT /v1/tasks/phantom/codec", b"PUT /v1/cohorts/", b"/validations", b"/map?"):
        assert call in sent


def test_no_marker_is_in_the_bytes_that_left_the_site(a_day, markers):
    assert found_in(a_day.recorder.sent, markers.words) == set()


def test_the_site_connects_to_its_server_and_to_nothing_else(a_day, connected_to):
    assert connected_to == {urlsplit(a_day.recorder.url).port, urlsplit(a_day.server.url).port}


def test_no_marker_is_in_what_left_encrypted_for_the_server(a_day, markers):
    reader = CohortReader(a_day.cohort)
    key = CohortKey.open(reader.header_bytes, ServerKeys.load(a_day.server.folder).private_key)
    opened = [key.open_frame(index, frame.data) for index, frame in reader.frames()]
    bundles = b"".join(bundle for _, bundle in opened)
    assert len(bundles) > 100_000
    assert found_in(bundles + repr([(part, key.header) for part, _ in opened]).encode(), markers.words) == set()
    assert found_in(a_day.cohort.read_bytes(), markers.words) == set()


def test_no_marker_is_in_what_left_encrypted_for_other_members(a_day, markers):
    codec = a_day.profile / "tasks" / "phantom" / "codec.safetensors"
    assert found_in(codec.read_bytes(), markers.words) == set()


def test_no_marker_is_in_the_server_s_files_or_its_log(a_day, markers):
    files = [path for path in a_day.server.folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) > 100_000
    assert "cohorts" in a_day.server.log
    everything = b"".join(path.read_bytes() + str(path).encode() for path in files) + a_day.server.log.encode()
    assert found_in(everything, markers.words) == set()


def test_no_marker_is_inside_the_results_which_are_named_after_the_scans(a_day, markers):
    files = [*a_day.results.glob("*.seg.nrrd"), *a_day.results.glob("*.nii.gz")]
    assert len(files) == 6
    for file in files:
        assert found_in(file.read_bytes(), markers.words) == set()
        assert found_in(file.name.encode(), markers.words) != set()


def test_a_dicom_result_stays_and_has_its_study_s_identity_and_nothing_else_of_the_scan(a_day, markers):
    (result,) = a_day.filed.glob("*.seg.dcm")
    image, segmentation = pydicom.dcmread(next(a_day.series.iterdir())), pydicom.dcmread(result)
    for keyword in ("PatientID", "PatientName", "PatientSex", "StudyInstanceUID", "StudyID", "AccessionNumber"):
        assert segmentation[keyword].value == image[keyword].value
    assert segmentation.FrameOfReferenceUID == image.FrameOfReferenceUID
    assert len(found_in(result.read_bytes(), markers.words)) > 30
    others = [word for keyword in OF_THE_SCAN for word in str(image[keyword].value).split("^")]
    others += [image[group, 0x1001].value for group in (0x0009, 0x0029, 0x7053)]
    others += [item.TextValue for item in image.RequestAttributesSequence]
    others += [path.stem for path in a_day.series.iterdir()]
    assert set(others) < markers.words
    assert found_in(result.read_bytes(), others) == set()


def test_the_search_finds_a_marker_that_does_leave(a_day):
    planted = Markers().word()
    parts = urlsplit(a_day.recorder.url)
    packed = zlib.compress(b"name=" + planted.encode())
    for form in (*appearances(planted), packed):
        before = len(a_day.recorder.sent)
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
        connection.request("PUT", "/v1/nothing-here", body=b"\x00\x01" + form + b"\x02")
        connection.getresponse().read()
        connection.close()
        assert _found_soon(a_day.recorder, before, planted)


def _found_soon(recorder, before, planted):
    """The server may answer before it, and the recorder, have read all of a request."""
    deadline = time.monotonic() + 10
    while found_in(recorder.sent[before:], [planted]) != {planted}:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_the_words_are_in_the_scans_that_stay(tmp_path):
    scan, _ = make_phantom(SCANNERS["B"], 3)
    own = Markers()
    folder = write_marked_dicom(scan, tmp_path / "series", own)
    content = b"".join(path.read_bytes() for path in folder.iterdir())
    assert len(found_in(content, own.words)) > 0.9 * len(own.words) - 60
    assert pydicom.dcmread(next(folder.iterdir())).PatientName
