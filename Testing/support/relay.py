"""The parts of the protocol by which sites find each other, as a server that a test can make dishonest."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from ppcmi import sealing
from ppcmi.site import SiteProfile
from support.loopback import Answer, Request, loopback_server


@dataclass
class Relay:
    """What such a server knows; a test may read it, and change it behind the sites' backs."""

    task: str
    private_key: bytes = field(default_factory=sealing.new_private_key)
    public_keys: dict[str, bytes] = field(default_factory=dict)
    consortium: dict[str, object] | None = None
    members: set[str] = field(default_factory=set)
    invitations: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    codec: tuple[bytes, str] | None = None
    models: list[dict[str, object]] = field(default_factory=list)
    url: str = ""

    def enrol(self, folder: Path, name: str) -> SiteProfile:
        return SiteProfile.enrol(folder / name, self.url, code=name)

    def respond(self, request: Request) -> Answer:
        path = urlsplit(request.path)
        caller = request.headers.get("Authorization", "").removeprefix("Bearer token of ")
        body = json.loads(request.body) if request.headers.get("Content-Type") == "application/json" else request.body
        answer = _problem(404, "Nothing here")
        match request.method, path.path.removeprefix("/v1/").split("/"):
            case "GET", ["info"]:
                answer = _json({"service": "ppcmi-server", "version": "0", "protocol": 1, "public_key": ""})
            case "POST", ["enrol"]:
                answer = self._enrol(body)
            case "GET", ["sites"]:
                answer = self._site(parse_qs(path.query)["name"][0])
            case "GET", ["tasks", _]:
                known = None if self.consortium is None else {**self.consortium, "codec": self.codec and self.codec[1]}
                active = next((model for model in self.models if model["state"] == "active"), None)
                answer = _json({"task": json.loads(self.task), "active_model": active, "consortium": known})
            case "GET", ["tasks", _, "models"]:
                answer = _json(self.models)
            case "POST", ["tasks", _, "consortium"]:
                answer = Answer(201) if self.consortium is None else _problem(409, "There is a consortium")
                self.consortium = self.consortium or body
                self.members.add(caller)
            case "POST", ["tasks", _, "invitations"]:
                self.invitations[body["to"].removeprefix("id of ")] = (base64.b64decode(body["sealed"]), caller)
                answer = Answer(201)
            case "GET", ["tasks", _, "invitation"] if caller in self.invitations:
                sealed, sender = self.invitations[caller]
                answer = _json({"sealed": base64.b64encode(sealed).decode(), "from": sender})
            case "POST", ["tasks", _, "members"] if caller in self.invitations:
                self.members.add(caller)
                answer = Answer(204, b"")
            case "PUT", ["tasks", _, "codec"]:
                self.codec = (body, request.headers["X-PPCMI-Codec"])
                answer = Answer(204, b"")
            case "GET", ["tasks", _, "codec"] if self.codec is not None:
                answer = Answer(200, self.codec[0], {"X-PPCMI-Codec": self.codec[1]})
        return answer

    def _enrol(self, body: dict[str, str]) -> Answer:
        name = body["code"]
        if name in self.public_keys:
            return _problem(403, "Code used")
        self.public_keys[name] = base64.b64decode(body["public_key"])
        own = base64.b64encode(sealing.public_key_of(self.private_key)).decode()
        identity = {"site_id": f"id of {name}", "site_name": name, "token": f"token of {name}"}
        return _json({**identity, "server_public_key": own, "link_salt": base64.b64encode(bytes(16)).decode()}, 201)

    def _site(self, name: str) -> Answer:
        if name not in self.public_keys:
            return _problem(404, "No such site")
        key = base64.b64encode(self.public_keys[name]).decode()
        return _json({"site_id": f"id of {name}", "site_name": name, "public_key": key})


@contextmanager
def relay_for(task: str) -> Iterator[Relay]:
    """A relay that serves one task, given as its JSON text."""
    relay = Relay(task)
    with loopback_server(relay.respond) as server:
        relay.url = server.url
        yield relay


def _json(document: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(document).encode())


def _problem(status: int, title: str) -> Answer:
    return _json({"type": "about:blank", "title": title, "status": status, "detail": ""}, status)
