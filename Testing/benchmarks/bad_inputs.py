"""Bad and odd inputs, tried one by one: how many are refused in a sentence or read exactly right, and how many are not.

The counts go to docs/results/imaging.json, and each kind with what came of it to the table beside it.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import SEPARATOR, Measurement, add_text, here_and_now, measurement
from support.bad_inputs import ALL, Outcome, outcome_of

COMMAND = "make bench-imaging"
FEWEST_KINDS = 60
TITLE = "bad inputs"


def outcomes() -> list[Outcome]:
    """What comes of each kind."""
    found = []
    for bad in ALL:
        with tempfile.TemporaryDirectory() as folder:
            found.append(outcome_of(bad, Path(folder)))
    return found


def bad_inputs() -> list[Measurement]:
    """Kinds that were tried, and what came of them; writes the table as well."""
    found = outcomes()
    add_text("imaging", f"### Each bad or odd input, and what comes of it\n\n{_table(found)}")
    counts = Counter(outcome.result if outcome.fine else "wrong" for outcome in found)
    crashed = sum(outcome.result.startswith("crashed") for outcome in found)
    origin = here_and_now()

    def count(name: str, value: int, **bound: float) -> Measurement:
        return measurement(SEPARATOR.join((TITLE, name)), value, "kinds", command=COMMAND, origin=origin, **bound)

    return [
        count("tried", len(found), at_least=FEWEST_KINDS),
        count("crashes", crashed, at_most=0),
        count("wrong results or refusals", counts["wrong"] - crashed, at_most=0),
        count("refused in one sentence", counts["refused"]),
        count("odd, and read exactly right", counts["read right"]),
    ]


def _table(found: Sequence[Outcome]) -> str:
    """Every kind with what came of it, in Markdown."""
    lines = ["| input | outcome |", "| --- | --- |"]
    lines += [f"| {outcome.kind} | {outcome.sentence or outcome.result} |".replace("\n", " ") for outcome in found]
    return "\n".join(lines) + "\n"
