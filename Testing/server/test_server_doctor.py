"""The doctor: well when it is well, and each kind of damage is named with what to do."""

import re

import pytest
from sqlalchemy import text, update

from ppcmi_server.cli.main import main
from ppcmi_server.config import load_config
from ppcmi_server.database.schema import Model
from ppcmi_server.operation import backup
from ppcmi_server.operation.doctor import examine
from support.app_server import app_server
from support.finished_models import add_model
from support.shared_networks import share_network


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with a cohort, a shared network and a model; whoever damages it mends it."""
    folder = tmp_path_factory.mktemp("doctor")
    with app_server(folder / "server") as server:
        (site,) = server.add_consortium("Hospital A")
        site.upload(site.write_cohort(folder / "a.ppcmi", [1]))
        share_network(site, b"encrypted network")
        add_model(server.services)
        backup.create_backup(server.services, folder / "backup.tar")
        yield server


def findings(server):
    return {finding.subject: finding for finding in examine(load_config(server.services.config.folder))}


def problems(server):
    return {subject for subject, finding in findings(server).items() if finding.level == "problem"}


def test_a_server_that_is_well_has_no_problem(server, capsys):
    assert problems(server) == set()
    folder = server.services.config.folder
    assert main(["doctor", "--dir", str(folder)]) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"^(ok|warning) +[a-z ]+: \S.*\.$", out, re.MULTILINE)) == out.count("\n") >= 16
    for never in (str(folder), "Hospital A", server.services.keys.storage_key.hex()):
        assert never not in out


def test_missing_and_emptied_blobs_are_counted(server):
    blobs = sorted((server.services.config.folder / "blobs" / "cohorts").rglob("*-*"))
    kept = [blob.read_bytes() for blob in blobs]
    try:
        blobs[0].unlink()
        blobs[1].write_bytes(b"")
        assert problems(server) == {"frames"}
        assert findings(server)["frames"].says.startswith("2 of ")
    finally:
        for blob, content in zip(blobs, kept, strict=True):
            blob.write_bytes(content)
    assert problems(server) == set()


def test_a_missing_network_that_a_member_shares_is_counted(server):
    (blob,) = (server.services.config.folder / "blobs" / "networks").iterdir()
    kept = blob.read_bytes()
    blob.unlink()
    try:
        assert problems(server) == {"frames"}
        assert findings(server)["frames"].says.startswith("1 of ")
    finally:
        blob.write_bytes(kept)


def test_an_altered_model_file_is_noticed(server):
    file = next(server.services.config.models_folder.iterdir())
    kept = file.read_bytes()
    file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    try:
        assert problems(server) == {"models"}
    finally:
        file.write_bytes(kept)


def test_an_altered_audit_log_is_noticed(server):
    with server.services.database.writing() as session:
        session.execute(text("DROP TRIGGER audit_events_no_update"))
        session.execute(text("UPDATE audit_events SET actor = 'nobody' WHERE id = 2"))
    assert problems(server) == {"audit"}
    assert "event 2" in findings(server)["audit"].says
    with server.services.database.writing() as session:
        session.execute(text("UPDATE audit_events SET actor = 'operator' WHERE id = 2"))


def test_a_storage_key_of_another_server_is_noticed(server, tmp_path):
    from ppcmi_server.storage.keys import ServerKeys

    file = server.services.config.folder / "storage.key"
    kept = file.read_bytes()
    (tmp_path / "x").mkdir()
    ServerKeys.create(tmp_path / "x")
    file.write_bytes((tmp_path / "x" / "storage.key").read_bytes())
    try:
        assert problems(server) == {"cohorts"}
    finally:
        file.write_bytes(kept)


def test_a_damaged_database_is_noticed(server, tmp_path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(server.services.config.folder, folder)
    for name in ("ppcmi.sqlite3-wal", "ppcmi.sqlite3-shm"):
        (folder / name).unlink(missing_ok=True)
    content = bytearray((folder / "ppcmi.sqlite3").read_bytes())
    content[4096 * 3 : 4096 * 3 + 64] = b"\xff" * 64
    (folder / "ppcmi.sqlite3").write_bytes(content)
    found = {f.subject: f.level for f in examine(load_config(folder))}
    assert "problem" in (found.get("database"), found.get("integrity"))


def test_little_space_and_a_clock_set_back_are_said(server):
    for moment, level in (("2025-06-01T00:00:00Z", "problem"), ("2026-02-01T00:00:00Z", "warning")):
        found = {f.subject: f for f in examine(load_config(server.services.config.folder), lambda now=moment: now)}
        assert found["clock"].level == level
    config = load_config(server.services.config.folder, {"PPCMI_SERVER_STORAGE_RESERVE_BYTES": str(1 << 60)})
    (space,) = [finding for finding in examine(config) if finding.subject == "space"]
    assert (space.level, "make room" in space.says) == ("problem", True)


def test_models_of_the_database_are_what_is_looked_for(server):
    with server.services.database.writing() as session:
        session.execute(update(Model).values(file="absent.safetensors"))
    try:
        assert problems(server) == {"models"}
    finally:
        with server.services.database.writing() as session:
            session.execute(update(Model).values(file="job-1.safetensors"))
