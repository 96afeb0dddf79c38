"""What a node is made of, without a network: names, when a study is whole, the store, and the work on it."""

import json
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcmi.archive.addresses import Application, parse_application, parse_title
from ppcmi.archive.arrivals import Arrivals
from ppcmi.archive.node_storage import NoRoomError, StorageLimits, StudyStore
from ppcmi.archive.node_work import NodeWork, Pauses, Segmented
from ppcmi.archive.store_status import in_words, is_stored
from ppcmi.archive.stored_results import StoredResults
from ppcmi.errors import ConnectionFailedError, ReadError, UsageError

STUDY, OTHER, SERIES = "1.2.3", "1.2.4", "1.2.5"
ROOMY = StorageLimits(quota_bytes=1 << 20, spare_bytes=0)


# ---- names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ORTHANC@127.0.0.1:4242", Application("ORTHANC", "127.0.0.1", 4242)),
        ("STORE SCP@pacs.example.org:104", Application("STORE SCP", "pacs.example.org", 104)),
        ("A@B@[::1]:11112", Application("A@B", "::1", 11112)),
    ],
)
def test_an_application_is_a_title_at_a_host_and_port(text, expected):
    assert parse_application(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    ["ORTHANC", "ORTHANC@host", "@host:104", "A@host:0", "A@host:65536", "A@ho st:104", "A\\B@host:104", "x" * 17],
)
def test_what_is_no_application_is_refused(text):
    with pytest.raises(UsageError):
        parse_application(text)


@pytest.mark.parametrize("text", ["", " A", "A ", "A\\B", "x" * 17, "A\nB", "Ä"])
def test_what_is_no_title_is_refused(text):
    with pytest.raises(UsageError):
        parse_title(text)


def test_refusals_of_an_archive_are_said_in_words_with_their_number():
    assert in_words(0xA700) == "it has no room (A700)"
    assert in_words(0xA9FF) == "it finds that the instance does not fit its class (A9FF)"
    assert in_words(0xC123) == "it does not understand the instance (C123)"
    assert in_words(0x0124) == "the sender is not authorized (0124)"
    assert in_words(0x1234) == "it does not say why (1234)"
    assert [status for status in (0, 0xB000, 0xB007, 0xA700, 0xC000, 0x0110) if is_stored(status)] == [
        0,
        0xB000,
        0xB007,
    ]


# ---- when a study is whole


def test_a_study_is_whole_some_seconds_after_its_last_association_has_ended():
    arrivals = Arrivals(quiet_s=10)
    arrivals.came(STUDY, "first", 0)
    arrivals.came(STUDY, "second", 1)
    arrivals.ended("first", 2)
    assert not arrivals.is_whole(STUDY, 100)  # the second may bring more
    arrivals.ended("second", 100)
    assert not arrivals.is_whole(STUDY, 109)
    assert arrivals.is_whole(STUDY, 110)
    arrivals.came(STUDY, "third", 111)
    assert not arrivals.is_whole(STUDY, 200)


def test_an_association_that_ends_says_nothing_about_other_studies():
    arrivals = Arrivals(quiet_s=10)
    arrivals.came(STUDY, "first", 0)
    arrivals.ended("first", 5)
    arrivals.ended("an echo", 14)
    assert arrivals.is_whole(STUDY, 15)


def test_a_study_from_before_a_restart_is_whole():
    assert Arrivals(quiet_s=10).is_whole(STUDY, 0)


# ---- the store


def test_instances_are_kept_by_study_under_names_that_say_nothing(tmp_path):
    store = StudyStore(tmp_path, ROOMY)
    for study, instance in ((STUDY, "1.2.3.1"), (STUDY, "1.2.3.2"), (OTHER, "1.2.4.1")):
        store.add(study, SERIES, instance, f"content of {instance}".encode())
    first, second = store.studies()
    assert (first.instances, second.instances) == (2, 1)
    assert {path.read_bytes() for path in first.images.glob("*/*")} == {b"content of 1.2.3.1", b"content of 1.2.3.2"}
    for path in tmp_path.rglob("*"):
        assert not any(uid in str(path.relative_to(tmp_path)) for uid in (STUDY, OTHER))
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


