"""A node that receives from a real Orthanc and from callers that do what they should not, and sends back to it."""

import socket
import ssl
import stat
import struct
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import pydicom
import pynetdicom
import pytest
from pydicom.uid import CTImageStorage, MRImageStorage, SegmentationStorage, generate_uid

from ppcmi.archive.addresses import Application, parse_application
from ppcmi.archive.arrivals import Arrivals
from ppcmi.archive.associations import associate
from ppcmi.archive.node import LONGEST_PDU, NodeSettings, Receiver
from ppcmi.archive.node_delivery import VERIFICATION, Delivery
from ppcmi.archive.node_storage import StorageLimits, StudyStore
from ppcmi.archive.node_tls import calling_context, listening_context
from ppcmi.archive.node_work import NodeWork, Segmented
from ppcmi.archive.stored_results import StoredResults
from ppcmi.errors import ConnectionFailedError, ServerRefusedError, UsageError
from support.dicom_caller import NODE, call, store_as
from support.dicom_studies import study_of, write_study
from support.loopback import write_certificate
from support.orthanc import AE_TITLE, free_port, orthanc

ROOMY = StorageLimits(quota_bytes=1 << 30, spare_bytes=0)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    with orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@dataclass
class Node:
    store: StudyStore
    arrivals: Arrivals
    port: int
    said: list[str] = field(default_factory=list)

    def work(self, delivery, history):
        return NodeWork(self.store, self.arrivals, a_result, delivery, self.store.remove, history, self.said.append)


@contextmanager
def a_node(folder, limits=ROOMY, quiet_s=0.3, **settings):
    store, arrivals = StudyStore(folder, limits), Arrivals(quiet_s)
    receiver = Receiver(NodeSettings(NODE, "127.0.0.1", 0, (AE_TITLE,), **settings), store, arrivals)
    with receiver.listening() as port:
        yield Node(store, arrivals, port)


@pytest.fixture
def node(tmp_path):
    with a_node(tmp_path / "node") as node:
        yield node


def a_result(images, results):
    """Stands for the batch: an object of the study, of the class of segmentations, the same for the same images."""
    results.mkdir(exist_ok=True)
    path = results / "result.seg.dcm"
    if not path.exists():
        dataset = pydicom.dcmread(min(images.glob("*/*")))
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SegmentationStorage
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.SeriesInstanceUID, dataset.Modality = generate_uid(), "SEG"
        dataset.save_as(path)
    return Segmented([path])


def to(archive):
    return Delivery(parse_application(archive.return_address), NODE)


def kept(folder):
    datasets = [pydicom.dcmread(path) for path in folder.rglob("images/*/*")]
    return {str(d.SOPInstanceUID): (d.file_meta.TransferSyntaxUID, d.PixelData) for d in datasets}


def work_until(work, done, seconds=30):
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        if not work.run_once():
            time.sleep(0.05)
    assert done()


def test_a_study_that_an_archive_sends_comes_back_with_its_result(archive, node, tmp_path):
    study = write_study(tmp_path / "study")
    archive.know("ppcmi", NODE, node.port)
    assert archive.send("ppcmi", archive.add(*study.files)).ok
    assert set(kept(tmp_path / "node")) == {
        str(pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID) for f in study.files
    }
    work = node.work(to(archive), tmp_path / "history")
    work_until(work, lambda: archive.instances(StudyInstanceUID=study.uid, Modality="SEG"))
    archive.wait_for(1, StudyInstanceUID=study.uid, Modality="SEG")
    assert not list((tmp_path / "node" / "studies").iterdir())
    assert node.said == ["study 1: 5 instances received", "study 1: 1 result given back"]


def test_every_encoding_is_kept_as_it_was_sent(archive, node, data_folder, tmp_path):
    files = []
    for number, path in enumerate(sorted(data_folder("dicom_samples").glob("transfer_syntaxes_mr/**/*"))):
        if path.is_file() and path.read_bytes()[128:132] == b"DICM":
            dataset = pydicom.dcmread(path)
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            files.append(tmp_path / f"{number}.dcm")
            dataset.save_as(files[-1])
    archive.know("ppcmi", NODE, node.port)
    assert archive.send("ppcmi", archive.add(*files)).ok
    sent = {str((d := pydicom.dcmread(path)).SOPInstanceUID): d.PixelData for path in files}
    assert {uid: pixels for uid, (_, pixels) in kept(tmp_path / "node").items()} == sent
    assert study_of(files).uid not in "".join(str(path) for path in tmp_path.glob("node/**/*"))


def test_what_is_kept_is_for_nobody_else(archive, node, tmp_path):
    archive.know("ppcmi", NODE, node.port)
    archive.send("ppcmi", archive.add(*write_study(tmp_path / "study").files))
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "node").rglob("*")} == {0o600, 0o700}


