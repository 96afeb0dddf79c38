"""Site profile: what one site keeps at home, in a folder of mode 0700.

::

    site.json              server address, the site's id and name, the server's public key, its pin if there is one
    *.pem                  what it trusts the server by, and its own certificate; see ppcmi.site_connection
    private.key  token     secrets, mode 0600
    audit-receipt          what was seen of the server's audit log, see ppcmi.audit_receipt
    pseudonyms.json        which case hides behind which pseudonym, mode 0600; never leaves
    cohorts.json           what was uploaded; tables.lock is held while one of the two is changed
    consents.jsonl         what users agreed to send, mode 0600; see ppcmi.consent_log
    tasks/NAME/            the site's part in a task, see ppcmi.task_profile

Every file appears by rename, so that a profile is never half written.
"""

from __future__ import annotations

import base64
import json
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ppcmi import sealing
from ppcmi.client import NOT_FOUND, Patience, ServerClient
from ppcmi.connection_errors import OffProtocolError
from ppcmi.connections import ClientCertificate
from ppcmi.errors import ServerRefusedError, SiteError, UsageError
from ppcmi.files import write_atomically
from ppcmi.locks import hold_lock
from ppcmi.server_address import normalize_url
from ppcmi.server_certificate import parse_pin
from ppcmi.site_connection import connect, keep_certificates
from ppcmi.site_files import json_bytes, keep_secret, make_private_folder, read_json, read_secret, read_text
from ppcmi.task import Task, parse_task, task_to_json
from ppcmi.task_profile import Membership, TaskProfile
from ppcmi.wording import printable

FORMAT = "ppcmi-site/1"
LONGEST_CHANGE_S = 30.0
_FROM_SERVER = ("site_id", "site_name", "server_public_key", "link_salt")


@dataclass(frozen=True)
class Identity:
    """Who the site is to its server; nothing of it is secret.

    ``pin`` is the SHA-256 (hex) of the one certificate that the server may show, or None.
    """

    server_url: str
    site_id: str
    site_name: str
    server_public_key: bytes
    link_salt: bytes
    pin: str | None = None


