"""The server's keys at rest: encrypted under a key that lies elsewhere, replaced without losing a cohort's key."""

import base64
import dataclasses
import os
import resource
import subprocess
import sys

import pytest
from sqlalchemy import select

from ppcmi_server.cli.main import main
from ppcmi_server.config import create_folder, load_config
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import AuditEvent, Cohort, Job, Site, Task
from ppcmi_server.errors import OperatorError
from ppcmi_server.operation.checks import storage_findings
from ppcmi_server.services import open_services
from ppcmi_server.settings import StorageSettings
from ppcmi_server.storage.key_files import rotate_storage_key, wrap_key_files
from ppcmi_server.storage.keys import NEXT_STORAGE_KEY, PRIVATE_KEY, STORAGE_KEY, ServerKeys, wrapped_text

KEY_OF_A_COHORT = bytes(range(32))
NOW = "2026-01-01T00:00:00Z"


@pytest.fixture
def config(tmp_path):
    return create_folder(tmp_path / "server")


@pytest.fixture
def key_file(tmp_path):
    return tmp_path / "elsewhere" / "keys.key"


@pytest.fixture
def database(config):
    """One with a cohort whose key is wrapped, and one that was withdrawn."""
    database = Database(config)
    database.upgrade()
    keys = ServerKeys.load(config.folder)
    with database.writing() as session:
        session.add(Site(id="0" * 16, name="Hospital A", created=NOW))
        session.add(Task(id=1, name="phantom", document="{}", created=NOW))
        session.flush()
        for cohort_id, key in (("a" * 32, keys.wrap(KEY_OF_A_COHORT, b"a" * 32)), ("b" * 32, None)):
            session.add(
                Cohort(
                    id=cohort_id, task_id=1, site_id="0" * 16, header_digest=cohort_id.encode(), wrapped_key=key,
                    codec="c", profile="coarse", mode="two-layer", state="whole", created=NOW,
                )
            )  # fmt: skip
    yield database
    database.close()


def opens(config, database):
    with database.reading() as session:
        wrapped = session.get_one(Cohort, "a" * 32).wrapped_key
    return ServerKeys.load(config.folder, config.key_file).unwrap(wrapped, b"a" * 32)


def with_key_file(config, key_file):
    return dataclasses.replace(config, storage=StorageSettings(key_file=str(key_file)))


def test_a_copy_of_folder_and_database_opens_nothing_once_the_keys_are_wrapped(config, database, key_file):
    before = ServerKeys.load(config.folder)
    key_file.parent.mkdir()
    wrap_key_files(config, key_file)
    for name, key in ((PRIVATE_KEY, before.private_key), (STORAGE_KEY, before.storage_key)):
        content = (config.folder / name).read_bytes()
        assert key not in content
        assert base64.b64encode(key) not in content
    with pytest.raises(OperatorError, match=r"storage\.key_file"):
        ServerKeys.load(config.folder)
    assert ServerKeys.load(config.folder, key_file) == before
    assert opens(with_key_file(config, key_file), database) == KEY_OF_A_COHORT
    assert [file.stat().st_mode & 0o777 for file in (key_file, config.folder / PRIVATE_KEY)] == [0o600, 0o600]


def test_another_key_file_opens_nothing(config, key_file):
    key_file.parent.mkdir()
    wrap_key_files(config, key_file)
    other = key_file.with_name("other.key")
    other.write_bytes(base64.b64encode(os.urandom(32)))
    other.chmod(0o600)
    with pytest.raises(OperatorError, match="encrypted"):
        ServerKeys.load(config.folder, other)


def test_a_key_file_that_others_can_read_is_refused(config, key_file):
    key_file.parent.mkdir()
    wrap_key_files(config, key_file)
    key_file.chmod(0o640)
    with pytest.raises(OperatorError, match="read by other users"):
        ServerKeys.load(config.folder, key_file)


def test_one_wrapped_key_does_not_stand_in_for_the_other(config, key_file):
    key_file.parent.mkdir()
    wrap_key_files(config, key_file)
    (config.folder / STORAGE_KEY).write_bytes((config.folder / PRIVATE_KEY).read_bytes())
    with pytest.raises(OperatorError):
        ServerKeys.load(config.folder, key_file)


