"""Whether a statement stays on the shards of the mandates that it names.

A row of a distributed table lies on the shard of its mandate_id. A statement names the mandate of each
such table that it reads or writes, in every part of it: by a value, by a list of values, or by
equality with a column of the same part that has such a value. Else the database must ask every shard;
a column of the query around a part does not count, as Citus asks every shard for a value that is
looked up so. Rows that are inserted are given as values, or are read from a distributed table: else
they are made on the coordinator.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from pglast import ast, parse_sql
from pglast.enums import A_Expr_Kind, BoolExprType, JoinType, SetOperation, SubLinkType
from pglast.parser import ParseError

from app.distribution import distributed_tables

KEY = "mandate_id"
DISTRIBUTED = {table.name for table in distributed_tables()}

_LIST = re.compile(r" IN \((\$\d+[\w:]*(?:\(\d+\))?)(?:, \$\d+[\w:]*(?:\(\d+\))?)+\)")
_TEXT = re.compile(r"'(?:[^']|'')*'")

Outputs = list[tuple[str | None, bool]]
"""The columns of a query, and whether what they hold is among the values that it names."""
Place = tuple[str, str]
"""A relation of a query, and a column of it."""


def unnamed(statement: str) -> list[str]:
    """What of a statement in PostgreSQL's words names no mandate; nothing where all is well."""
    # Neither a text nor the length of a list makes it another statement.
    return list(_unnamed(_LIST.sub(r" IN (\1)", _TEXT.sub("''", statement))))


@cache
def _unnamed(statement: str) -> tuple[str, ...]:
    problems: list[str] = []
    try:
        parsed = parse_sql(statement)
    except ParseError as error:
        return (f"it cannot be read: {error.args[0]}",)
    for each in parsed:
        _Query(problems).read(each.stmt)
    return tuple(problems)


class _Query:
    """One query or change, with the relations that it names and what is known of their columns."""

    def __init__(self, problems: list[str], outer: "_Query | None" = None) -> None:
        self.problems = problems
        self.outer = outer
        self.common: dict[str, Outputs] = {}
        """Its WITH queries."""
        self.tables: dict[str, str] = {}
        """By their names in this query: those whose rows are distributed."""
        self.names: list[str] = []
        """All its relations."""
        self.lists: set[str] = set()
        """Relations whose every value is given."""
        self.given: set[Place] = set()
        """Columns that hold given values alone."""
        self.equal: list[tuple[Place, Place]] = []
        """What holds of the first holds of the second."""

    def read(self, node: Any) -> Outputs:
        """Judges it, and says what its columns hold."""
        match node:
            case ast.SelectStmt():
                return self._select(node)
            case ast.InsertStmt():
                return self._insert(node)
            case ast.UpdateStmt():
                return self._change(node, node.fromClause)
            case ast.DeleteStmt():
                return self._change(node, node.usingClause)
            case ast.CopyStmt() if node.query is None:
                self._copy(node)
            case ast.MergeStmt() | ast.TruncateStmt() | ast.LockStmt() | ast.DoStmt():
                self.problems.append(f"{type(node).__name__} is of no mandate")
            case _:  # of the schema or the session, or with a query in it
                self._read_within(node)
        return []

    def _select(self, node: ast.SelectStmt) -> Outputs:
        self._read_common(node.withClause)
        if node.op != SetOperation.SETOP_NONE:
            left, right = (_Query(self.problems, self).read(arm) for arm in (node.larg, node.rarg))
            return [
                (name, is_left and is_right)
                for (name, is_left), (_, is_right) in zip(left, right, strict=True)
            ]
        if node.valuesLists:
            rows = zip(*node.valuesLists, strict=True)
            return [
                (f"column{place}", all(map(self._is_given, values)))
                for place, values in enumerate(rows, start=1)
            ]
        self._judge(node, node.fromClause or ())
        return self._outputs(node.targetList or ())

    def _insert(self, node: ast.InsertStmt) -> Outputs:
        self._read_common(node.withClause)
        names = [column.name for column in node.cols or ()]
        source = _Query(self.problems, self)
        values: Outputs = []
        if node.selectStmt is not None:
            values = source.read(node.selectStmt)
        table = node.relation.relname
        if table in DISTRIBUTED and not (
            KEY in names and len(values) > names.index(KEY) and values[names.index(KEY)][1]
        ):
            self.problems.append(f"a row of {table} is given no {KEY}")
        elif table in DISTRIBUTED and not (source.tables or node.selectStmt.valuesLists):
            self.problems.append(f"a row of {table} is made on no shard")
        self._name(node.relation)
        self.tables.clear()  # its rows are where they were put
        self.lists.add(self.names[-1])
        self.lists.add("excluded")
        self.names.append("excluded")
        self._read_within(node.onConflictClause)
        self._read_within(node.returningClause)
        return self._returned(node)

    def _change(self, node: Any, others: Any) -> Outputs:
        self._read_common(node.withClause)
        self._judge(node, (node.relation, *(others or ())))
        return self._returned(node)

    def _returned(self, node: Any) -> Outputs:
        return self._outputs(node.returningClause.exprs if node.returningClause else ())

    def _copy(self, node: ast.CopyStmt) -> None:
        table = node.relation.relname
        names = [column.sval for column in node.attlist or ()]
        if table in DISTRIBUTED and not (node.is_from and KEY in names):
            self.problems.append(f"{table} is copied without {KEY}")

    def _read_common(self, clause: Any) -> None:
        for each in clause.ctes if clause else ():
            query = each.ctequery
            if clause.recursive and getattr(query, "larg", None):
                # What it begins with says what it goes on with.
                self.common[each.ctename] = self._renamed(
                    _Query([], self).read(query.larg), each.aliascolnames
                )
            outputs = _Query(self.problems, self).read(query)
            self.common[each.ctename] = self._renamed(outputs, each.aliascolnames)

    def _judge(self, node: Any, relations: Iterable[Any]) -> None:
        parts: list[ast.RangeSubselect] = []
        for relation in relations:
            self._relate(relation, parts)
        self._suppose(node.whereClause)
        self._conclude()
        for part in parts:
            outputs = _Query(self.problems, self).read(part.subquery)
            self._hold(part.alias.aliasname, self._renamed(outputs, part.alias.colnames))
            self._conclude()
        self.problems += [
            f"{table} names no {KEY}" if table == name else f"{table} as {name} names no {KEY}"
            for name, table in self.tables.items()
            if not self.holds((name, KEY))
        ]
        for field in node:
            if field not in {"withClause", "selectStmt"}:
                self._read_within(getattr(node, field))

    def _read_within(self, node: Any) -> None:
        """The queries in its expressions."""
        for query in _queries(node):
            _Query(self.problems, self).read(query)

    def _relate(self, node: Any, parts: list[ast.RangeSubselect]) -> list[str]:
        """Takes note of what is read, and of what joins demand; returns the names."""
        match node:
            case ast.JoinExpr():
                left, right = self._relate(node.larg, parts), self._relate(node.rarg, parts)
                # An outer join drops no row of the side that it keeps.
                only = {
                    JoinType.JOIN_INNER: left + right,
                    JoinType.JOIN_LEFT: right,
                    JoinType.JOIN_RIGHT: left,
                }.get(node.jointype, [])
                self._suppose(node.quals, only)
                for column in node.usingClause or ():
                    for one in left:
                        for other in right:
                            self._equate((one, column.sval), (other, column.sval), only)
                return left + right
            case ast.RangeVar():
                self._name(node)
            case ast.RangeSubselect():
                self.names.append(node.alias.aliasname)
                parts.append(node)
            case ast.RangeFunction():
                self.names.append(node.alias.aliasname if node.alias else "")
                if self._is_given(node.functions):
                    self.lists.add(self.names[-1])
        return self.names[-1:]

    def _name(self, node: ast.RangeVar) -> None:
        name = node.alias.aliasname if node.alias else node.relname
        self.names.append(name)
        common = self._find_common(node.relname)
        if common is not None:
            self._hold(name, common)
        elif node.relname in DISTRIBUTED:
            self.tables[name] = node.relname

    def _find_common(self, name: str) -> Outputs | None:
        query: _Query | None = self
        while query is not None:
            if name in query.common:
                return query.common[name]
            query = query.outer
        return None

    def _hold(self, name: str, outputs: Outputs) -> None:
        self.given |= {(name, column) for column, is_given in outputs if column and is_given}

    def _renamed(self, outputs: Outputs, names: Any) -> Outputs:
        new = [name.sval for name in names or ()]
        old = [name for name, _ in outputs[len(new) :]]
        return list(zip([*new, *old], (is_given for _, is_given in outputs), strict=True))

    def _suppose(self, condition: Any, only: list[str] | None = None) -> None:
        """Takes note of what a condition says, of these relations alone."""
        only = self.names if only is None else only
        match condition:
            case ast.BoolExpr() if condition.boolop == BoolExprType.AND_EXPR:
                for part in condition.args:
                    self._suppose(part, only)
            case ast.BoolExpr() if condition.boolop == BoolExprType.OR_EXPR:
                self.given |= set.intersection(*(self._apart(arm, only) for arm in condition.args))
            case ast.A_Expr() if condition.name[-1].sval == "=":
                for one, other in _pairs(condition):
                    self._compare(one, other, only)
            case ast.SubLink() if condition.subLinkType == SubLinkType.ANY_SUBLINK:
                if condition.operName and condition.operName[-1].sval != "=":
                    return
                found = _Query([], self).read(condition.subselect)
                for column, (_, is_given) in zip(_row(condition.testexpr), found, strict=True):
                    place = self._place(column)
                    if is_given and place and place[0] in only:
                        self.given.add(place)

    def _apart(self, condition: Any, only: list[str]) -> set[Place]:
        """What one of several conditions would say if it held."""
        before, equal = self.given, list(self.equal)
        self.given = set()
        self._suppose(condition, only)
        found, self.given, self.equal = self.given, before, equal
        return found

    def _compare(self, one: Any, other: Any, only: list[str]) -> None:
        left, right = self._place(one), self._place(other)
        if left and right:
            self._equate(left, right, only)
        for place, value in ((left, other), (right, one)):
            if place and place[0] in only and self._is_given(value):
                self.given.add(place)

    def _equate(self, one: Place, other: Place, only: list[str]) -> None:
        self.equal += [
            (left, right) for left, right in ((one, other), (other, one)) if right[0] in only
        ]

    def _conclude(self) -> None:
        """Follows equality from column to column."""
        found = True
        while found:
            new = {right for left, right in self.equal if self.holds(left)} - self.given
            found = bool(new)
            self.given |= new

    def holds(self, place: Place) -> bool:
        """Whether a column holds given values alone."""
        return place[0] in self.lists or place in self.given

    def _place(self, node: Any) -> Place | None:
        """The column of a relation of this very query that an expression is."""
        if not isinstance(node, ast.ColumnRef) or isinstance(node.fields[-1], ast.A_Star):
            return None
        *relation, column = (field.sval for field in node.fields)
        if relation:
            return (relation[-1], column) if relation[-1] in self.names else None
        return (self.names[0], column) if len(self.names) == 1 else None

    def _is_given(self, node: Any) -> bool:
        """Whether it can be computed from what the statement names in this very query."""
        if isinstance(node, ast.ColumnRef):
            place = self._place(node)
            return place is not None and self.holds(place)
        if isinstance(node, ast.SubLink | ast.SetToDefault):
            return False
        return all(map(self._is_given, _parts(node)))

    def _outputs(self, targets: Iterable[ast.ResTarget]) -> Outputs:
        outputs: Outputs = []
        for target in targets:
            name = target.name
            if name is None and isinstance(target.val, ast.ColumnRef):
                name = getattr(target.val.fields[-1], "sval", None)
            outputs.append((name, self._is_given(target.val)))
        return outputs


