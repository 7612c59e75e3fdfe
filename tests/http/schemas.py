"""As much of JSON Schema (2020-12) as our description uses; what it does not know it refuses to judge."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import chain
from typing import Any

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "null": type(None),
}  # fmt: skip
_CHOICES: Mapping[str, Callable[[int], bool]] = {"anyOf": lambda n: n >= 1, "oneOf": lambda n: n == 1}
_ANNOTATIONS = {"title", "description", "default", "examples"}
_KNOWN = _ANNOTATIONS | {
    "$ref", "type", "properties", "required", "additionalProperties", "anyOf", "oneOf", "const", "enum", "format",
    "items", "minLength",
}  # fmt: skip


def resolve(document: Mapping[str, Any], reference: str) -> Any:
    """Follow a reference inside the document; KeyError if it leads nowhere."""
    place, _, path = reference.partition("#/")
    assert not place, f"{reference} leads out of the document"
    found: Any = document
    for step in path.split("/"):
        found = found[step.replace("~1", "/").replace("~0", "~")]
    return found


def faults(document: Mapping[str, Any], schema: Mapping[str, Any], value: Any, at: str = "$") -> list[str]:
    """Say what is wrong with a value; a property that the schema does not name is wrong too."""
    unknown = schema.keys() - _KNOWN
    assert not unknown, f"{at}: the schema uses {unknown}"
    if "$ref" in schema:
        return faults(document, resolve(document, schema["$ref"]), value, at)
    for word, is_enough in _CHOICES.items():
        if word in schema:
            each = [faults(document, option, value, at) for option in schema[word]]
            count = sum(not found for found in each)
            return [] if is_enough(count) else [f"{at}: {count} of {word} fit", *chain.from_iterable(each)]
    if "const" in schema and value != schema["const"]:
        return [f"{at} is not {schema['const']!r}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at} is none of {schema['enum']}"]
    if "type" in schema:
        is_bool = isinstance(value, bool)
        if not isinstance(value, _TYPES[schema["type"]]) or (is_bool and schema["type"] != "boolean"):
            return [f"{at} is not of type {schema['type']}"]
    found = _text_faults(schema, value, at) if isinstance(value, str) else []
    if isinstance(value, dict) and "properties" in schema:
        properties = schema["properties"]
        found += [f"{at}.{name} is missing" for name in schema.get("required", ()) if name not in value]
        for name, inner in value.items():
            found += (
                faults(document, properties[name], inner, f"{at}.{name}")
                if name in properties
                else [f"{at}.{name} is not described"]
            )
    return found


def _text_faults(schema: Mapping[str, Any], value: str, at: str) -> list[str]:
    found = []
    if len(value) < schema.get("minLength", 0):
        found.append(f"{at} is too short")
    match schema.get("format"):
        case "date-time":
            if datetime.fromisoformat(value).tzinfo is None:
                found.append(f"{at} has no time zone")
        case "uri-reference":
            if not re.fullmatch(r"[!-~]+", value):
                found.append(f"{at} is no address")
        case None:
            pass
        case other:
            raise AssertionError(f"{at}: format {other} is not known here")
    return found
