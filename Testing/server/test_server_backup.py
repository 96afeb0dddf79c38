"""Backup and restore: while sites upload, onto another machine, between databases; damaged ones are noticed."""

import hashlib
import io
import json
import tarfile
import threading
from dataclasses import replace

import pytest
from sqlalchemy import select

from ppcmi.errors import SiteError, UsageError, WriteError
from ppcmi_server import audit
from ppcmi_server.cli.main import main
from ppcmi_server.config import load_config
from ppcmi_server.database.dump import AT_ONCE
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import AuditEvent, Case, Cohort, Frame, Site
from ppcmi_server.errors import OperatorError
from ppcmi_server.operation import backup, restore
from ppcmi_server.operation.archive import check_archive
from ppcmi_server.services import open_services
from ppcmi_server.storage.key_files import rotate_storage_key
from support.app_server import TASK, app_server
from support.finished_models import add_model

WORDS = "four random words here"


@pytest.fixture
def restored(tmp_path):
    """``restored(backup)``: services on what comes of a backup in a new folder."""
    opened = []

    def open_restored(file, name="restored", environment=None):
        restore.restore(file, tmp_path / name, environment or {}, WORDS)
        opened.append(open_services(load_config(tmp_path / name, environment)))
        return opened[-1]

    yield open_restored
    for services in opened:
        services.database.close()


def whole_cohorts(services):
    """Digest of every frame that a server gives to training, by cohort."""
    with services.database.reading() as session:
        whole = session.scalars(select(Cohort).where(Cohort.state == "whole")).all()
        return {cohort.id: whole_frames(services, cohort, session) for cohort in whole}


def whole_frames(services, cohort, session):
    """Digest of every frame of a cohort."""
    frames = session.scalars(select(Frame).where(Frame.cohort_id == cohort.id).order_by(Frame.index))
    return [hashlib.sha256(services.cohorts.read_bundle(cohort, f)).hexdigest() for f in frames]


@pytest.mark.usefixtures("every_storage")
def test_a_server_restored_elsewhere_has_everything_and_its_sites_go_on_with_their_tokens(tmp_path, restored):
    file = tmp_path / "backup.tar"
    with app_server(tmp_path / "server") as server:
        site, _ = server.add_consortium("Hospital A", "Hospital B")
        site.upload(site.write_cohort(tmp_path / "a.ppcmi", [1, 2]))
        model = add_model(server.services)
        with server.services.database.writing() as session:
            cohort = session.scalars(select(Cohort.id)).one()
            names = (f"{number:032x}" for number in range(100, 101 + AT_ONCE))  # more than are added at once
            session.add_all(Case(cohort_id=cohort, pseudonym=name, slices=1) for name in names)
        facts = backup.create_backup(server.services, file, WORDS)
        expected = whole_cohorts(server.services)
    assert file.stat().st_mode & 0o777 == 0o600
    assert check_archive(file)["counts"] == {"sites": 2, "cohorts": 1, "models": 1}
    other = restored(file)
    assert whole_cohorts(other) == expected
    assert facts.blobs == len(expected[next(iter(expected))]) + 2  # and the codec and the model
    with other.database.reading() as session:
        assert other.blobs.read("models/job-1.safetensors") == model
        state = audit.verify(session)
        assert state.first_broken is None
        assert session.scalars(select(AuditEvent.action).order_by(AuditEvent.id)).all()[-1] == "backup.restore"
    with app_server_of(other) as again:
        site.client = type(site.client)(again, site.token)
        assert site.client.me()["site_id"] == site.site_id
        site.upload(site.write_cohort(tmp_path / "b.ppcmi", [3]))
    assert len(whole_cohorts(other)) == 2


def app_server_of(services):
    """Serve what is there, in this process; its address."""
    from contextlib import contextmanager

    import uvicorn

    from ppcmi_server.app import create_app

    @contextmanager
    def serve():
        server = uvicorn.Server(uvicorn.Config(create_app(services.config, services), port=0, log_config=None))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)

    return serve()


