"""The named queries: their form, that each is used, and that PostgreSQL accepts each against the migrated schema."""

import ast
from pathlib import Path

import asyncpg
import pytest

from otpsvc import postgres
from otpsvc.postgres.queries import QueryFileError, load, parse, sql_root

NOUNS = sorted(path.stem for path in (sql_root() / "queries").glob("*.sql"))


def test_there_are_queries() -> None:
    assert {"clients", "installation"} <= set(NOUNS)


@pytest.mark.parametrize("noun", NOUNS)
async def test_every_query_prepares_and_answers_what_it_promises(database_url: str, noun: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        for query in load(noun).statements.values():
            statement = await connection.prepare(query.sql)
            columns = statement.get_attributes()
            assert len(statement.get_parameters()) == len(query.parameters), query.name
            match query.cardinality:
                case "exec":
                    assert columns == (), query.name
                case "value":
                    assert len(columns) == 1, query.name
                case _:
                    assert columns, query.name
    finally:
        await connection.close()


@pytest.mark.parametrize("noun", NOUNS)
def test_every_query_is_used_by_its_adapter(noun: str) -> None:
    source = (Path(postgres.__path__[0]) / f"{noun}.py").read_text("utf-8")
    used = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    assert load(noun).statements.keys() <= used


def test_a_statement_is_read_with_its_contract() -> None:
    text = "-- About.\n\n-- name: find_it one (id, name)\n-- why\nselect $1::int, $2::text, $1;\n"
    query = parse(text)["find_it"]
    assert (query.name, query.cardinality, query.parameters) == ("find_it", "one", ("id", "name"))
    assert query.sql == "-- why\nselect $1::int, $2::text, $1"
    assert query.arguments({"name": "x", "id": 1}) == [1, "x"]


@pytest.mark.parametrize("given", [{"id": 1}, {"id": 1, "name": "x", "more": 2}])
def test_arguments_are_checked(given: dict[str, object]) -> None:
    query = parse("-- name: find_it one (id, name)\nselect $1, $2\n")["find_it"]
    with pytest.raises(TypeError, match="find_it"):
        query.arguments(given)


@pytest.mark.parametrize(
    "text",
    [
        "select 1;\n-- name: a one ()\nselect 1",
        "-- name: a one ()\nselect 1;\n-- name: a one ()\nselect 1;",
        "-- name: a some ()\nselect 1",
        "-- name: a one\nselect 1",
        "-- name: a one ()\n",
        "-- name: a one (id)\nselect 1",
        "-- name: a one (id)\nselect $2",
        "-- name: a one ()\nselect $1",
        "-- name: a exec ()\ndelete from x; delete from y;",
    ],
)
def test_a_malformed_file_is_refused(text: str) -> None:
    with pytest.raises(QueryFileError):
        parse(text)


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no_such_query"):
        _ = load("clients").no_such_query