def test_archive_and_node_hear_each_other(archive, node):
    archive.know("ppcmi", NODE, node.port)
    archive.call("POST", "/modalities/ppcmi/echo", json={})
    to(archive).check()


def test_a_study_in_several_associations_is_one(archive, node, tmp_path):
    study = write_study(tmp_path / "study")
    for file in study.files:
        with call(node.port) as association:
            assert association.send_c_store(pydicom.dcmread(file)).Status == 0
    (stored,) = node.store.studies()
    assert stored.instances == len(study.files)
    assert not node.arrivals.is_whole(stored.folder, time.monotonic())


# ---- callers that do what they should not


@pytest.mark.parametrize("titles", [{"caller": "STRANGER"}, {"called": "OTHER"}])
def test_strangers_are_refused(node, titles):
    with call(node.port, **titles) as association:
        assert association.is_rejected


def dataset_of(tmp_path, **changes):
    dataset = pydicom.dcmread(write_study(tmp_path / "bad").files[0])
    for keyword, value in changes.items():
        if value is None:
            del dataset[keyword]
        else:
            dataset.add_new(keyword, pydicom.datadict.dictionary_VR(keyword), value)
    return dataset


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"StudyInstanceUID": None}, 0xC000),
        ({"SeriesInstanceUID": None}, 0xC000),
        ({"StudyInstanceUID": "../../../../etc/passwd"}, 0xC000),
        ({"StudyInstanceUID": ["1.2.3", "1.2.4"]}, 0xC000),
        ({"StudyInstanceUID": "1." * 40 + "1"}, 0xC000),
        ({"SOPInstanceUID": "1.2.3.4"}, 0xC000),
        ({"SOPClassUID": MRImageStorage}, 0xA900),
        ({}, 0x0000),
    ],
)
def test_instances_that_do_not_say_what_they_are_get_the_right_status(node, tmp_path, changes, status):
    dataset = dataset_of(tmp_path, **changes)
    instance = dataset.file_meta.MediaStorageSOPInstanceUID
    with call(node.port) as association:
        assert store_as(association, dataset, CTImageStorage, instance) == status
    assert bool(kept(tmp_path / "node")) == (status == 0)


def test_without_room_the_sender_is_told_so(tmp_path):
    files = write_study(tmp_path / "study").files
    limits = StorageLimits(quota_bytes=int(2.5 * files[0].stat().st_size), spare_bytes=0)
    with a_node(tmp_path / "node", limits) as node, call(node.port) as association:
        statuses = [association.send_c_store(pydicom.dcmread(file)).Status for file in files]
    assert statuses == [0, 0, 0xA700, 0xA700, 0xA700]


def test_an_instance_that_is_too_large_ends_the_association(tmp_path):
    dataset = pydicom.dcmread(write_study(tmp_path / "study").files[0])
    dataset.Rows, dataset.PixelData = 4000, bytes(16 * 4000 * 2 * 40)
    with a_node(tmp_path / "node", instance_bytes=1 << 20) as node:
        with call(node.port) as association:
            assert store_as(association, dataset, CTImageStorage, dataset.SOPInstanceUID) is None
        assert not kept(tmp_path / "node")
        with call(node.port) as association:
            assert association.send_c_echo().Status == 0


def test_what_a_header_declares_is_not_waited_for(node):
    with socket.create_connection(("127.0.0.1", node.port)) as peer:
        peer.sendall(struct.pack(">BBL", 1, 0, LONGEST_PDU + 1))
        peer.settimeout(10)
        assert peer.recv(100) == b""


def test_more_callers_than_may_at_once_are_refused(tmp_path):
    with a_node(tmp_path / "node", associations=2) as node, call(node.port) as first, call(node.port) as second:
        assert first.is_established
        assert second.is_established
        with call(node.port) as third:
            assert third.is_rejected


def test_a_port_that_is_taken_is_named_as_that(node):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = Receiver(NodeSettings(NODE, "127.0.0.1", other.getsockname()[1], ("A",)), node.store, node.arrivals)
        with pytest.raises(UsageError, match="port is taken"), taken.listening():
            pass


# ---- giving back


def test_what_was_given_back_before_is_not_sent_again(archive, tmp_path):
    study = write_study(tmp_path / "study")
    results = [file for number, file in enumerate(study.files) if number < 3]
    (tmp_path / "results").mkdir()
    assert to(archive).deliver(results[:2], StoredResults(tmp_path / "results")) == 2
    for instance in archive.instances(StudyInstanceUID=study.uid):
        archive.call("DELETE", f"/instances/{instance['ID']}")  # what the archive's people removed stays removed
    assert to(archive).deliver(results, StoredResults(tmp_path / "results")) == 1
    archive.wait_for(1, StudyInstanceUID=study.uid)


