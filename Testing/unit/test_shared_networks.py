"""Networks between members: what the server gets cannot be opened, what cannot be used is left out, rounds wait."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ppcmi.client import ServerClient
from ppcmi.codec.codec import Codec
from ppcmi.codec.trained_network import TrainedNetwork
from ppcmi.connection_errors import OffProtocolError
from ppcmi.errors import ConnectionFailedError, ServerRefusedError, UsageError
from ppcmi.shared_networks import ConsortiumMembers, Telling, Waiting, list_shared, read_shared, require_sharing, share
from ppcmi.site_files import KEY_BYTES
from ppcmi.task import task_to_json
from ppcmi.task_profile import TaskProfile
from support.codecs import tiny_task

KEY, OTHER_KEY = b"i" * KEY_BYTES, b"j" * KEY_BYTES


class Shelf(ServerClient):
    """The server's shelf of networks in memory; ``broken`` makes every call fail, ``times`` lists each so often."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.kept: dict[str, tuple[bytes, str]] = {}
        self.caller = ""
        self.broken = False
        self.times = 1
        self.refusal: ServerRefusedError | None = None
        self.asked_while_refusing = 0
        self.puts = 0

    def put_network(self, task: str, encrypted: bytes, codec: str) -> None:
        self._work()
        self.puts += 1
        self.kept[self.caller] = (encrypted, f"v{self.puts}")

    def networks(self, task: str) -> list[dict[str, Any]]:
        self._work()
        return [
            {
                "site_id": site,
                "site_name": f"Hospital {site}",
                "shared": "2026-01-01T00:00:00Z",
                "version": version + time,
            }
            for site, (_, version) in self.kept.items()
            for time in ("", " again")[: self.times]
        ]

    def network(self, task: str, site_id: str) -> bytes:
        self._work()
        if site_id not in self.kept:
            raise ServerRefusedError(404, "Not found", "")
        return self.kept[site_id][0]

    def _work(self) -> None:
        if self.refusal is not None:
            self.asked_while_refusing += 1
            raise self.refusal
        if self.broken:
            raise ConnectionFailedError("The server cannot be reached.")


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec(tiny_task(), "autoencoder").eval()


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def _part(folder: Path, key: bytes = KEY, scope: str = "consortium") -> TaskProfile:
    folder.mkdir(exist_ok=True)
    (folder / "task.json").write_text(task_to_json(tiny_task()))
    (folder / "membership.json").write_text(json.dumps({"scope": scope, "mode": "two-layer", "founder": True}))
    (folder / "inner.key").write_bytes(base64.b64encode(key))
    (folder / "inner.key").chmod(0o600)
    return TaskProfile.open(folder)


def _network(codec: Codec, *, last: bool = True, by: float = 0.0) -> TrainedNetwork:
    network = TrainedNetwork.of(codec.local, codec, 5, last=last)
    moved = {name: v + by if v.is_floating_point() else v for name, v in network.weights.items()}
    return replace(network, weights=moved)


def _leave(shelf: Shelf, part: TaskProfile, site: str, network: TrainedNetwork) -> None:
    before, shelf.caller = shelf.caller, site
    share(shelf, part, site, network)
    shelf.caller = before


class Told(list[str]):
    """Remarks and progress, in order."""


class Clock:
    """Time that passes only where someone pauses; ``during`` happens at the end of each pause."""

    def __init__(self, during: Callable[[int], None] = lambda number: None) -> None:
        self.seconds = 0.0
        self.pauses = 0
        self._during = during

    def pause(self, seconds: float) -> None:
        self.seconds += seconds
        self.pauses += 1
        self._during(self.pauses)

    def now(self) -> float:
        return self.seconds


def _members(
    shelf: Shelf, part: TaskProfile, codec: Codec, told: Told, clock: Clock | None = None, wait_for: int = 0
) -> ConsortiumMembers:
    clock = clock or Clock()
    waiting = Waiting(wait_for, longest_s=60, pause=clock.pause, clock=clock.now)
    shelf.caller = "me"
    telling = Telling(lambda network: told.append("kept"), told.append, told.append)
    return ConsortiumMembers(shelf, part, "me", codec, telling, waiting)