@settings(max_examples=30, deadline=None)  # each writes durably
@given(st.lists(st.tuples(st.sampled_from([STUDY, OTHER]), st.integers(0, 3), st.binary(max_size=9)), max_size=12))
def test_the_store_holds_the_last_of_each_instance_also_after_a_restart(tmp_path_factory, instances):
    folder = tmp_path_factory.mktemp("store")
    store = StudyStore(folder, ROOMY)
    expected = {}
    for study, number, content in instances:
        store.add(study, SERIES, f"{study}.{number}", content)
        expected[study, number] = content
    for opened in (store, StudyStore(folder, ROOMY)):
        kept = [path.read_bytes() for study in opened.studies() for path in study.images.glob("*/*")]
        assert sorted(kept) == sorted(expected.values())
        assert len(opened.studies()) == len({study for study, _ in expected})
        assert opened.used_bytes >= sum(map(len, expected.values()))


def test_what_does_not_fit_into_the_quota_is_refused_and_room_comes_back(tmp_path):
    store = StudyStore(tmp_path, StorageLimits(quota_bytes=2000, spare_bytes=0))
    store.add(STUDY, SERIES, "1.2.3.1", bytes(1500))
    with pytest.raises(NoRoomError):
        store.add(OTHER, SERIES, "1.2.4.1", bytes(1500))
    store.add(STUDY, SERIES, "1.2.3.1", bytes(1600))  # in place of the first
    (study,) = store.studies()
    assert store.remove(study, study.digest())
    assert not list((tmp_path / "studies").glob("*/images/*/*"))
    store.add(OTHER, SERIES, "1.2.4.1", bytes(1500))


def test_a_disk_that_is_nearly_full_takes_nothing(tmp_path):
    with pytest.raises(NoRoomError, match="nearly full"):
        StudyStore(tmp_path, StorageLimits(spare_bytes=1 << 60)).add(STUDY, SERIES, "1.2.3.1", b"x")


def test_a_study_that_has_grown_since_it_was_answered_stays(tmp_path):
    store = StudyStore(tmp_path, ROOMY)
    study = store.add(STUDY, SERIES, "1.2.3.1", b"x")
    answered = study.digest()
    store.add(STUDY, SERIES, "1.2.3.2", b"y")
    assert not store.remove(study, answered)
    assert store.studies() == [study]


def test_an_instance_that_is_sent_again_changes_nothing(tmp_path):
    store = StudyStore(tmp_path, ROOMY)
    study = store.add(STUDY, SERIES, "1.2.3.1", b"x")
    before = study.digest()
    store.add(STUDY, SERIES, "1.2.3.1", b"x")
    assert study.digest() == before


def test_a_kept_study_waits_again_only_if_more_comes(tmp_path):
    store = StudyStore(tmp_path, ROOMY)
    study = store.add(STUDY, SERIES, "1.2.3.1", b"x")
    assert store.keep(study, study.digest())
    assert store.studies() == []
    store.add(STUDY, SERIES, "1.2.3.2", b"y")
    assert StudyStore(tmp_path, ROOMY).studies() == [study]


def test_numbers_of_studies_are_not_used_again(tmp_path):
    store = StudyStore(tmp_path, ROOMY)
    first = store.add(STUDY, SERIES, "1.2.3.1", b"x")
    store.remove(first, first.digest())
    assert StudyStore(tmp_path, ROOMY).add(STUDY, SERIES, "1.2.3.1", b"x").number == first.number + 1


# ---- the record of what was given back


def test_a_result_counts_as_stored_in_the_archive_that_has_it(tmp_path):
    record = StoredResults(tmp_path)
    record.add("1.2.3", "here")
    (tmp_path / "ppcmi-stored.jsonl").open("a").write('{"instance": "1.2.4", "arch')  # the power went
    record = StoredResults(tmp_path)
    record.add("1.2.5", "here")
    again = StoredResults(tmp_path)
    known = [
        (uid, where) for uid in ("1.2.3", "1.2.4", "1.2.5") for where in ("here", "there") if again.has(uid, where)
    ]
    assert known == [("1.2.3", "here"), ("1.2.5", "here")]


# ---- the work


class Surroundings:
    """A node's work with a clock that a test sets, and a network that may be down."""

    def __init__(self, folder):
        self.now, self.said, self.segmented, self.hindered = 0.0, [], 0, None
        self.store, self.arrivals, self.folder = StudyStore(folder, ROOMY), Arrivals(0), folder
        self.sent, self.found_nothing = [], 0
        self.work = self.started()

    def started(self):
        return NodeWork(
            self.store, self.arrivals, self.segment, self, self.store.remove, self.folder / "history", self.said.append,
            Pauses(first_s=1, longest_s=100), lambda: self.now,
        )  # fmt: skip

    def segment(self, images, results):
        self.segmented += 1
        if self.hindered:
            raise self.hindered
        results.mkdir(exist_ok=True)
        (results / "result").write_bytes(b"".join(sorted(path.read_bytes() for path in images.glob("*/*"))))
        return Segmented([results / "result"], [], self.found_nothing)

    def deliver(self, files, record):
        self.sent += [file.read_bytes() for file in files]
        return len(files)


