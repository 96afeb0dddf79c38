"""The power fails: whatever the server had answered with success is there when it starts again."""

import sys

import pytest
from sqlalchemy import select

from ppcmi_server.config import create_folder, load_config
from ppcmi_server.database.schema import Cohort, Frame
from ppcmi_server.operation.archive import check_archive
from ppcmi_server.operation.backup import create_backup
from ppcmi_server.services import open_services
from ppcmi_server.storage.blobs import BlobStore
from ppcmi_server.storage.keys import ServerKeys
from support.app_server import TASK, app_server
from support.power_cut import recording

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="It looks into /proc.")


def frames_after(disk, target):
    """Every frame that a start after the cut can open, and whether its cohort is whole."""
    services = open_services(load_config(disk.after_a_cut(target)))
    try:
        services.cohorts.sweep()
        with services.database.reading() as session:
            return {
                (frame.cohort_id, frame.index): (cohort.state, len(services.cohorts.read_bundle(cohort, frame)))
                for cohort in session.scalars(select(Cohort))
                for frame in session.scalars(select(Frame).where(Frame.cohort_id == cohort.id))
            }
    finally:
        services.database.close()


def test_every_frame_that_was_acknowledged_survives_a_cut_right_after(tmp_path):
    with app_server(tmp_path / "server") as server, recording(tmp_path / "server") as disk:
        (site,) = server.add_consortium("Hospital A")
        cohort = site.write_cohort(tmp_path / "a.ppcmi", [1, 2])
        cohort_id = site.client.create_cohort(TASK.name, cohort.header_bytes)
        acknowledged = set()
        for index, frame in cohort.frames():
            site.client.put_frame(cohort_id, index, frame.data)
            acknowledged.add((cohort_id, index))
            found = frames_after(disk, tmp_path / f"cut-{index}")
            assert set(found) == acknowledged
        site.client.commit_cohort(cohort_id, cohort.end.frames, cohort.end.digest)
        found = frames_after(disk, tmp_path / "cut")
        assert {state for state, _ in found.values()} == {"whole"}
        (codec,) = (tmp_path / "cut" / "blobs" / "codecs").iterdir()
        assert codec.read_bytes() == site.client.codec(TASK.name)[0]
    assert disk.synced > len(acknowledged)


def test_without_the_syncs_the_same_cut_would_lose_them(tmp_path):
    """The control: the model of a cut does lose what nobody made durable."""
    folder = tmp_path / "store"
    folder.mkdir()
    with recording(folder) as disk:
        (folder / "unsynced").write_bytes(b"gone")
        BlobStore(str(folder)).write("new/folder/blob", b"kept")
        (folder / "new" / "folder" / "unsynced").write_bytes(b"gone")
    left = disk.after_a_cut(tmp_path / "left")
    assert (left / "new" / "folder" / "blob").read_bytes() == b"kept"
    assert (left / "unsynced").read_bytes() == b""  # its name became durable with the folder's, its bytes did not
    assert not (left / "new" / "folder" / "unsynced").exists()


def test_a_servers_keys_and_settings_survive_a_cut_right_after_init(tmp_path):
    (tmp_path / "server").mkdir()
    with recording(tmp_path / "server") as disk:
        create_folder(tmp_path / "server")
    left = disk.after_a_cut(tmp_path / "left")
    assert ServerKeys.load(left) == ServerKeys.load(tmp_path / "server")
    assert load_config(left).serve == load_config(tmp_path / "server").serve


def test_a_backup_that_was_made_survives_a_cut_right_after(tmp_path):
    with app_server(tmp_path / "server") as server:
        (tmp_path / "backups").mkdir()
        with recording(tmp_path / "backups") as disk:
            create_backup(server.services, tmp_path / "backups" / "backup.tar")
    check_archive(disk.after_a_cut(tmp_path / "left") / "backup.tar")