def test_what_the_server_keeps_shows_nothing_of_the_network_and_members_read_it(shelf, codec, tmp_path):
    part, network = _part(tmp_path), _network(codec, by=0.5)
    _leave(shelf, part, "other", network)
    kept = shelf.kept["other"][0]
    content = network.to_bytes()
    assert kept.startswith(b"PPCMI-N1")
    assert content[200:232] not in kept
    assert b"output.bias" not in kept
    members = _members(shelf, part, codec, Told())
    (read,) = members.networks()
    assert read.to_bytes() == content
    assert members.names_of([read]) == ["Hospital other"]


def test_a_site_s_own_network_is_none_of_the_others(shelf, codec, tmp_path):
    part = _part(tmp_path)
    _leave(shelf, part, "me", _network(codec))
    assert _members(shelf, part, codec, Told()).networks() == []
    assert [member.site_id for member in list_shared(shelf, part)] == ["me"]


def test_what_no_member_made_or_what_is_another_s_is_left_out_and_told(shelf, codec, tmp_path):
    part, told = _part(tmp_path), Told()
    _leave(shelf, _part(tmp_path / "stranger", OTHER_KEY), "stranger", _network(codec))
    _leave(shelf, part, "good", _network(codec, by=0.1))
    shelf.kept["copied"] = shelf.kept["good"]  # a server that shows one member's network as another's
    shelf.kept["cut"] = (shelf.kept["good"][0][:-9], "v9")
    shelf.kept["empty"] = (b"", "v9")
    members = _members(shelf, part, codec, told)
    assert members.names_of(members.networks()) == ["Hospital good"]
    assert members.names_of(members.networks()) == ["Hospital good"]
    assert len(told) == 4  # once each
    for name in ("stranger", "copied", "cut", "empty"):
        assert any(f"Hospital {name} is left out" in sentence for sentence in told), name


def test_it_is_said_of_every_network_why_it_is_no_part_of_the_mean(shelf, codec, tmp_path):
    part = _part(tmp_path)
    _leave(shelf, part, "good", _network(codec))
    _leave(shelf, part, "early", _network(codec, last=False))
    _leave(shelf, part, "apart", replace(_network(codec), mixes=False))
    shelf.kept["cut"] = (shelf.kept["good"][0][:-9], "v9")
    found = {one.member.site_id: one for one in read_shared(shelf, part, codec)}
    assert {name: one.why_not for name, one in found.items() if one.network is not None} == {
        "good": "",
        "early": "its training is under way, or was cut off",
        "apart": "at its site the mean with others was worse",
    }
    assert found["cut"].network is None
    assert found["cut"].why_not


def test_whether_the_others_have_a_network_of_this_site_is_known_when_its_training_is_broken_off(
    shelf, codec, tmp_path
):
    members = _members(shelf, _part(tmp_path), codec, Told())
    members.networks()
    shelf.broken = True
    members.share(_network(codec, last=False))
    assert not members.have_some
    shelf.broken = False
    members.share(_network(codec, last=False))
    assert members.have_some


def test_a_server_that_shows_a_member_twice_is_not_followed(shelf, codec, tmp_path):
    part = _part(tmp_path)
    _leave(shelf, part, "b", _network(codec))
    shelf.times = 2
    with pytest.raises(OffProtocolError):
        _members(shelf, part, codec, Told()).networks()


def test_a_member_that_spoils_the_mean_is_named(shelf, codec, tmp_path):
    part, told = _part(tmp_path), Told()
    _leave(shelf, part, "b", _network(codec))
    members = _members(shelf, part, codec, told)
    (network,) = members.networks()
    members.left_out(network)
    members.left_out(network)
    assert told == ["The network of Hospital b is left out for now: with it, this site's own cases come out far worse."]


def test_a_round_waits_for_the_others_next_networks(shelf, codec, tmp_path):
    part, told = _part(tmp_path), Told()
    fresh = _network(codec, last=False, by=0.2)
    clock = Clock(lambda number: _leave(shelf, part, "b", fresh) if number == 3 else None)
    _leave(shelf, part, "b", _network(codec, last=True))  # of an earlier time
    members = _members(shelf, part, codec, told, clock, wait_for=1)
    assert len(members.networks()) == 1
    assert clock.pauses == 0  # the first round begins with what there is
    members.share(_network(codec, last=False))
    (found,) = members.networks()
    assert clock.pauses == 3
    assert found.to_bytes() == fresh.to_bytes()
    assert told == ["waiting for other members' networks, 0 of 1 are there"] * 3


