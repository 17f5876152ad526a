"""The JSON schema keywords, types and formats that are enforced, passed over or rejected, as
tables: no logic. json_schema.py reads schemas by them.

Passed over are annotations: those of draft 2020-12 (Validation, sections 7 to 9), where a `format`
is one too, and those of OpenAPI 3, which schemas made for it bring along.
"""

DESCRIPTIVE = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$comment",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "discriminator",
        "example",
        "externalDocs",
        "xml",
    }
)
EXTENSION = "x-"
"""Beginning of keywords that OpenAPI leaves to everybody; they are annotations too."""
IDENTIFYING = frozenset({"$schema", "$id", "$defs", "definitions"})
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
FORMATS = (
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
)
LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
DAY = f"^(?:[0-9]{{4}}-(?:0[13-9]|1[0-2]|02-[01]|02-2[0-8])|{LEAP_YEAR}-02-29)"
SECONDS = "[0-9]{2}:[0-9]{2}:[0-5]"
# the library gives every year a 29 February and every minute a second 60, which few readers take
NARROWER = {
    "date": DAY,
    "time": f"^{SECONDS}",
    "date-time": f"{DAY}[-0-9]*[tT]{SECONDS}",
}
REMEDIES = {
    "uniqueItems": "leave it out, or list what may come with `prefixItems`",
    "contains": "leave it out, or say what every item is with `items`",
    "not": "say what is allowed instead, with `enum`, `anyOf` or `pattern`",
    "if": "write the cases as branches of `anyOf`",
    "then": "write the cases as branches of `anyOf`",
    "else": "write the cases as branches of `anyOf`",
    "propertyNames": "use `patternProperties` with `additionalProperties: false`",
    "dependentRequired": "write the cases as branches of `anyOf`",
    "dependentSchemas": "write the cases as branches of `anyOf`",
    "unevaluatedProperties": "use `additionalProperties`",
    "unevaluatedItems": "use `items`",
    "additionalItems": "use `prefixItems`, and `items` for the rest",
    "nullable": 'add "null" to `type`',
    "$anchor": "use a reference of the form #/$defs/name",
    "$dynamicRef": "use `$ref` of the form #/$defs/name",
}
SPELLING = {
    "item_separator": ", ?",
    "key_separator": ": ?",
    "whitespace_flexible": False,
    # not u: a name must have one spelling, or an escaped one would pass for another
    "json_allowed_escapes": 'nrbtf\\"',
    "lenient": False,
    "coerce_one_of": False,
}
EXACT = 2**53  # up to here a double counts in ones
CONTROLS = frozenset(map(chr, (*range(0x20), 0x7F))) - frozenset("\b\t\n\f\r")
