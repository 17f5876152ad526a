"""JSON schemas whose objects have no properties but those named, which is what `strict: true` asks
for.

`additionalProperties: false` is put where an object says nothing of the kind; an object that does
keeps what it says. Where several parts of a schema together make one object (`allOf`, properties
beside a `$ref`), closing each would leave none of the properties of the others, so such schemas are
rejected. Not here: which schemas are closed (response_format.py), and their meaning
(puna.inference.json_schema).
"""

from typing import Any

from puna.errors import RequestError

_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")
_CHOICES = ("anyOf", "oneOf")


def closed(schema: Any, path: str = "#") -> Any:
    """The schema with its objects closed. Raises RequestError where several parts make one."""
    return _closed(schema, path, True)


def _closed(schema: Any, path: str, closes: bool) -> Any:
    """closes: all properties of this object are named here or below."""
    if not isinstance(schema, dict):
        return schema
    naming = _parts_that_name(schema)
    says = "additionalProperties" in schema
    if len(naming) > 1 and not says:
        raise RequestError(
            f"the schema at {path[:200]}: strict is true, but {' and '.join(naming)} together make"
            " one object, which cannot be closed part by part; write its properties in one place"
        )
    inner = dict(schema)
    for key, value in schema.items():
        if key in _OF_SCHEMAS and isinstance(value, dict):
            inner[key] = {
                name: _closed(each, f"{path}/{key}/{name}", True) for name, each in value.items()
            }
        elif key in ("items", "additionalProperties"):
            inner[key] = _closed(value, f"{path}/{key}", True)
        elif key in ("prefixItems", "allOf", *_CHOICES) and isinstance(value, list):
            inner[key] = [
                _closed(
                    each,
                    f"{path}/{key}/{number}",
                    key == "prefixItems" or naming in ([], [key], [f"{key}/{number}"]),
                )
                for number, each in enumerate(value)
            ]
    kinds = schema.get("type", "object" if "properties" in schema else None)
    is_object = "object" in (kinds if isinstance(kinds, list) else [kinds])
    if closes and is_object and naming in ([], ["properties"]) and not says:
        inner["additionalProperties"] = False
    return inner


def _parts_that_name(schema: dict[str, Any]) -> list[str]:
    """The parts of a schema that hold together and name properties, or may; a choice is one."""
    found: list[str] = [key for key in ("properties", "$ref") if key in schema]
    found += [
        f"allOf/{number}" for number, each in enumerate(_listed(schema, "allOf")) if _names(each)
    ]
    return found + [key for key in _CHOICES if any(map(_names, _listed(schema, key)))]


def _names(schema: Any) -> bool:
    return isinstance(schema, dict) and bool(_parts_that_name(schema))


def _listed(schema: dict[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []
