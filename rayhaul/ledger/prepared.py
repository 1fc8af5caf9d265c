"""Statements that are made once and run again and again, past SQLAlchemy's own running of them.

The texts and types are SQLAlchemy's, but rows go to and from the driver as tuples. For one row SQLAlchemy's execution
costs several times what the database does (measured with SQLite: 0.26 ms of CPU, this way 0.05), and for a thousand its
handling of dicts of parameters is most of it.

What goes wrong comes as the driver's own error (failures.py).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from types import SimpleNamespace
from typing import Any, Protocol

import sqlalchemy as sa

Row = Mapping[str, Any]
_Parameters = Sequence[tuple[str, Callable[[Any], Any] | None]]


class _HasCursor(Protocol):
    """A driver's connection, or what a pool puts around one."""

    def cursor(self) -> Any: ...


class Statement:
    """One SQL text for many rows, and how each of its parameters is put into the driver's form."""

    def __init__(self, statement: sa.Insert | sa.Update | sa.Delete, dialect: sa.Dialect) -> None:
        self._sql, self._parameters = _compiled(statement, dialect)

    def run(self, connection: sa.Connection, values: Sequence[Row]) -> int:
        """Return how many rows were written, all together."""
        if not values:
            return 0
        columns: list[Iterable[Any]] = []
        for name, encode in self._parameters:
            column = [row[name] for row in values]
            columns.append(column if encode is None else map(encode, column))
        with closing(connection.connection.cursor()) as cursor:
            cursor.executemany(self._sql, list(zip(*columns, strict=True)))
            return int(cursor.rowcount)


class Query:
    """A query whose first row is asked for, and how its columns are read."""

    def __init__(self, query: sa.Select[Any], dialect: sa.Dialect) -> None:
        self._sql, self._parameters = _compiled(query, dialect)
        self._columns = [
            (column.key or "", column.type.dialect_impl(dialect).result_processor(dialect, None))
            for column in query.selected_columns
        ]

    def first(self, connection: "_HasCursor", **values: Any) -> SimpleNamespace | None:
        """Return the first row, its columns as attributes; None where there is none."""
        parameters = [values[name] if encode is None else encode(values[name]) for name, encode in self._parameters]
        with closing(connection.cursor()) as cursor:
            cursor.execute(self._sql, parameters)
            found = cursor.fetchone()
        if found is None:
            return None
        row = zip(self._columns, found, strict=True)
        return SimpleNamespace(**{name: value if decode is None else decode(value) for (name, decode), value in row})


def _compiled(statement: sa.ClauseElement, dialect: sa.Dialect) -> tuple[str, _Parameters]:
    compiled = statement.compile(dialect=dialect)
    assert isinstance(compiled, sa.sql.compiler.SQLCompiler)
    parameters = [
        (name, compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect))
        for name in compiled.positiontup or ()
    ]
    return str(compiled), parameters
