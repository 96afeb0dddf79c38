"""JSON documents of the protocol. Unknown fields are refused, types are not converted; binary fields are base64."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints, WithJsonSchema

from ppcmi.modes import Mode


def _decode(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else _refuse()
    except (binascii.Error, ValueError):
        return _refuse()


def _refuse() -> bytes:
    raise ValueError("is base64 text")


Base64 = Annotated[
    bytes,
    BeforeValidator(_decode),
    PlainSerializer(lambda value: base64.b64encode(value).decode(), return_type=str),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "examples": ["AAECAw=="]}),
]
Storable = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
"""Text that may be looked for in the database: PostgreSQL's has no NUL, and fails where it gets one."""
SiteId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$", examples=["0f1e2d3c4b5a6978"])]
SiteName = Annotated[str, Field(min_length=1, max_length=100, examples=["Hospital A"])]
Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$", examples=["0123456789abcdef"])]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", examples=["00112233445566778899aabbccddeeff"])]
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", examples=["00" * 32])]
Count = Annotated[int, Field(ge=0, examples=[12])]
Scope = Literal["consortium", "site"]
SiteScope = Literal["segment", "contribute", "validate"]
Finite = Annotated[float, Field(allow_inf_nan=False, examples=[0.87])]
Moment = Annotated[str, Field(examples=["2026-11-21T02:38:01Z"])]


class Document(BaseModel):
    """Base of all documents."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Health(Document):
    """The service runs."""

    status: Literal["ok"] = "ok"


class Readiness(Document):
    """The service can work; ``uploads`` are closed while there is less free space than is kept in reserve."""

    status: Literal["ok"] = "ok"
    uploads: Literal["open", "closed"]


class Info(Document):
    """What kind of server this is; ``public_key`` is its X25519 key."""

    service: Literal["ppcmi-server"] = "ppcmi-server"
    version: Annotated[str, Field(examples=["0.1.0"])]
    protocol: Literal[1] = 1
    public_key: Base64


class EnrolRequest(Document):
    """A one-time code, and the site's X25519 key."""

    code: Annotated[str, Field(min_length=1, max_length=100, examples=["abcd-efgh-jkmn-pqrs-tuvw"])]
    public_key: Base64


class EnrolAnswer(Document):
    """The site's identity; the token is shown once."""

    site_id: SiteId
    site_name: SiteName
    token: Annotated[str, Field(examples=["(secret)"])]
    server_public_key: Base64
    link_salt: Base64


class Me(Document):
    """The caller, and how much its cohorts and shared networks take of what it may store."""

    site_id: SiteId
    site_name: SiteName
    scopes: Annotated[list[str], Field(examples=[["segment", "validate"]])]
    audit_head: Hex64 | None
    stored_bytes: Count
    quota_bytes: Count


class TokenText(Document):
    """A new token; it is shown once."""

    token: Annotated[str, Field(examples=["(secret)"])]


class NewToken(TokenText):
    """A new token with what the server calls it."""

    id: Hex16


class TokenRequest(Document):
    """What a workstation's token may be used for, and for how many days; null for until it is revoked."""

    label: Annotated[str, Field(min_length=1, max_length=60, examples=["reading room 2"])]
    scopes: Annotated[list[SiteScope], Field(min_length=1, max_length=3, examples=[["segment"]])]
    days: Annotated[float, Field(gt=0, le=3650, allow_inf_nan=False, examples=[90.0])] | None = None


class TokenAnswer(Document):
    """A token, without the token itself; ``current`` is the one that the caller used."""

    id: Hex16
    label: Annotated[str, Field(examples=["reading room 2"])]
    scopes: Annotated[list[str], Field(examples=[["segment"]])]
    created: Moment
    expires: Moment | None
    last_used: Moment | None
    current: Annotated[bool, Field(examples=[False])]


class AuditReceipt(Document):
    """An event of the audit log."""

    event: Annotated[int, Field(examples=[12])]


class SiteAnswer(Document):
    """A site that can be invited."""

    site_id: SiteId
    site_name: SiteName
    public_key: Base64


class ActiveModel(Document):
    """The model that maps; ``codec`` is null where every site has its own."""

    number: Annotated[int, Field(examples=[3])]
    profile: Annotated[str, Field(examples=["coarse"])]
    scope: Scope
    mode: Mode
    codec: Hex32 | None


