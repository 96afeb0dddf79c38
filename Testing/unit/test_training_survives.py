"""A training that is cut off, damaged, short of memory or led astray ends as another, or says why it cannot."""

import errno
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from ppcmi.errors import CancelledError, TrainingError
from ppcmi.latents import Latents
from ppcmi_server.errors import OperatorError
from ppcmi_server.storage.blobs import BlobStore
from ppcmi_server.storage.sealed_stream import RECORD_BYTES, SealingFile, open_stream
from ppcmi_server.training.checkpoints import Checkpoints
from ppcmi_server.umn.config import UmnConfig
from ppcmi_server.umn.network import MappingNetwork
from ppcmi_server.umn.scratch import ScratchLatents
from ppcmi_server.umn.training import DivergedError, Watching, train_umn
from unit.test_umn import related_latents

CONFIG = UmnConfig(epochs=2, batch_size=8, minimum_steps=0, validation_share=0.25)
KEY = bytes(range(32))


def keep(folder, fence=1, fingerprint="data"):
    return Checkpoints(BlobStore(str(folder)), KEY, 7, fence, fingerprint)


def bits(umn):
    return {name: values.clone() for name, values in umn.network.state_dict().items()}


def assert_equal_bits(left, right):
    for name, values in left.items():
        assert torch.equal(values, right[name]), name


@pytest.fixture(scope="module")
def dataset():
    return related_latents(9, seed=3)


@pytest.fixture(scope="module")
def whole(dataset):
    return bits(train_umn(dataset, CONFIG))


@pytest.fixture(scope="module")
def trained(dataset, whole, tmp_path_factory):
    """What a training leaves."""
    folder = tmp_path_factory.mktemp("trained")
    assert_equal_bits(bits(train_umn(dataset, CONFIG, keep(folder))), whole)
    return folder


class Countdown:
    """Says stop once, before the given batch; counts batches."""

    def __init__(self, batch):
        self.left = batch

    def __call__(self):
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("batch", [1, 4, 5])
def test_cut_off_before_any_batch_and_gone_on_with_it_gives_the_same_bits(dataset, whole, tmp_path, batch):
    with pytest.raises(CancelledError):
        train_umn(dataset, CONFIG, keep(tmp_path), watching=Watching(should_stop=Countdown(batch)))
    torch.manual_seed(99)  # another process has other generators
    epochs = []
    resumed = train_umn(dataset, CONFIG, keep(tmp_path, fence=2), watching=Watching(report=epochs.append))
    assert_equal_bits(bits(resumed), whole)
    assert [report.epoch for report in epochs] == ([1, 2] if batch < 4 else [2])


def test_checkpoints_within_an_epoch_change_nothing(dataset, whole, tmp_path):
    assert_equal_bits(bits(train_umn(dataset, CONFIG, keep(tmp_path), checkpoint_s=0.0)), whole)


@pytest.mark.parametrize("damage", ["cut off", "bit flipped", "empty", "of other data"])
def test_a_checkpoint_that_is_not_whole_is_passed_over_for_the_one_before(trained, tmp_path, damage):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    older, newest = sorted(path for path in (tmp_path / "jobs" / "7").iterdir())
    content = newest.read_bytes()
    if damage == "cut off":
        newest.write_bytes(content[:-20])
    elif damage == "bit flipped":
        newest.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    elif damage == "empty":
        newest.write_bytes(b"")
    else:
        newest.unlink()
        keep(tmp_path, fingerprint="other data").save({"steps_done": int(newest.name.split("-")[1])})
    (state,) = keep(tmp_path).newest_first()
    assert state["epoch"] == 1
    assert f"{state['steps_done']:09}" == older.name.split("-")[1]