def test_a_backup_moves_a_server_from_sqlite_to_postgresql_and_s3(tmp_path, restored, postgres, s3_store):
    from support.storages import postgresql_and_s3, storage_settings

    file = tmp_path / "backup.tar"
    with app_server(tmp_path / "server") as server:
        (site,) = server.add_consortium("Hospital A")
        site.upload(site.write_cohort(tmp_path / "a.ppcmi", [1]))
        backup.create_backup(server.services, file, WORDS)
        expected = whole_cohorts(server.services)
    with postgresql_and_s3(postgres, s3_store):
        storage = storage_settings()
        environment = {
            f"PPCMI_SERVER_STORAGE_{name.upper()}": getattr(storage, name)
            for name in ("database_url", "blobs_url", "s3_endpoint")
        }
        other = restored(file, environment=environment)
        assert other.database.kind == "postgresql"
        assert whole_cohorts(other) == expected
        with other.database.writing() as session:  # the sequences go on behind what is there
            audit.record(session, audit.OPERATOR, "site.add", site="0" * 16)
        assert not list((tmp_path / "restored" / "blobs").iterdir())
        with pytest.raises(OperatorError, match="in use already"):
            restore.restore(file, tmp_path / "another", environment, WORDS)
        other.database.close()


def test_backups_made_while_sites_upload_and_withdraw_are_all_whole(tmp_path, restored):
    files = []
    with app_server(tmp_path / "server") as server:
        (site,) = server.add_consortium("Hospital A")
        committed, failures, done = [], [], threading.Event()

        def upload():
            try:
                for number in range(12):
                    committed.append(site.upload(site.write_cohort(tmp_path / f"{number}.ppcmi", [number + 1])))
                    if number % 3 == 1:
                        site.client.withdraw(committed.pop())
            except Exception as error:
                failures.append(error)
            done.set()

        uploading = threading.Thread(target=upload)
        uploading.start()
        promised = []
        while not done.is_set():
            before = list(committed)
            files.append(tmp_path / f"{len(files)}.tar")
            backup.create_backup(server.services, files[-1], WORDS)
            promised.append(before)
        uploading.join()
        assert not failures
    assert len(files) >= 2
    for number, file in enumerate(files):
        check_archive(file)
        other = restored(file, f"restored-{number}")
        found = whole_cohorts(other)  # every frame of every whole cohort can be read
        with other.database.reading() as session:
            withdrawn = set(session.scalars(select(Cohort.id).where(Cohort.state == "withdrawn")))
        assert set(promised[number]) <= set(found) | withdrawn, "acknowledged before the backup began"


@pytest.fixture(scope="module")
def a_backup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backup")
    with app_server(folder / "server") as server:
        (site,) = server.add_consortium("Hospital A")
        cohort = site.upload(site.write_cohort(folder / "a.ppcmi", [1]))
        backup.create_backup(server.services, folder / "with.tar", WORDS)
        backup.create_backup(server.services, folder / "without.tar")
        yield folder, server, site, cohort


def test_without_the_passphrase_a_backup_opens_no_latent_and_shows_no_secret(a_backup, tmp_path):
    folder, server, site, _ = a_backup
    keys = server.services.keys
    for name in ("with.tar", "without.tar"):
        content = (folder / name).read_bytes()
        assert b"Hospital A" in content  # names of sites are in it
        for secret in (keys.private_key, keys.storage_key, site.token.encode(), site.link_key):
            assert secret not in content
        for file in ("private.key", "storage.key"):
            assert (server.services.config.folder / file).read_bytes() not in content
    with pytest.raises(SiteError, match="passphrase is wrong"):
        restore.restore(folder / "with.tar", tmp_path / "x", {}, "another passphrase, also long")
    with pytest.raises(UsageError, match="passphrase"):
        backup.create_backup(server.services, tmp_path / "short.tar", "short")
    assert not (tmp_path / "x").exists()
    assert list(tmp_path.iterdir()) == []


def test_what_was_withdrawn_before_a_backup_is_not_in_it(tmp_path, restored):
    with app_server(tmp_path / "server") as server:
        (site,) = server.add_consortium("Hospital A")
        cohort = site.upload(site.write_cohort(tmp_path / "a.ppcmi", [1]))
        site.client.withdraw(cohort)
        backup.create_backup(server.services, tmp_path / "backup.tar", WORDS)
    with tarfile.open(tmp_path / "backup.tar") as tar:
        assert not [name for name in tar.getnames() if "cohorts" in name]
    assert whole_cohorts(restored(tmp_path / "backup.tar")) == {}