def test_the_first_round_does_not_wait_for_a_member_that_is_in_the_middle_of_its_training(shelf, codec, tmp_path):
    """It waits for this site's first: both would stand still in turns."""
    part, clock = _part(tmp_path), Clock()
    _leave(shelf, part, "b", _network(codec, last=False))
    members = _members(shelf, part, codec, Told(), clock, wait_for=1)
    members.networks()
    members.share(_network(codec, last=False))
    members.networks()
    assert clock.pauses == 0
    members.share(_network(codec, last=False))
    members.networks()
    assert clock.pauses > 0


def test_nobody_waits_for_a_member_that_has_finished_meanwhile(shelf, codec, tmp_path):
    part, clock = _part(tmp_path), Clock()
    members = _members(shelf, part, codec, Told(), clock, wait_for=1)
    members.networks()
    members.share(_network(codec, last=False))
    _leave(shelf, part, "b", _network(codec, last=True))
    for _ in range(3):
        assert len(members.networks()) == 1
    assert clock.pauses == 0


def test_a_member_that_never_comes_is_awaited_once_and_the_others_still_are(shelf, codec, tmp_path):
    part, told = _part(tmp_path), Told()
    count = iter(range(1, 100))

    def b_trains(number: int) -> None:
        if number == 2:
            _leave(shelf, part, "b", _network(codec, last=False, by=0.01 * next(count)))

    clock = Clock(b_trains)
    members = _members(shelf, part, codec, told, clock, wait_for=2)
    members.networks()
    members.share(_network(codec, last=False))
    members.networks()
    assert clock.seconds == 60  # c never came
    assert "The network of 1 other member did not come in time; no round waits for it any longer." in told
    members.share(_network(codec, last=False))
    members.networks()
    assert clock.seconds == 120  # b is awaited still, and did not come this time
    assert sum("did not come in time" in sentence for sentence in told) == 2
    members.share(_network(codec, last=False))
    members.networks()
    assert clock.seconds == 120


def test_nobody_waits_for_a_network_that_cannot_be_used(shelf, codec, tmp_path):
    part, clock = _part(tmp_path), Clock()
    shelf.kept["broken"] = (b"PPCMI-N1", "v1")
    members = _members(shelf, part, codec, Told(), clock, wait_for=1)
    members.networks()
    members.share(_network(codec, last=False))
    members.networks()
    assert clock.seconds == 60  # it is none of those that were waited for


def test_a_server_that_is_gone_between_rounds_ends_nothing(shelf, codec, tmp_path):
    part, told = _part(tmp_path), Told()
    _leave(shelf, part, "b", _network(codec, by=0.3))
    members = _members(shelf, part, codec, told)
    members.networks()
    shelf.broken = True
    members.share(_network(codec))
    assert told[0] == "kept"  # before it is sent
    assert [network.to_bytes() for network in members.networks()] == [_network(codec, by=0.3).to_bytes()]
    assert any("was not shared" in sentence for sentence in told)
    assert any("of the round before" in sentence for sentence in told)
    shelf.broken = False
    members.share(_network(codec, last=False))
    assert shelf.puts == 2


def test_only_the_last_round_s_network_takes_the_place_of_the_one_before(shelf, codec, tmp_path):
    told = Told()
    members = _members(shelf, _part(tmp_path), codec, told)
    members.share(_network(codec, last=False))
    assert "kept" not in told
    members.share(_network(codec, last=True))
    assert told.count("kept") == 1


def test_a_server_that_refuses_is_not_asked_again(shelf, codec, tmp_path):
    """The founder has published another codec meanwhile: the training still ends in a decoder for the one before."""
    part, told = _part(tmp_path), Told()
    members = _members(shelf, part, codec, told)
    members.networks()
    shelf.refusal = ServerRefusedError(409, "Another codec", "Get it and refine again.")
    for last in (False, False, True):
        members.share(_network(codec, last=last))
        members.networks()
    assert shelf.asked_while_refusing == 1
    assert sum("goes on without the other members" in sentence for sentence in told) == 1


def test_a_server_that_is_gone_at_the_beginning_is_an_error(shelf, codec, tmp_path):
    shelf.broken = True
    with pytest.raises(ConnectionFailedError):
        _members(shelf, _part(tmp_path), codec, Told()).networks()


def test_sites_with_codecs_of_their_own_share_no_networks(tmp_path):
    with pytest.raises(UsageError, match="one codec"):
        require_sharing(_part(tmp_path, scope="site"))
    require_sharing(_part(tmp_path))
