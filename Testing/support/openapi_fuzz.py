"""Requests that a program makes up from the OpenAPI description, and how the server takes them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction, load_all_checks, not_a_server_error

HANG_S = 20.0
FAILURES_KEPT = 20


@dataclass
class FuzzOutcome:
    """What came of so many requests."""

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    hangs: int = 0
    slowest_s: float = 0.0

    @property
    def failed(self) -> int:
        """Answers of status 500 and above."""
        return sum(count for status, count in self.statuses.items() if status >= 500)

    def fail(self, what: str) -> None:
        """Keep the first few, each once."""
        if what not in self.failures and len(self.failures) < FAILURES_KEPT:
            self.failures.append(what)

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Count a request, and whether it hangs."""
        start = time.monotonic()
        self.requests += 1
        try:
            yield
        except (requests.Timeout, TimeoutError):
            self.hangs += 1
        finally:
            self.slowest_s = max(self.slowest_s, time.monotonic() - start)


def checks() -> list[CheckFunction]:
    """Everything that the server's answers are held against.

    Not among them: that valid data are accepted (a cohort that is none is valid by the description), and what is about
    tokens, which a table of every route and caller holds (test_server_access).
    """
    load_all_checks()
    wanted = (
        "status_code_conformance", "content_type_conformance", "response_headers_conformance",
        "response_schema_conformance", "negative_data_rejection",
    )  # fmt: skip
    return [not_a_server_error, *schemathesis.checks.CHECKS.get_by_names(list(wanted))]


def fuzz_description(
    url: str, token_for: Callable[[str], str], examples: int, seed: int = 0, only: Sequence[str] | None = None
) -> FuzzOutcome:
    """So many valid and as many invalid requests for every operation, one after the other.

    :param token_for: the token to ask with, by the form of the route.
    """
    outcome, session, wanted = FuzzOutcome(), requests.Session(), checks()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    for found in schema.get_all_operations():
        operation = found.ok()
        if only is not None and operation.path not in only:
            continue
        headers = {"Authorization": f"Bearer {token_for(operation.path)}"}
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @hypothesis.seed(seed)
            @hypothesis.settings(
                max_examples=examples, database=None, deadline=None, phases=[Phase.generate],
                report_multiple_bugs=False, suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @hypothesis.given(case=operation.as_strategy(mode))
            def ask(case: schemathesis.Case) -> None:
                with outcome.timing():
                    answer = case.call(base_url=url, session=session, headers=headers, timeout=HANG_S)  # noqa: B023
                    outcome.statuses[answer.status_code] += 1
                    try:
                        case.validate_response(answer, checks=wanted)
                    except schemathesis.core.failures.FailureGroup as group:
                        for failure in group.exceptions:
                            where = f"{case.method} {case.operation.path} {answer.status_code}"
                            outcome.fail(f"{where}: {failure.title}: {failure.message[:300]}")

            try:
                ask()
            except hypothesis.errors.Unsatisfiable:  # nothing about this operation can be invalid
                continue
    return outcome
