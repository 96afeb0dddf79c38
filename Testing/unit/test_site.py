"""The site profile: what is kept, who can read it, and that it is whole or absent."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ppcmi import sealing
from ppcmi.errors import PpcmiError, ServerRefusedError, SiteError, WriteError
from ppcmi.files import write_atomically
from ppcmi.site import SiteProfile
from ppcmi.task import load_task
from ppcmi.task_profile import Membership
from support.loopback import write_certificate
from support.relay import relay_for

TASK_FILE = Path(__file__).parents[2] / "Resources" / "Tasks" / "phantom.json"
FOUNDER = Membership("consortium", "two-layer", founder=True)


@pytest.fixture
def a_task():
    return load_task(TASK_FILE)


@pytest.fixture
def a_relay():
    with relay_for(TASK_FILE.read_text()) as relay:
        yield relay


@pytest.fixture
def a_site(a_relay, tmp_path):
    return a_relay.enrol(tmp_path, "Hospital A")


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_profile_comes_back_as_it_was_enrolled(a_site, a_relay):
    again = SiteProfile.open(a_site.folder)
    assert again.identity == a_site.identity
    assert again.identity.site_name == "Hospital A"
    assert again.public_key == a_relay.public_keys["Hospital A"]


def test_site_and_server_agree_on_a_link_key_that_never_crosses_the_wire(a_site, a_relay):
    context = b"ppcmi link|" + a_site.identity.site_id.encode() + b"|" + a_site.identity.link_salt
    at_the_server = sealing.agree(a_relay.private_key, a_relay.public_keys["Hospital A"], context=context)
    assert a_site.link_key() == at_the_server
    assert len(at_the_server) == 32


def test_exports_and_uploads_at_the_same_time_lose_nothing_of_each_other(a_site):
    def work(task):
        mine = SiteProfile.open(a_site.folder)
        for number in range(20):
            mine.pseudonyms(task, [f"case {number}"])
            mine.record_cohort(f"{task} {number}", {"task": task})

    tasks = ("liver", "kidney")
    with ThreadPoolExecutor() as pool:
        list(pool.map(work, tasks))
    assert all(a_site.pseudonym_of(task, f"case {number}") for task in tasks for number in range(20))
    assert len(a_site.cohorts()) == 40


def test_only_the_owner_can_enter_the_folder_and_read_the_keys(a_site, a_task):
    a_site.add_task(a_task, FOUNDER, os.urandom(32))
    a_site.pseudonyms(a_task.name, ["case"])
    assert mode_of(a_site.folder) == 0o700
    secret = ["private.key", "token", "pseudonyms.json", f"tasks/{a_task.name}/inner.key"]
    assert {name: mode_of(a_site.folder / name) for name in secret} == dict.fromkeys(secret, 0o600)


def test_no_secret_is_in_a_file_that_others_might_copy(a_site, a_task):
    a_site.add_task(a_task, FOUNDER, os.urandom(32))
    secrets = {path.read_text() for path in a_site.folder.rglob("*") if path.is_file() and path.suffix == ".key"}
    secrets.add((a_site.folder / "token").read_text())
    open_files = [path for path in a_site.folder.rglob("*.json") if mode_of(path) != 0o600]
    assert len(secrets) == 3
    assert len(open_files) == 3
    assert not any(secret in path.read_text() for secret in secrets for path in open_files)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_a_key_that_others_can_read_is_not_used(a_site):
    (a_site.folder / "private.key").chmod(0o644)
    with pytest.raises(SiteError, match="0600"):
        _ = a_site.private_key


@pytest.mark.parametrize("content", [b"", b"????", b"c2hvcnQ=", b"\xff\xfe"])
def test_a_damaged_key_is_an_error_not_a_key(a_site, content):
    (a_site.folder / "private.key").write_bytes(content)
    with pytest.raises(SiteError):
        _ = a_site.private_key


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": "ppcmi-site/9"}', '{"format": "ppcmi-site/1", "server_url": 1}']
)
def test_a_damaged_profile_is_an_error_that_says_what_to_do(a_site, content):
    (a_site.folder / "site.json").write_text(content)
    with pytest.raises(SiteError, match=r"backup|update"):
        SiteProfile.open(a_site.folder)


def test_without_a_profile_the_error_names_the_command(tmp_path):
    with pytest.raises(SiteError) as refusal:
        SiteProfile.open(tmp_path)
    assert refusal.value.command == "ppcmi site init"


def test_a_second_enrolment_does_not_overwrite_the_first(a_site, a_relay):
    before = a_site.private_key
    with pytest.raises(SiteError, match="already"):
        SiteProfile.enrol(a_site.folder, a_relay.url, "another code")
    assert SiteProfile.open(a_site.folder).private_key == before


def test_a_refused_code_leaves_no_profile_and_can_be_tried_again(a_site, a_relay, tmp_path):
    with pytest.raises(ServerRefusedError):
        SiteProfile.enrol(tmp_path / "second", a_relay.url, "Hospital A")
    with pytest.raises(SiteError):
        SiteProfile.open(tmp_path / "second")
    assert SiteProfile.enrol(tmp_path / "second", a_relay.url, "Hospital B").identity.site_name == "Hospital B"


def test_the_authority_of_a_try_that_failed_is_not_kept_for_the_next(a_site, a_relay, tmp_path):
    authority = write_certificate(tmp_path / "authority.pem")
    with pytest.raises(ServerRefusedError):
        SiteProfile.enrol(tmp_path / "second", a_relay.url, "Hospital A", authority)
    site = SiteProfile.enrol(tmp_path / "second", a_relay.url, "Hospital B")
    assert not (site.folder / "server-ca.pem").exists()


def test_a_task_comes_back_with_its_key_and_membership(a_site, a_task):
    key = os.urandom(32)
    a_site.add_task(a_task, FOUNDER, key)
    part = SiteProfile.open(a_site.folder).task(a_task.name)
    assert (part.task, part.membership, part.inner_key) == (a_task, FOUNDER, key)
    assert [each.task.name for each in a_site.tasks()] == [a_task.name]


def test_a_task_is_added_once_because_its_key_would_be_lost(a_site, a_task):
    a_site.add_task(a_task, FOUNDER, bytes(32))
    with pytest.raises(SiteError, match="already"):
        a_site.add_task(a_task, FOUNDER, os.urandom(32))
    assert a_site.task(a_task.name).inner_key == bytes(32)


@pytest.mark.parametrize("name", ["", ".", "..", "../escape", "a/b", "unknown"])
def test_names_of_tasks_do_not_lead_out_of_the_profile(a_site, name):
    with pytest.raises(SiteError):
        a_site.task(name)


def test_a_case_keeps_its_pseudonym_and_the_table_stays_at_home(a_site):
    first = a_site.pseudonyms("phantom", ["Jane Doe", "John Doe"])
    again = SiteProfile.open(a_site.folder).pseudonyms("phantom", ["John Doe", "Jane Doe", "third"])
    assert first.items() <= again.items()
    assert len(set(again.values())) == 3
    assert all(len(value) == 32 and set(value) <= set("0123456789abcdef") for value in again.values())
    assert a_site.pseudonym_of("phantom", "Jane Doe") == first["Jane Doe"]
    assert a_site.pseudonyms("another task", ["Jane Doe"]) != {"Jane Doe": first["Jane Doe"]}


def test_what_is_remembered_about_a_cohort_is_added_to(a_site):
    a_site.record_cohort("c", {"task": "phantom", "state": "open"})
    a_site.record_cohort("c", {"state": "whole"})
    assert a_site.cohorts() == {"c": {"task": "phantom", "state": "whole"}}


def test_what_was_uploaded_is_known_by_name(a_site):
    pseudonyms = a_site.pseudonyms("phantom", ["one", "two"])
    assert a_site.uploaded_cases("phantom") == frozenset()
    a_site.record_cohort("c", {"task": "phantom", "pseudonyms": [pseudonyms["two"]]})
    assert a_site.uploaded_cases("phantom") == {"two"}
    assert a_site.uploaded_cases("another task") == frozenset()


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"before")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(WriteError, match="No space"):
        write_atomically(path, b"after")
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_errors_of_the_profile_name_no_path(a_site, tmp_path):
    (a_site.folder / "token").unlink()
    with pytest.raises(PpcmiError) as caught:
        a_site.client()
    assert str(tmp_path) not in str(caught.value)


def test_the_profile_file_is_plain_json_that_people_can_read(a_site, a_relay):
    assert json.loads((a_site.folder / "site.json").read_text())["server_url"] == a_relay.url