def test_an_archive_that_is_not_there_is_named_as_that(tmp_path):
    delivery = Delivery(Application(AE_TITLE, "127.0.0.1", free_port()), NODE)
    with pytest.raises(ConnectionFailedError, match="cannot be reached"):
        delivery.check()


def test_an_archive_that_does_not_let_us_in_is_named_as_that(archive):
    address = Application("WRONG", "127.0.0.1", archive.dicom_port)
    with pytest.raises(ConnectionFailedError, match="does not let us in"):
        Delivery(address, NODE).check()


class Late:
    """An application that looks at the answer when the connection is over already, as it may on a busy machine."""

    def __init__(self, application):
        self._application = application

    def associate(self, *arguments, evt_handlers, **options):
        late = (pynetdicom.evt.EVT_REQUESTED, lambda _: time.sleep(0.5))
        return self._application.associate(*arguments, evt_handlers=[*evt_handlers, late], **options)


def test_a_rejection_is_known_also_when_the_connection_is_over_before_it_is_looked_at(node):
    application = pynetdicom.AE("STRANGER")
    application.add_requested_context(VERIFICATION)
    association = associate(Late(application), Application(NODE, "127.0.0.1", node.port), None)
    assert association.is_aborted  # what pynetdicom itself takes it for
    assert association.is_rejected
    application.shutdown()


def test_an_archive_without_room_is_named_as_that(tmp_path):
    files = write_study(tmp_path / "study").files
    (tmp_path / "results").mkdir()
    with a_node(tmp_path / "node", StorageLimits(quota_bytes=10, spare_bytes=0)) as full:
        delivery = Delivery(Application(NODE, "127.0.0.1", full.port), AE_TITLE)
        with pytest.raises(ServerRefusedError, match=r"it has no room \(A700\)"):
            delivery.deliver(files, StoredResults(tmp_path / "results"))


def test_a_node_goes_on_after_a_restart_and_while_the_archive_was_away(archive, tmp_path):
    study = write_study(tmp_path / "study")
    with a_node(tmp_path / "node") as node:
        archive.know("ppcmi", NODE, node.port)
        assert archive.send("ppcmi", archive.add(*study.files)).ok
        work = node.work(Delivery(Application(AE_TITLE, "127.0.0.1", free_port()), NODE), tmp_path / "history")
        work_until(work, lambda: len(node.said) == 2)
        assert node.said[1] == ("study 1 waits: The archive cannot be reached; check its address, and that it runs.")
    with a_node(tmp_path / "node") as node:  # at once: what was there before is whole
        assert node.work(to(archive), tmp_path / "history").run_once()
    archive.wait_for(1, StudyInstanceUID=study.uid, Modality="SEG")
    assert not list((tmp_path / "node" / "studies").iterdir())


# ---- TLS


@pytest.fixture
def certificates(tmp_path):
    return write_certificate(tmp_path / "node.pem"), write_certificate(tmp_path / "caller.pem")


def test_over_tls_both_sides_prove_who_they_are(certificates, tmp_path):
    ours, callers = certificates
    dataset = pydicom.dcmread(write_study(tmp_path / "study").files[0])
    with a_node(tmp_path / "node", tls=listening_context(ours, ours, callers)) as node:
        known = calling_context(callers, callers, ours)
        with call(node.port, tls=known) as association:
            assert association.send_c_store(dataset).Status == 0
        Delivery(Application(NODE, "127.0.0.1", node.port), AE_TITLE, known).check()
        with call(node.port) as association:
            assert not association.is_established  # in clear
        with call(node.port, tls=calling_context(ours, ours, ours)) as association:
            assert not association.is_established  # with a certificate of another authority
        with pytest.raises(ConnectionFailedError):  # trusts nobody that the node is
            Delivery(
                Application(NODE, "127.0.0.1", node.port), AE_TITLE, calling_context(callers, callers, callers)
            ).check()


def test_a_caller_that_says_nothing_does_not_keep_others_waiting(certificates, tmp_path):
    ours, _ = certificates
    with (
        a_node(tmp_path / "node", tls=listening_context(ours, ours, None)) as node,
        socket.create_connection(("127.0.0.1", node.port)),
        call(node.port, tls=calling_context(None, None, ours)) as association,
    ):
        assert association.send_c_echo().Status == 0


def test_files_that_are_no_certificates_are_named_by_their_option(certificates, tmp_path):
    ours, _ = certificates
    (tmp_path / "no.pem").write_text("nothing")
    with pytest.raises(UsageError, match="--tls-cert and --tls-key"):
        listening_context(tmp_path / "no.pem", ours, None)
    with pytest.raises(UsageError, match="--tls-ca"):
        listening_context(ours, ours, tmp_path / "no.pem")
    assert calling_context(None, None, None).verify_mode == ssl.CERT_REQUIRED
