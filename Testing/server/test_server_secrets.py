"""What a server must not know is nowhere in its folder, its database or its memory; what it knows is in no log.

The server is a process of its own and serves with wrapped key files; sites found a consortium, invite and join through
it. Then everything that it has is searched, its memory too.
"""

import base64
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ppcmi import consortium
from ppcmi.channel import open_channel
from ppcmi.site import SiteProfile
from ppcmi_server.cli.main import main
from support.real_server import RealServer, serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads another process's memory in /proc")

TASK_FILE = Path(__file__).parents[2] / "Resources" / "Tasks" / "phantom.json"
TASK = "phantom"


def spellings(secret):
    """As bytes, and in the ways in which bytes become text."""
    without_edges = base64.b64encode(secret)[:42]  # where a base64 text goes on, its last letters differ
    return {secret, secret.hex().encode(), secret.hex().upper().encode(), without_edges, repr(secret).encode()[2:-1]}


def has(content, secret):
    return any(spelling in content for spelling in spellings(secret))


def memory_of(pid):
    """Everything that a process can have written somewhere: each of its writable regions."""
    parts = []
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line)
            start, end, mode = int(found[1], 16), int(found[2], 16), found[3]
            if mode.startswith("rw") and not line.endswith(("[vvar]", "[vsyscall]")):
                try:
                    memory.seek(start)
                    parts.append(memory.read(end - start))
                except OSError:
                    continue  # a device's memory, or gone by now
    return b"\0".join(parts)


def files_in(folder):
    return b"\0".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


@pytest.fixture(scope="module")
def a_relay(tmp_path_factory):
    """A server that two sites have found each other on, and all that is known of it."""
    home = tmp_path_factory.mktemp("secrets")
    with pytest.MonkeyPatch.context() as surroundings:
        surroundings.setenv("XDG_CONFIG_HOME", str(home / "config"))
        yield from _relayed(home)


def _relayed(home):
    folder, key_file = home / "server", home / "elsewhere.key"
    by_hand = RealServer(folder)  # an operator's commands print codes and tokens, which the server does not
    assert main(["init", str(folder)]) == 0
    by_hand.command("task", "add", str(TASK_FILE))
    plain_keys = {name: base64.b64decode((folder / name).read_bytes()) for name in ("private.key", "storage.key")}
    by_hand.command("keys", "wrap", "--key-file", str(key_file))
    settings = folder / "server.toml"
    settings.write_text(settings.read_text().replace('# key_file = ""', f'key_file = "{key_file}"'))
    with serving(folder) as server:
        operator = by_hand.command("operator", "add", "Ops").strip()
        codes = [by_hand.add_site(name) for name in ("Hospital A", "Hospital B")]
        sites = [SiteProfile.enrol(home / f"site-{n}", server.url, code) for n, code in enumerate(codes)]
        first, second = sites
        part = consortium.create(first, first.client(), TASK, "consortium", "two-layer")
        consortium.invite(first, first.client(), part, consortium.find_peer(first.client(), "Hospital B"))
        sealed, _ = second.client().invitation(TASK)
        with_invitation = files_in(folder)
        joined, _ = consortium.join(second, second.client(), TASK)
        proc = Path(f"/proc/{server.pid}")
        yield SimpleNamespace(
            inner_key=part.inner_key,
            joined=joined,
            sealed=sealed,
            sites=sites,
            tokens=[(site.folder / "token").read_text() for site in sites],
            codes=codes,
            operator=operator,
            keys=plain_keys,
            key_file=base64.b64decode(key_file.read_bytes()),
            stored=with_invitation + files_in(folder),
            memory=memory_of(server.pid),
            visible=(proc / "environ").read_bytes() + (proc / "cmdline").read_bytes() + server.log.encode(),
            limits=(proc / "limits").read_text(),
        )


def test_the_invitation_arrived(a_relay):
    assert a_relay.joined.inner_key == a_relay.inner_key


def test_what_is_searched_is_what_the_server_has(a_relay):
    """The control: what it does know is found in both, in the same ways of looking."""
    for content in (a_relay.stored, a_relay.memory):
        assert has(content, a_relay.sites[0].public_key)
        assert b"Hospital A" in content
    assert has(a_relay.memory, a_relay.keys["private.key"])
    assert has(a_relay.stored, a_relay.sealed)
    assert len(a_relay.memory) > 10_000_000
    assert b"serve" in a_relay.visible
    assert b"Listening" in a_relay.visible


def test_the_server_knows_no_inner_key_though_it_relayed_the_invitation(a_relay):
    assert not has(a_relay.stored, a_relay.inner_key)
    assert not has(a_relay.memory, a_relay.inner_key)


def test_the_server_knows_no_sites_private_key(a_relay):
    for site in a_relay.sites:
        assert not has(a_relay.stored, site.private_key)
        assert not has(a_relay.memory, site.private_key)


def test_a_stolen_folder_has_no_key_of_the_server_no_token_and_no_code(a_relay):
    for secret in (*a_relay.keys.values(), a_relay.key_file):
        assert not has(a_relay.stored, secret)
    for text in (*a_relay.tokens, *a_relay.codes, a_relay.operator):
        assert text.encode() not in a_relay.stored
    for site in a_relay.sites:
        assert not has(a_relay.stored, site.link_key())


def test_environment_arguments_and_log_hold_no_secret(a_relay):
    for secret in (*a_relay.keys.values(), a_relay.key_file, a_relay.inner_key, a_relay.sites[0].link_key()):
        assert not has(a_relay.visible, secret)
    for text in (*a_relay.tokens, a_relay.operator):
        assert text.encode() not in a_relay.visible
    assert open_channel(a_relay.sites[0].link_key(), a_relay.joined.task.identity, "two-layer")  # it is a good key


def test_the_servers_process_may_write_no_core_dump(a_relay):
    found = re.search(r"^Max core file size\s+(\S+)\s+(\S+)", a_relay.limits, re.MULTILINE)
    assert found.groups() == ("0", "0")
