"""All rows of all tables as lines of JSON, the same from every database, and back into any.

::

    {"format": "ppcmi-database/1", "revision": "0002"}
    {"table": "sites", "columns": ["id", "name", ...], "bytes": ["public_key", ...], "json": []}
    ["0d5c...", "Hospital A", ...]                       bytes are base64
    ...
    {"rows": 1234}

Logins at the dashboard are left out: whoever was logged in logs in again.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ppcmi_server.database.schema import Base, Login
from ppcmi_server.errors import OperatorError

FORMAT = "ppcmi-database/1"
AT_ONCE = 500
LONGEST_LINE = 64 << 20
DAMAGED = "The backup's database is damaged; use another backup."


def write_dump(session: Session, revision: str, file: BinaryIO) -> int:
    """Write every row that ``session`` sees; how many."""
    rows = 0
    _write_line(file, {"format": FORMAT, "revision": revision})
    for table in Base.metadata.sorted_tables:  # what others refer to comes first
        if table.name == Login.__tablename__:
            continue
        names = [column.name for column in table.columns]
        of_bytes = [c.name for c in table.columns if isinstance(c.type, sa.LargeBinary)]
        of_json = [c.name for c in table.columns if isinstance(c.type, sa.JSON)]
        _write_line(file, {"table": table.name, "columns": names, "bytes": of_bytes, "json": of_json})
        places = [names.index(name) for name in of_bytes]
        for row in session.execute(sa.select(table).order_by(*table.primary_key)).yield_per(AT_ONCE):
            values = list(row)
            for place in places:
                values[place] = None if values[place] is None else base64.b64encode(values[place]).decode()
            _write_line(file, values)
            rows += 1
    _write_line(file, {"rows": rows})
    return rows


def revision_of(file: BinaryIO) -> str:
    """The revision of the tables that a dump's rows are for; reads its first line.

    :raises OperatorError: if it is no dump.
    """
    header = _parse(file.readline(LONGEST_LINE))
    if not isinstance(header, dict) or header.get("format") != FORMAT or not isinstance(header.get("revision"), str):
        raise OperatorError(DAMAGED)
    return str(header["revision"])


def read_dump(session: Session, file: BinaryIO) -> int:
    """Add every row of a dump, whose first line was read, to empty tables of its revision; how many.

    :raises OperatorError: if the dump is not whole.
    """
    rows, table = 0, None
    for line in _lines(file):
        if isinstance(line, dict) and "table" in line:
            if table is not None:
                table.finish()  # the next one's rows refer to these
            table = _Rows(session, line)
        elif isinstance(line, list) and table is not None:
            table.add(line)
            rows += 1
        elif isinstance(line, dict) and line.get("rows") == rows:
            if table is not None:
                table.finish()
            return rows
        else:
            break
    raise OperatorError(DAMAGED)


class _Rows:
    """Adds rows to one table."""

    def __init__(self, session: Session, header: dict[str, Any]) -> None:
        self._session, self._columns = session, header["columns"]
        self._places = [self._columns.index(name) for name in header["bytes"]]
        types: dict[str, sa.types.TypeEngine[Any]] = {
            **dict.fromkeys(header["bytes"], sa.LargeBinary()),
            **dict.fromkeys(header["json"], _JSON),
        }
        columns: list[sa.ColumnClause[Any]] = [
            sa.column(name, types[name]) if name in types else sa.column(name) for name in self._columns
        ]
        self._table = sa.table(header["table"], *columns)
        self._waiting: list[dict[str, Any]] = []

    def add(self, values: list[Any]) -> None:
        if len(values) != len(self._columns):
            raise OperatorError(DAMAGED)
        for place in self._places:
            values[place] = None if values[place] is None else base64.b64decode(values[place])
        self._waiting.append(dict(zip(self._columns, values, strict=True)))
        if len(self._waiting) == AT_ONCE:
            self._flush()

    def finish(self) -> None:
        """Add what waits, and have PostgreSQL count on from there."""
        self._flush()
        if self._session.connection().dialect.name == "postgresql" and "id" in self._columns:
            name = self._table.name
            sequence = self._session.scalar(sa.select(sa.func.pg_get_serial_sequence(name, "id")))
            if sequence is not None:
                last = self._session.scalar(sa.select(sa.func.max(self._table.c.id)))
                self._session.execute(sa.select(sa.func.setval(sequence, last or 1, last is not None)))

    def _flush(self) -> None:
        if self._waiting:
            self._session.execute(sa.insert(self._table), self._waiting)
            self._waiting = []


_JSON = sa.JSON(none_as_null=True)


def _write_line(file: BinaryIO, value: Any) -> None:
    file.write(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")


def _lines(file: BinaryIO) -> Iterator[Any]:
    lines: Iterable[bytes] = iter(lambda: file.readline(LONGEST_LINE), b"")
    for line in lines:
        yield _parse(line)


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise OperatorError(DAMAGED) from error