class ConsortiumState(Document):
    """Who shares what, and how many sites; ``member`` tells whether the caller is one of them."""

    codec: Hex32 | None
    scope: Scope
    mode: Mode
    founder: SiteName
    members: Annotated[int, Field(ge=0, examples=[3])]
    member: Annotated[bool, Field(examples=[True])]


class TaskAnswer(Document):
    """A task with its model and consortium."""

    task: Annotated[dict[str, Any], Field(examples=[{"format": "ppcmi-task/1", "name": "phantom", "version": "1"}])]
    active_model: ActiveModel | None
    consortium: ConsortiumState | None


class ConsortiumRequest(Document):
    """How the consortium works; ``inner_check`` names its inner key, null in modes that have none."""

    scope: Scope
    mode: Mode
    inner_check: Hex16 | None


class InvitationRequest(Document):
    """A message sealed to the invited site."""

    to: SiteId
    sealed: Base64


class InvitationAnswer(Document):
    """The newest invitation for the caller."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, populate_by_name=True)
    sealed: Base64
    sender: Annotated[SiteName, Field(alias="from")]


class SharedNetworkAnswer(Document):
    """A network that a member shares; ``version`` is another one whenever it shares again."""

    site_id: SiteId
    site_name: SiteName
    shared: Moment
    version: Hex32
    bytes: Annotated[int, Field(ge=0, examples=[5242880])]


class Nothing(Document):
    """An empty object."""


class CohortRequest(Document):
    """A cohort file's header."""

    header: Base64


class CohortCreated(Document):
    """Where to send the frames."""

    cohort_id: Hex32


class CohortAnswer(Document):
    """How far a cohort is; ``frames`` are the indices that the server has.

    ``partial`` has offset and size of every chunk, by index of its frame; ``chunk_bytes`` is the largest that is taken.
    """

    cohort_id: Hex32
    state: Literal["open", "whole", "withdrawn"]
    frames: Annotated[list[int], Field(examples=[[0, 1, 2]])]
    partial: Annotated[dict[str, list[list[int]]], Field(examples=[{"3": [[0, 8388608], [8388608, 8388608]]}])]
    cases: Count
    chunk_bytes: Annotated[int, Field(ge=1, examples=[8388608])]


class CommitRequest(Document):
    """What the cohort file's end says."""

    frames: Annotated[int, Field(ge=1, le=1 << 20, examples=[24])]
    digest: Hex64


class CommitAnswer(Document):
    """What the server counted."""

    cases: Count
    slices: Count


class Scores(Document):
    """Means over cases of one label; undefined ones are left out."""

    dice: Finite | None = None
    iou: Finite | None = None
    sensitivity: Finite | None = None
    specificity: Finite | None = None
    hd95_mm: Finite | None = None
    asd_mm: Finite | None = None


LabelScores = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=100)], Scores],
    Field(max_length=63, examples=[{"Organ": {"dice": 0.91, "hd95_mm": 2.3}}]),
]


class ValidationRequest(Document):
    """A site's scores of a model, and of itself alone."""

    cases: Annotated[int, Field(ge=1, le=1_000_000, examples=[8])]
    labels: LabelScores
    alone: LabelScores = Field(default_factory=dict)


class ValidationAnswer(Document):
    """A site's newest scores of a model."""

    site: SiteName
    created: Moment
    cases: Count
    labels: LabelScores
    alone: LabelScores


class CurvePoint(Document):
    """Losses after an epoch."""

    epoch: Count
    train_loss: Finite
    validation_loss: Finite | None
    seconds: Finite


class ModelAnswer(Document):
    """A model; ``withdrawn_data`` if a site took back something that it was trained on."""

    number: Annotated[int, Field(examples=[3])]
    profile: Annotated[str, Field(examples=["coarse"])]
    preset: Annotated[str, Field(examples=["default"])]
    state: Literal["ready", "active", "retired"]
    created: Moment
    codec: Hex32 | None
    cases: Count
    slices: Count
    withdrawn_data: Annotated[bool, Field(examples=[False])]
    curve: list[CurvePoint]
    validations: list[ValidationAnswer]