class SiteProfile:
    """A site's own folder; make one with :meth:`enrol`, come back with :meth:`open`."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        self.folder = folder
        self.identity = identity

    @classmethod
    def enrol(
        cls,
        folder: Path,
        server_url: str,
        code: str,
        ca_file: Path | None = None,
        *,
        pin: str | None = None,
        certificate: ClientCertificate | None = None,
    ) -> SiteProfile:
        """Make keys, trade the one-time ``code`` for an identity, and keep both in ``folder``.

        :param pin: SHA-256 of the one certificate to trust, as the server's operator tells it, instead of ``ca_file``.
        :param certificate: the site's own, for a server that asks for one; the profile keeps copies.
        :raises SiteError: if there is a profile already.
        :raises CertificateError: if the server shows another certificate.
        """
        pin = None if pin is None else parse_pin(pin)
        if (folder / "site.json").exists():
            raise SiteError("There is a site profile already; choose another folder with --site.")
        make_private_folder(folder)
        url = normalize_url(server_url)
        keep_certificates(folder, url, ca_file, pin, certificate)
        client = connect(folder, url, pin)
        client.info()
        # The key is on disk before the code is spent: a full disk must not leave a site that nobody can be.
        private = keep_secret(folder / "private.key", sealing.new_private_key())
        answer = client.enrol(code.strip(), sealing.public_key_of(private))
        if not {"token", *_FROM_SERVER} <= answer.keys():
            raise OffProtocolError
        write_atomically(folder / "token", str(answer["token"]).encode(), mode=0o600)
        document = {"format": FORMAT, "server_url": url, **{name: str(answer[name]) for name in _FROM_SERVER}}
        document |= {} if pin is None else {"pin": pin}
        write_atomically(folder / "site.json", json_bytes(document))
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> SiteProfile:
        """The profile in ``folder``.

        :raises SiteError: if there is none, or it is damaged.
        """
        document = read_json(
            folder / "site.json", "There is no site profile yet; set the site up first.", "ppcmi site init"
        )
        if document.get("format") != FORMAT:
            raise SiteError("The site profile is damaged, or of another version of ppcmi; restore or update it.")
        try:
            identity = Identity(
                server_url=normalize_url(str(document["server_url"])),
                site_id=str(document["site_id"]),
                site_name=str(document["site_name"]),
                server_public_key=base64.b64decode(document["server_public_key"], validate=True),
                link_salt=base64.b64decode(document["link_salt"], validate=True),
                pin=None if "pin" not in document else parse_pin(str(document["pin"])),
            )
        except (UsageError, KeyError, TypeError, ValueError) as error:
            raise SiteError("The site profile is damaged; restore it from a backup, or enrol again.") from error
        return cls(folder, identity)

    @property
    def private_key(self) -> bytes:
        """The site's X25519 private key."""
        return read_secret(self.folder / "private.key")

    @property
    def public_key(self) -> bytes:
        """The X25519 key that others seal to."""
        return sealing.public_key_of(self.private_key)

    def link_key(self) -> bytes:
        """The 32 bytes that site and server agree on; they are derived anew and stored nowhere."""
        context = b"ppcmi link|" + self.identity.site_id.encode() + b"|" + self.identity.link_salt
        return sealing.agree(self.private_key, self.identity.server_public_key, context=context)

    def client(self, patience: Patience | None = None, token: str | None = None) -> ServerClient:
        """A client that calls as this site.

        :param token: instead of the profile's own.
        """
        if token is None:
            token = read_text(
                self.folder / "token", "The site's token is missing; restore it from a backup, or enrol again."
            ).strip()
        return connect(self.folder, self.identity.server_url, self.identity.pin, token, patience)

    def keep_token(self, token: str) -> None:
        """Call with ``token`` from now on."""
        write_atomically(self.folder / "token", token.encode(), mode=0o600)

    # ---- tasks

    def task(self, name: str) -> TaskProfile:
        """The site's part in the task ``name``.

        :raises SiteError: if it has none.
        """
        if not self.takes_part_in(name):
            others = ", ".join(membership.parent.name for membership in self._memberships())
            raise SiteError(
                f"The site takes no part in task '{printable(name)}'{f', only in {others}' if others else ' yet'}; "
                "found its consortium or join it.",
                command="ppcmi consortium create, or ppcmi consortium join",
            )
        return TaskProfile.open(self._task_folder(name))

    def tasks(self) -> list[TaskProfile]:
        """Every task that the site takes part in, by name."""
        return [TaskProfile.open(membership.parent) for membership in self._memberships()]

    def takes_part_in(self, name: str) -> bool:
        """Whether :meth:`task` would find it."""
        return (self._task_folder(name) / "membership.json").exists()

    def add_task(self, task: Task, membership: Membership, inner_key: bytes) -> TaskProfile:
        """Keep the site's part in ``task``.

        :raises SiteError: if it takes part already: its key would be lost.
        """
        folder = self._task_folder(task.name)
        if (folder / "membership.json").exists():
            raise SiteError(f"The site takes part in task '{task.name}' already.")
        make_private_folder(folder)
        keep_secret(folder / "inner.key", inner_key)
        write_atomically(folder / "task.json", task_to_json(task).encode())
        write_atomically(folder / "membership.json", json_bytes(asdict(membership)))
        return TaskProfile.open(folder)

    def forget_task(self, name: str) -> None:
        """Undo :meth:`add_task` when founding failed before anyone else saw the key."""
        shutil.rmtree(self._task_folder(name), ignore_errors=True)

    def _memberships(self) -> list[Path]:
        return sorted(self.folder.glob("tasks/*/membership.json"))

    def _task_folder(self, name: str) -> Path:
        if not name or Path(name).name != name or name.startswith("."):
            raise SiteError("That is not the name of a task.")
        return self.folder / "tasks" / name

    # ---- pseudonyms and cohorts

    def pseudonyms(self, task: str, cases: Iterable[str]) -> dict[str, str]:
        """A random pseudonym (32 hex digits) for each case name, the same again at every call."""
        with self._changing("pseudonyms.json") as table:
            known: dict[str, str] = table.setdefault(task, {})
            return {case: known.setdefault(case, secrets.token_hex(16)) for case in cases}

    def pseudonym_of(self, task: str, case: str) -> str | None:
        """The pseudonym that a case has had before, or None."""
        known: Mapping[str, str] = read_json(self.folder / "pseudonyms.json", None).get(task, {})
        return known.get(case)

    def uploaded_cases(self, task: str) -> frozenset[str]:
        """Names of the cases in cohorts that this site sent, also in part: a model may have been trained on them."""
        known: Mapping[str, str] = read_json(self.folder / "pseudonyms.json", None).get(task, {})
        uploaded = {
            pseudonym
            for facts in self.cohorts().values()
            if facts.get("task") == task
            for pseudonym in facts.get("pseudonyms", [])
        }
        return frozenset(name for name, pseudonym in known.items() if pseudonym in uploaded)

    def record_cohort(self, cohort_id: str, facts: Mapping[str, Any]) -> None:
        """Remember an uploaded cohort, or what changed about it."""
        with self._changing("cohorts.json") as table:
            table[cohort_id] = {**table.get(cohort_id, {}), **facts}

    def cohorts(self) -> dict[str, dict[str, Any]]:
        """What :meth:`record_cohort` remembers, by cohort id."""
        return dict(read_json(self.folder / "cohorts.json", None))

    @contextmanager
    def _changing(self, name: str) -> Iterator[dict[str, Any]]:
        """A table that is written when the context ends; another export or upload that changes one waits meanwhile.

        :raises SiteError: if that takes too long.
        """
        busy = SiteError("Another program is changing the site profile; try again when it is done.")
        with hold_lock(self.folder / "tables.lock", busy, patience_s=LONGEST_CHANGE_S):
            table = read_json(self.folder / name, None)
            yield table
            write_atomically(self.folder / name, json_bytes(table), mode=0o600)


def task_from_server(client: ServerClient, name: str) -> tuple[Task, dict[str, Any]]:
    """The task ``name`` as the server has it, and the whole answer.

    :raises SiteError: if the server has no such task.
    """
    try:
        answer = client.task(name)
    except ServerRefusedError as error:
        if error.status != NOT_FOUND:
            raise
        raise SiteError(
            "The server has no task of that name; choose one that it has.", command="ppcmi site test"
        ) from error
    return parse_task(json.dumps(answer.get("task"))), answer
