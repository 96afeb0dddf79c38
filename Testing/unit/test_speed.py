"""The benchmark of speed: how timings become numbers, and which bound is asked of which device."""

from types import SimpleNamespace

import pytest

from benchmarks import speed
from benchmarks.bench import plots
from benchmarks.untrained_site import OURS, PUBLISHED

PIECES = (*speed.STAGES, "networks", "mapping network")


def test_time_outside_the_networks_is_of_each_round_and_may_be_below_zero():
    taken = {"networks": [3.2, 6.4], "end to end": [20.0, 10.0]}
    assert speed.outside_networks(taken, 100) == pytest.approx([0.5, -1.0])


def test_a_gpu_has_names_and_bounds_of_its_own():
    of_cpu, of_gpu = _numbers("cpu"), _numbers("cuda")
    assert not of_cpu.keys() & of_gpu.keys()
    assert all(", GPU" in name.split(" / ")[0] for name in of_gpu)
    assert not any("GPU" in name for name in of_cpu)
    assert {number.target for number in of_cpu.values()} == {None, ">= 10", ">= 8", "<= 0.15", "<= 0.05"}
    assert {number.target for number in of_gpu.values()} == {None, "<= 3", "<= 0.5", "<= 0.05"}


def test_one_slice_is_held_against_its_bound_end_to_end_and_not_as_a_sum_of_stages():
    (asked,) = [name for name, number in _numbers("cuda").items() if number.target == "<= 3"]
    assert asked == (
        "one slice of 256 x 256, server and HTTPS on loopback, GPU / coarse / from the click to the segmentation"
    )


def test_the_share_outside_the_networks_is_the_median_of_rounds_beside_their_range():
    start = "a volume of 128 slices of 256 x 256, server and HTTPS on loopback / coarse / time outside the networks"
    found = _numbers("cpu")
    assert [found[start + end].measured for end in ("", ", lowest round", ", highest round")] == [0.2, -0.6, 0.5]


def test_the_plot_of_stages_shows_either_device():
    for device in ("cpu", "cuda"):
        drawn = plots.time_by_stage(list(_numbers(device).values()), (1,))
        assert "ours, coarse" in drawn


def _numbers(device):
    """The numbers of a run whose timings are given."""
    table = object.__new__(speed._Numbers)
    table.device, table.command, table.found = SimpleNamespace(type=device), "make bench-speed", []
    table.origin = speed.here_and_now()
    systems = (PUBLISHED, *OURS)
    for batch in (1, speed.FULL_BATCH):
        table.add_parts(batch, {s: {piece: [0.1, 0.2, 0.3] for piece in PIECES} for s in systems})
    networks = [0.25 * share for share in (0.5, 0.8, 1.6)]  # of 32 slices; the volume has 128 in a second
    whole = {system: {"networks": networks, "end to end": [1.0, 1.0, 1.0]} for system in systems}
    table.add_whole(whole, dict.fromkeys(systems, 1e4), speed.VOLUME_SLICES)
    table.add_one_slice({system: {"end to end": [0.002]} for system in systems})
    return {number.name: number for number in table.found}