def _pairs(comparison: ast.A_Expr) -> Iterator[tuple[Any, Any]]:
    """The sides of a comparison, column by column; a list is one value."""
    if comparison.kind == A_Expr_Kind.AEXPR_IN:
        rows = [_row(value) for value in comparison.rexpr]
        yield from zip(_row(comparison.lexpr), zip(*rows, strict=True), strict=True)
    elif comparison.kind == A_Expr_Kind.AEXPR_OP:
        yield from zip(_row(comparison.lexpr), _row(comparison.rexpr), strict=True)
    elif comparison.kind == A_Expr_Kind.AEXPR_OP_ANY:
        yield comparison.lexpr, comparison.rexpr


def _row(node: Any) -> tuple[Any, ...]:
    return tuple(node.args) if isinstance(node, ast.RowExpr) else (node,)


def _parts(node: Any) -> Iterator[Any]:
    if isinstance(node, tuple):
        yield from node
    elif isinstance(node, ast.Node):
        yield from (getattr(node, field) for field in node)


def _queries(node: Any) -> Iterator[Any]:
    """The outermost queries in an expression; those that are relations are read as such."""
    if isinstance(node, ast.SelectStmt | ast.InsertStmt | ast.UpdateStmt | ast.DeleteStmt):
        yield node
    elif not isinstance(node, ast.RangeSubselect):
        for part in _parts(node):
            yield from _queries(part)