def test_from_the_checkpoint_before_a_damaged_one_it_gives_the_same_bits(dataset, whole, trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    _, newest = sorted(path for path in (tmp_path / "jobs" / "7").iterdir())
    newest.write_bytes(newest.read_bytes()[:-20])
    epochs = []
    again = train_umn(dataset, CONFIG, keep(tmp_path, fence=2), watching=Watching(report=epochs.append))
    assert [report.epoch for report in epochs] == [2]
    assert_equal_bits(bits(again), whole)


def test_what_an_earlier_claim_learned_from_other_data_does_not_displace_what_is_learned_now(tmp_path):
    before, now = keep(tmp_path, 1, "with what was withdrawn"), keep(tmp_path, 2)
    for steps in (800, 900):
        before.save({"steps_done": steps})
    for steps in (1, 2):
        now.save({"steps_done": steps})
        assert next(iter(now.newest_first()))["steps_done"] == steps
    assert len(list((tmp_path / "jobs" / "7").iterdir())) == 2
    assert list(before.newest_first()) == []


def test_a_checkpoint_of_other_options_is_not_taken_up(dataset, trained):
    epochs, other = [], replace(CONFIG, seed=9, epochs=1)
    train_umn(dataset, other, keep(trained), watching=Watching(report=epochs.append))
    assert [report.epoch for report in epochs] == [1]


@pytest.mark.parametrize("size", [0, 1, RECORD_BYTES - 1, RECORD_BYTES, RECORD_BYTES + 1, 2 * RECORD_BYTES + 5])
def test_a_sealed_stream_opens_whole_and_only_whole(tmp_path, size):
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    with (tmp_path / "f").open("wb") as file:
        sealing = SealingFile(file, KEY, b"this")
        for start in range(0, size, 100_000):
            sealing.write(content[start : start + 100_000])
        sealing.finish()
    data = (tmp_path / "f").read_bytes()
    pieces = [data[start : start + 65536] for start in range(0, len(data), 65536)]
    assert open_stream(pieces, KEY, b"this") == content
    record = RECORD_BYTES + 16
    for wrong in (data[:-1], data + b"x", data[: 16 + record], data[:16] + data[16 + record :], b""):
        if wrong != data:
            with pytest.raises(OperatorError):
                open_stream([wrong], KEY, b"this")
    with pytest.raises(OperatorError):
        open_stream([data], KEY, b"that")


class NarrowNetwork(MappingNetwork):
    """Has memory for so many slices at once."""

    room = 3

    def forward(self, images, codec=0):
        if len(images["b"]) > self.room:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")
        return super().forward(images, codec)


def test_a_batch_that_memory_is_too_small_for_is_done_in_parts(dataset, monkeypatch, tmp_path):
    plain = replace(CONFIG, mixup=0.0, noise=0.0)
    reference = train_umn(dataset, plain)
    monkeypatch.setattr(NarrowNetwork, "room", 4)
    monkeypatch.setattr("ppcmi_server.umn.model.MappingNetwork", NarrowNetwork)
    told = []
    narrow = train_umn(dataset, plain, keep(tmp_path), watching=Watching(smaller=told.append))
    assert told == [4]
    monkeypatch.setattr(NarrowNetwork, "room", 2 * len(dataset))
    # Dropout draws otherwise for parts, so the same up to that: nothing else is lost.
    answers = [umn.map(dataset.images, "c")["b"] for umn in (reference, narrow)]
    assert (answers[0] - answers[1]).square().mean() < 0.05 * answers[0].square().mean()


def test_memory_that_is_too_small_for_four_slices_ends_it_with_a_sentence(dataset, monkeypatch):
    monkeypatch.setattr("ppcmi_server.umn.model.MappingNetwork", NarrowNetwork)
    with pytest.raises(TrainingError, match="too small to train on 4 slices"):
        train_umn(dataset, CONFIG)


class FlickeringLatents:
    """Latents that are not numbers when read for the ``when``-th times."""

    def __init__(self, latents, *when):
        self._latents, self._when, self._reads = latents, when, 0
        self.shapes = latents.shapes

    def __len__(self):
        return len(self._latents)

    def select(self, index):
        self._reads += 1
        found = self._latents.select(index)
        return found.map(lambda _, v: v * float("nan")) if self._reads in self._when else found


def test_a_loss_that_is_not_a_number_once_costs_one_epoch_and_is_learned_on_from_more_slowly(dataset, whole, tmp_path):
    flickering = replace(dataset, images=FlickeringLatents(dataset.images, 8))
    umn = train_umn(flickering, CONFIG, keep(tmp_path))
    assert all(bool(torch.isfinite(values).all()) for values in umn.network.parameters())
    (newest, *_) = keep(tmp_path).newest_first()
    assert (newest["epoch"], newest["rate"]) == (2, 0.25)
    assert not torch.equal(bits(umn)["exits.b.0.weight"], whole["exits.b.0.weight"])


def test_a_loss_that_is_not_a_number_twice_ends_it_with_the_last_good_model(dataset, tmp_path):
    after_an_epoch = replace(dataset, images=FlickeringLatents(dataset.images, *range(8, 100)))
    with pytest.raises(DivergedError, match="by epoch 1 is kept") as caught:
        train_umn(after_an_epoch, CONFIG, keep(tmp_path))
    assert all(bool(torch.isfinite(values).all()) for values in caught.value.model.network.parameters())
    at_once = replace(dataset, images=FlickeringLatents(dataset.images, *range(100)))
    with pytest.raises(DivergedError, match="nothing of it is kept") as caught:
        train_umn(at_once, CONFIG)
    assert caught.value.model is None


def test_latents_on_disk_give_the_same_bits_and_leave_nothing_readable(dataset, whole, tmp_path):
    sources = []
    for latents in (dataset.images, dataset.masks):
        half = latents.map(lambda _, v: v.half())
        source = ScratchLatents(tmp_path, len(dataset), latents.shapes)
        source.put(0, half.select(slice(0, 10)))
        source.put(10, half.select(slice(10, len(dataset))))
        sources.append((half, source))
    assert list(tmp_path.iterdir()) == []  # the file has no name
    in_memory = replace(dataset, images=sources[0][0], masks=sources[1][0])
    on_disk = replace(dataset, images=sources[0][1], masks=sources[1][1])
    assert_equal_bits(bits(train_umn(on_disk, CONFIG)), bits(train_umn(in_memory, CONFIG)))
    source = sources[0][1]
    source._file.seek(0)
    raw = source._file.read()
    assert in_memory.images["b"][0].numpy().tobytes()[:16] not in raw


@pytest.mark.parametrize(("spoil", "weight"), [(-1.0, 0.0), (-100.0, 4e-4)])
def test_what_counts_little_teaches_little_also_mixed_with_other_slices(dataset, spoil, weight):
    wrong = related_latents(9, seed=4)
    wrong = replace(wrong, masks=wrong.masks.map(lambda _, v: spoil * v))
    site = torch.cat([torch.zeros(len(dataset)), torch.ones(len(wrong))]).long()

    def train(weight):
        both = replace(
            dataset,
            images=Latents({s: torch.cat([dataset.images[s], wrong.images[s]]) for s in dataset.images}),
            masks=Latents({s: torch.cat([dataset.masks[s], wrong.masks[s]]) for s in dataset.masks}),
            member=torch.zeros(len(site)).long(),
            case=torch.cat([dataset.case, wrong.case + 9]),
            variant=torch.zeros(len(site)).long(),
            sites=("a", "b"),
            site=site,
            weight=torch.where(site == 0, 1.0, weight),
        )
        reports = []
        config = replace(CONFIG, epochs=3, minimum_steps=60)
        train_umn(both, config, watching=Watching(report=reports.append))
        return reports[-1].by_site

    assert train(weight)["a"] < 0.75 * train(1.0)["a"]


def test_sites_that_all_have_weight_0_are_told_before_any_training(dataset):
    weightless = replace(dataset, weight=torch.zeros(len(dataset)))
    with pytest.raises(TrainingError, match="has weight 0") as caught:
        train_umn(weightless, CONFIG)
    assert not isinstance(caught.value, DivergedError)


class FullStore(BlobStore):
    """Takes the beginning of a blob."""

    @contextmanager
    def writing(self, name):
        yield FullFile()


class FullFile:
    room = 1 << 20

    def write(self, content):
        self.room -= len(content)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(content)


def test_a_disk_that_fills_while_a_checkpoint_is_written_is_told_from_a_failure_of_the_training(tmp_path):
    checkpoints = Checkpoints(FullStore(str(tmp_path)), KEY, 7, 1, "data")
    with pytest.raises(OSError, match="No space left"):  # PyTorch says RuntimeError
        checkpoints.save({"steps_done": 1, "network": {str(i): torch.zeros(1 << 19) for i in range(4)}})
