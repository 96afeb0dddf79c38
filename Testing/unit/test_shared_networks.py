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
from ppcmi.errors import ConnectionFailedError, ServerRefusedError, UsageError
from ppcmi.shared_networks import ConsortiumMembers, Telling, list_shared, require_sharing, share
from ppcmi.site import KEY_BYTES, TaskProfile
from ppcmi.task import task_to_json
from support.codecs import tiny_task

KEY, OTHER_KEY = b"i" * KEY_BYTES, b"j" * KEY_BYTES


class Shelf(ServerClient):
    """The server's shelf of networks in memory; ``broken`` makes every call fail."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.kept: dict[str, tuple[bytes, str]] = {}
        self.caller = ""
        self.broken = False
        self.puts = 0

    def put_network(self, task: str, encrypted: bytes, codec: str) -> None:
        self._work()
        self.puts += 1
        self.kept[self.caller] = (encrypted, f"v{self.puts}")

    def networks(self, task: str) -> list[dict[str, Any]]:
        self._work()
        return [
            {"site_id": site, "site_name": f"Hospital {site}", "shared": "2026-01-01T00:00:00Z", "version": version}
            for site, (_, version) in self.kept.items()
        ]

    def network(self, task: str, site_id: str) -> bytes:
        self._work()
        if site_id not in self.kept:
            raise ServerRefusedError(404, "Not found", "")
        return self.kept[site_id][0]

    def _work(self) -> None:
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
    shelf.caller = site
    share(shelf, part, site, network)


class Told(list[str]):
    """Remarks and progress, in order."""


def _members(
    shelf: Shelf, part: TaskProfile, codec: Codec, told: Told, pause: Callable[[float], None] = lambda _: None,
    wait_for: int = 0,
) -> ConsortiumMembers:  # fmt: skip
    shelf.caller = "me"
    return ConsortiumMembers(
        shelf, part, "me", codec, Telling(lambda network: None, told.append, told.append),
        shares=True, wait_for=wait_for, longest_wait_s=60, pause=pause,
    )  # fmt: skip


def test_what_the_server_keeps_shows_nothing_of_the_network_and_members_read_it(shelf, codec, tmp_path):
    part, network = _part(tmp_path), _network(codec, by=0.5)
    _leave(shelf, part, "other", network)
    kept = shelf.kept["other"][0]
    content = network.to_bytes()
    assert kept.startswith(b"PPCMI-N1")
    assert content[200:232] not in kept
    assert b"output.bias" not in kept
    (read,) = _members(shelf, part, codec, Told()).networks()
    assert read.to_bytes() == content


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
    assert len(members.networks()) == 1
    assert members.names == ["Hospital good"]
    for name in ("stranger", "copied", "cut", "empty"):
        assert any(f"Hospital {name} is left out" in sentence for sentence in told), name


def test_a_round_waits_for_the_others_next_networks(shelf, codec, tmp_path):
    part, told, pauses = _part(tmp_path), Told(), []
    _leave(shelf, part, "b", _network(codec, last=False))

    def b_gets_ready(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            _leave(shelf, part, "b", _network(codec, last=False, by=0.2))

    members = _members(shelf, part, codec, told, b_gets_ready, wait_for=1)
    assert len(members.networks()) == 1
    assert not pauses
    members.share(_network(codec, last=False))
    (fresh,) = members.networks()
    assert len(pauses) == 3
    assert fresh.to_bytes() == _network(codec, last=False, by=0.2).to_bytes()
    assert told.count("waiting for other members' networks, 0 of 1 are there") == 3


def test_nobody_waits_for_a_member_that_has_finished_meanwhile(shelf, codec, tmp_path):
    part, pauses = _part(tmp_path), []
    members = _members(shelf, part, codec, Told(), pauses.append, wait_for=1)
    members.networks()
    members.share(_network(codec, last=False))
    _leave(shelf, part, "b", _network(codec, last=True))
    for _ in range(3):
        assert len(members.networks()) == 1
    assert not pauses


def test_a_member_that_never_comes_is_awaited_once(shelf, codec, tmp_path):
    part, told, pauses = _part(tmp_path), Told(), []
    _leave(shelf, part, "b", _network(codec, last=True))  # of an earlier time: it may well train again now
    members = _members(shelf, part, codec, told, pauses.append, wait_for=1)
    for _ in range(4):
        members.networks()
        members.share(_network(codec, last=False))
    assert sum(pauses) == 60
    assert [sentence for sentence in told if "in time" in sentence] == ["Of 1 other member 0 shared in time; going on."]


def test_a_server_that_is_gone_between_rounds_ends_nothing(shelf, codec, tmp_path):
    part, told, kept = _part(tmp_path), Told(), []
    _leave(shelf, part, "b", _network(codec, by=0.3))
    shelf.caller = "me"
    members = ConsortiumMembers(
        shelf, part, "me", codec, Telling(kept.append, told.append, told.append), shares=True, pause=lambda _: None
    )
    members.networks()
    shelf.broken = True
    members.share(_network(codec))
    assert len(kept) == 1  # what was trained is kept before it is sent
    assert [network.to_bytes() for network in members.networks()] == [_network(codec, by=0.3).to_bytes()]
    assert any("was not shared" in sentence for sentence in told)
    assert any("of the round before" in sentence for sentence in told)


def test_a_server_that_is_gone_at_the_beginning_is_an_error(shelf, codec, tmp_path):
    shelf.broken = True
    with pytest.raises(ConnectionFailedError):
        _members(shelf, _part(tmp_path), codec, Told()).networks()


def test_sites_with_codecs_of_their_own_share_no_networks(tmp_path):
    with pytest.raises(UsageError, match="one codec"):
        require_sharing(_part(tmp_path, scope="site"))
    require_sharing(_part(tmp_path))
