"""index.html: everything that the demo wrote, for a reader who was not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from demo.scores import ScoredCase
from ppcmi.task import Task


@dataclass(frozen=True)
class Shown:
    """A held-out case on the page; paths are relative to it."""

    case: ScoredCase
    picture: str
    files: tuple[str, ...]


def write_page(out: Path, task: Task, results: Mapping[str, Any], cases: Sequence[Shown], left: str) -> None:
    """Write ``out/index.html``.

    :param left: path of the picture of what left the site.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    html = environment.get_template("page.html").render(task=task, results=results, cases=cases, left=left)
    (out / "index.html").write_text(html, encoding="utf-8")
