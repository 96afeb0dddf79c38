"""What a crash leaves among cohorts that wait for their upload goes; what is being written or waits stays."""

import pytest

from ppcmi.errors import SiteError
from ppcmi.outgoing import Outgoing, Waiting
from ppcmi.scales import Profile
from ppcmi.what_leaves import Sending, export_of_slices
from support.private_link import small_task


@pytest.fixture
def outgoing(tmp_path):
    return Outgoing(tmp_path)


@pytest.fixture
def leaving():
    return export_of_slices([5], small_task(), Sending(Profile.MINIMAL), variants=1)


def names(folder):
    return sorted(path.name for path in (folder / "outgoing").iterdir())


def part_of(path):
    """A file as an export that was cut off leaves it."""
    part = path.with_name(f".{path.name}.abc.part")
    part.write_bytes(b"half a cohort")
    return part


def test_what_a_crash_left_is_removed(outgoing, tmp_path):
    path = outgoing.new_path()
    path.write_bytes(b"a cohort of which nobody knows what it is")
    path.with_suffix(".lock").touch()  # the process that held it is gone
    part_of(outgoing.new_path())
    outgoing.clear_leftovers()
    assert names(tmp_path) == []


def test_a_cohort_that_waits_for_its_upload_stays(outgoing, leaving, tmp_path):
    with outgoing.writing() as path:
        path.write_bytes(b"cohort")
        outgoing.keep(Waiting(path, leaving))
    outgoing.clear_leftovers()
    assert outgoing.waiting() == [Waiting(path, leaving)]
    assert names(tmp_path) == sorted((path.name, path.with_suffix(".json").name))


def test_what_another_slicer_is_writing_stays(outgoing, tmp_path):
    with Outgoing(tmp_path).writing() as path:
        part = part_of(path)
        outgoing.clear_leftovers()
        assert part.exists()
        part.rename(path)  # it is whole, and what it is will be written down in a moment
        outgoing.clear_leftovers()
        assert path.exists()
    outgoing.clear_leftovers()
    assert names(tmp_path) == []


def test_a_site_that_never_exported_has_nothing_to_clear(outgoing, tmp_path):
    outgoing.clear_leftovers()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said(outgoing, tmp_path):
    (tmp_path / "outgoing").write_bytes(b"in the way")
    with pytest.raises(SiteError), outgoing.writing():
        pass