@pytest.fixture
def surroundings(tmp_path):
    return Surroundings(tmp_path / "node")


def test_a_study_is_segmented_given_back_and_gone(surroundings):
    surroundings.store.add(STUDY, SERIES, "1.2.3.1", b"x")
    assert surroundings.work.run_once()
    assert surroundings.sent == [b"x"]
    assert not list((surroundings.folder / "studies").iterdir())
    assert not surroundings.work.run_once()
    assert surroundings.said == ["study 1: 1 instance received", "study 1: 1 result given back"]
    (line,) = (surroundings.folder / "history").read_text().splitlines()
    assert json.loads(line)["results"] == 1


def test_a_study_in_which_nothing_was_found_is_given_back_and_said_to_be_one(surroundings):
    surroundings.store.add(STUDY, SERIES, "1.2.3.1", b"x")
    surroundings.found_nothing = 1
    assert surroundings.work.run_once()
    assert surroundings.said[1:] == ["study 1: no structure was found in 1 image", "study 1: 1 result given back"]
    (line,) = (surroundings.folder / "history").read_text().splitlines()
    assert json.loads(line)["found_nothing"] == 1


def test_what_hinders_all_is_waited_for_with_growing_pauses_and_said_once(surroundings):
    surroundings.store.add(STUDY, SERIES, "1.2.3.1", b"x")
    surroundings.hindered = ConnectionFailedError("The server cannot be reached.")
    tried = []
    for second in range(300):
        surroundings.now = float(second)
        if surroundings.work.run_once():
            tried.append(second)
    assert tried == [0, 1, 3, 7, 15, 31, 63, 127, 227]  # never longer than 100 seconds
    assert surroundings.said.count("study 1 waits: The server cannot be reached.") == 1
    surroundings.hindered = None
    surroundings.now = 1000.0
    assert surroundings.work.run_once()
    assert surroundings.sent == [b"x"]


def test_a_study_that_waits_does_not_keep_others_waiting(surroundings):
    surroundings.store.add(STUDY, SERIES, "1.2.3.1", b"x")
    surroundings.hindered = ConnectionFailedError("The server cannot be reached.")
    surroundings.work.run_once()
    surroundings.hindered = None
    surroundings.store.add(OTHER, SERIES, "1.2.4.1", b"y")
    assert surroundings.work.run_once()
    assert surroundings.sent == [b"y"]


def test_an_unforeseen_failure_does_not_end_the_node(surroundings):
    surroundings.store.add(STUDY, SERIES, "1.2.3.1", b"x")
    surroundings.hindered = ZeroDivisionError("of patient X")
    assert surroundings.work.run_once()
    assert "ZeroDivisionError" in surroundings.said[-1]
    assert "patient X" not in "".join(surroundings.said)


def test_a_study_without_images_is_let_go_with_a_sentence(surroundings):
    surroundings.store.add(STUDY, SERIES, "1.2.3.1", b"x")
    surroundings.hindered = ReadError("There is no image.")
    assert surroundings.work.run_once()
    assert "study 1: There is no image." in surroundings.said
    assert surroundings.store.studies() == []


def test_after_a_restart_what_was_not_answered_is_found_again(surroundings):
    surroundings.store.add(STUDY, SERIES, "1.2.3.1", b"x")
    surroundings.hindered = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        surroundings.work.run_once()
    surroundings.hindered, surroundings.store = None, StudyStore(surroundings.folder, ROOMY)
    assert surroundings.started().run_once()
    assert surroundings.sent == [b"x"]


def test_a_study_that_grows_while_it_is_segmented_is_segmented_again(surroundings):
    surroundings.store.add(STUDY, SERIES, "1.2.3.1", b"x")
    usual = surroundings.segment

    def segment(images, results):
        done = usual(images, results)
        if surroundings.segmented == 1:
            surroundings.store.add(STUDY, SERIES, "1.2.3.2", b"y")
        return done

    surroundings.segment = segment
    work = surroundings.started()
    assert work.run_once()
    assert work.run_once()
    assert surroundings.sent == [b"x", b"xy"]
    assert surroundings.store.studies() == []