def test_wrapping_that_was_interrupted_or_is_done_with_another_key_goes_on(config, key_file):
    before = ServerKeys.load(config.folder)
    key_file.parent.mkdir()
    wrap_key_files(config, key_file)
    wrapped, other = with_key_file(config, key_file), key_file.with_name("other.key")
    halfway = (config.folder / PRIVATE_KEY).read_bytes()
    wrap_key_files(wrapped, other)
    (config.folder / PRIVATE_KEY).write_bytes(halfway)  # as if it had been killed before the last file
    wrap_key_files(wrapped, other)
    assert ServerKeys.load(config.folder, other) == before


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_new_storage_key_opens_every_cohort_and_the_old_one_none(config, database, key_file, wrapped):
    if wrapped:
        key_file.parent.mkdir()
        wrap_key_files(config, key_file)
        config = with_key_file(config, key_file)
    before = ServerKeys.load(config.folder, config.key_file)
    assert rotate_storage_key(config, database) == 1
    after = ServerKeys.load(config.folder, config.key_file)
    assert after.private_key == before.private_key  # sites agreed with this one
    assert after.storage_key != before.storage_key
    assert opens(config, database) == KEY_OF_A_COHORT
    with database.reading() as session:
        rewrapped = session.get_one(Cohort, "a" * 32).wrapped_key
        assert session.scalars(select(AuditEvent.action)).all() == ["keys.rotate-storage"]
    with pytest.raises(OperatorError):
        before.unwrap(rewrapped, b"a" * 32)
    assert not (config.folder / NEXT_STORAGE_KEY).exists()


@pytest.mark.parametrize("committed", [False, True])
def test_a_rotation_that_was_killed_loses_no_key_and_is_ended_by_the_next_start_or_by_command(
    config, database, committed
):
    """Killed with the new key on disk: before the database has it, or after."""
    keys, new = ServerKeys.load(config.folder), os.urandom(32)
    (config.folder / NEXT_STORAGE_KEY).write_bytes(wrapped_text(NEXT_STORAGE_KEY, new, None))
    (config.folder / NEXT_STORAGE_KEY).chmod(0o600)
    if committed:
        with database.writing() as session:
            wrapped = ServerKeys(keys.private_key, new).wrap(KEY_OF_A_COHORT, b"a" * 32)
            session.get_one(Cohort, "a" * 32).wrapped_key = wrapped
    assert opens(config, database) == KEY_OF_A_COHORT  # a server that starts now works
    open_services(config).database.close()
    assert (config.folder / NEXT_STORAGE_KEY).exists() == (not committed)  # what had to be done only is ended
    said = next(finding.says for finding in storage_findings(config) if finding.subject == "keys")
    assert ("rotate-storage" in said) == (not committed)
    if committed:
        assert ServerKeys.load(config.folder) == ServerKeys(keys.private_key, new)
        return
    assert rotate_storage_key(config, database) == 1
    assert ServerKeys.load(config.folder).storage_key == new
    assert opens(config, database) == KEY_OF_A_COHORT


@pytest.mark.parametrize("state", ["queued", "running", "paused"])
def test_keys_are_not_changed_under_a_training_whose_checkpoints_they_open(config, database, state):
    with database.writing() as session:
        session.add(Job(task_id=1, state=state, config={}, created=NOW))
    before = ServerKeys.load(config.folder)
    with pytest.raises(OperatorError, match="training"):
        rotate_storage_key(config, database)
    assert ServerKeys.load(config.folder) == before


def test_an_operator_wraps_and_replaces_keys_by_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder, key_file = tmp_path / "server", tmp_path / "keys.key"
    assert main(["init", str(folder)]) == 0
    assert main(["keys", "wrap", "--key-file", str(key_file), "--dir", str(folder)]) == 0
    assert main(["keys", "rotate-storage", "--dir", str(folder)]) == 14
    assert "storage.key_file" in capsys.readouterr().err
    monkeypatch.setenv("PPCMI_SERVER_STORAGE_KEY_FILE", str(key_file))
    assert main(["keys", "rotate-storage", "--dir", str(folder)]) == 0
    shown = capsys.readouterr()
    assert load_config(folder, os.environ).key_file == key_file
    for secret in (key_file.read_text(), (folder / STORAGE_KEY).read_text()):
        assert secret not in shown.out + shown.err


def test_a_process_that_holds_the_keys_leaves_no_core_dump(config):
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from ppcmi_server.config import load_config; from ppcmi_server.services import open_services\n"
        "open_services(load_config(Path(sys.argv[1]))); print(resource.getrlimit(resource.RLIMIT_CORE))\n"
    )

    def allow_core_dumps():
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    shown = subprocess.run(
        [sys.executable, "-c", program, str(config.folder)],
        capture_output=True, text=True, check=True, preexec_fn=allow_core_dumps,
    )  # fmt: skip
    assert shown.stdout.strip() == "(0, 0)"