@pytest.mark.parametrize(
    "settings",
    [
        'storage.blobs_url = "{blobs}/hunter2"',
        'storage = {{ blobs_url = "{blobs}/hunter2" }}',
        '[storage]\n"blobs_url" = "{blobs}/hunter2"  # s3://user:hunter2@host',
    ],
)
def test_addresses_that_may_hold_a_password_are_not_in_a_backup_however_they_are_written(tmp_path, settings):
    with app_server(tmp_path / "server"):
        pass
    text = settings.format(blobs=tmp_path / "blobs") + "\n[limits]\nbatch_slices = 7\n"
    (tmp_path / "server" / "server.toml").write_text(text)
    services = open_services(load_config(tmp_path / "server"))
    backup.create_backup(services, tmp_path / "backup.tar")
    services.database.close()
    assert b"hunter2" not in (tmp_path / "backup.tar").read_bytes()
    restore.restore(tmp_path / "backup.tar", tmp_path / "restored", {})
    config = load_config(tmp_path / "restored")
    assert (config.storage.blobs_url, config.limits.batch_slices) == (None, 7)


def test_a_blob_that_was_lost_is_named_and_keeps_no_backup_from_being_made(tmp_path, restored, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    file, (first, second) = tmp_path / "backup.tar", (tmp_path / "a.ppcmi", tmp_path / "b.ppcmi")
    (tmp_path / "words").write_text(WORDS + "\n")
    with app_server(tmp_path / "server") as server:
        (site,) = server.add_consortium("Hospital A")
        lost, kept = site.upload(site.write_cohort(first, [1])), site.upload(site.write_cohort(second, [2]))
        with server.services.database.reading() as session:
            server.services.blobs.delete(session.scalars(select(Frame.blob).where(Frame.cohort_id == lost)).first())
            expected = {kept: whole_frames(server.services, session.get_one(Cohort, kept), session)}
        options = ("--with-keys", "--passphrase-file", str(tmp_path / "words"), "--dir", str(tmp_path / "server"))
        assert main(["backup", str(file), *options]) == OperatorError.exit_code
    assert "1 blob that it should have had cannot be found" in capsys.readouterr().err
    assert main(["backup", "check", str(file)]) == 0
    assert "1 blob had been lost" in capsys.readouterr().err
    other = restored(file)
    with other.database.reading() as session:
        assert {kept: whole_frames(other, session.get_one(Cohort, kept), session)} == expected


def test_a_backup_made_after_a_rotation_of_the_storage_key_was_cut_off_opens(tmp_path, restored):
    with app_server(tmp_path / "server") as server:
        (site,) = server.add_consortium("Hospital A")
        site.upload(site.write_cohort(tmp_path / "a.ppcmi", [1]))
        expected = whole_cohorts(server.services)
    folder = tmp_path / "server"
    config, before = load_config(folder), (folder / "storage.key").read_bytes()
    database = Database(config)
    rotate_storage_key(config, database)
    (folder / "storage.key").rename(folder / "storage.key.next")  # as if killed before this one's rename
    (folder / "storage.key").write_bytes(before)
    (folder / "storage.key").chmod(0o600)
    database.close()
    services = open_services(config)
    backup.create_backup(services, tmp_path / "backup.tar", WORDS)
    services.database.close()
    assert whole_cohorts(restored(tmp_path / "backup.tar")) == expected
    assert not (folder / "storage.key.next").exists()


def test_a_damaged_cut_off_or_forged_backup_is_refused_and_nothing_is_written(a_backup, tmp_path):
    folder, *_ = a_backup
    content = (folder / "with.tar").read_bytes()
    blob = content.index(b"blobs/cohorts/") + 600
    damaged = {
        "cut": content[: len(content) // 2],
        "cut at a member": content[: blob - 600],
        "altered": content[:blob] + bytes([content[blob] ^ 1]) + content[blob + 1 :],
        "empty": b"",
        "text": b"no backup",
        "outside": with_member(folder / "with.tar", tarfile.TarInfo("blobs/../../evil")),
        "absolute": with_member(folder / "with.tar", tarfile.TarInfo("/etc/evil")),
        "more": with_member(folder / "with.tar", tarfile.TarInfo("blobs/more")),
        "link": with_member(folder / "with.tar", link("blobs/link")),
    }
    for name, bad in damaged.items():
        (tmp_path / "bad.tar").write_bytes(bad)
        with pytest.raises(OperatorError, match=r"damaged or cut off|no backup"):
            restore.restore(tmp_path / "bad.tar", tmp_path / "x", {}, WORDS)
        assert not (tmp_path / "x").exists(), name
    with pytest.raises(OperatorError, match="no such backup"):
        check_archive(tmp_path / "absent.tar")
    check_archive(folder / "with.tar")


def link(name):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return member


def with_member(file, member):
    """A backup with one member more before the others, its manifest as it was."""
    out = io.BytesIO()
    with tarfile.open(file) as source, tarfile.open(fileobj=out, mode="w") as target:
        target.addfile(member)
        for entry in source:
            target.addfile(entry, source.extractfile(entry))
    return out.getvalue()


def test_a_folder_that_is_not_empty_is_not_restored_into(a_backup, tmp_path):
    folder, *_ = a_backup
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").write_text("mine")
    with pytest.raises(OperatorError, match="not empty"):
        restore.restore(folder / "with.tar", tmp_path / "x", {}, WORDS)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["file"]


def test_a_backup_that_cannot_be_written_leaves_the_earlier_one(a_backup, tmp_path):
    _, server, *_ = a_backup
    target = tmp_path / "backup.tar"
    target.write_bytes(b"earlier")
    with pytest.raises(WriteError):
        backup.create_backup(server.services, tmp_path / "absent" / "backup.tar")
    broken = replace(server.services, blobs=_Failing())
    with pytest.raises(WriteError, match="No space left"):
        backup.create_backup(broken, target)
    assert target.read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["backup.tar"]


class _Failing:
    """A blob store behind which the disk is full."""

    def chunks(self, name):
        raise OSError(28, "No space left on device")

    def names(self, below):
        return []


def test_an_operators_way_from_backup_to_restore(a_backup, tmp_path, monkeypatch, capsys):
    folder, server, *_ = a_backup
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "words").write_text(WORDS + "\n")
    file, words = str(tmp_path / "b.tar"), ("--passphrase-file", str(tmp_path / "words"))
    at = ("--dir", str(server.services.config.folder))
    assert main(["backup", file, "--with-keys", *words, *at]) == 0
    assert main(["backup", "check", file]) == 0
    assert "The backup is whole" in capsys.readouterr().out
    assert main(["restore", file, str(tmp_path / "x"), "--with-keys", *words]) == 0
    assert main(["doctor", "--dir", str(tmp_path / "x")]) == 0, capsys.readouterr().out
    assert main(["restore", str(folder / "without.tar"), str(tmp_path / "y")]) == 0
    assert "private.key" in capsys.readouterr().err
    assert main(["doctor", "--dir", str(tmp_path / "y")]) == 14
    for name in ("private.key", "storage.key"):
        (tmp_path / "y" / name).write_bytes((tmp_path / "x" / name).read_bytes())
        (tmp_path / "y" / name).chmod(0o600)
    assert main(["doctor", "--dir", str(tmp_path / "y")]) == 0
    with open_database(tmp_path / "y") as session:
        assert session.scalars(select(Site.name)).all() == ["Hospital A"]
    assert json.loads(json.dumps(check_archive(file)))["keys"] is True
    assert main(["restore", str(folder / "without.tar"), str(tmp_path / "z"), "--with-keys", *words]) == 14
    assert TASK.name


def open_database(folder):
    from contextlib import contextmanager

    from ppcmi_server.database.engine import Database

    @contextmanager
    def opened():
        database = Database(load_config(folder))
        with database.reading() as session:
            yield session
        database.close()

    return opened()
