"""The part of JSON Schema that spec/schemas uses, so that a run needs no more packages.

A keyword that this file does not know is an error, so a schema cannot promise what nobody checks.
"""
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
         "null": type(None)}
SAID_NOTHING = {"$schema", "$id", "title", "description", "$defs"}


class SchemaError(ValueError):
    """Says where a value differs from its schema."""


def check(value, schema, root=None, at="$"):
    """Raises SchemaError unless the value is what the schema says."""
    root = schema if root is None else root
    if "$ref" in schema:
        return check(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
    if "anyOf" in schema:
        return _any_of(value, schema["anyOf"], root, at)
    for keyword, wanted in schema.items():
        if keyword in RULES:
            RULES[keyword](value, wanted, schema, root, at)
        elif keyword not in SAID_NOTHING:
            raise SchemaError(f"schema keyword '{keyword}' is not known here")
    return None


def _any_of(value, choices, root, at):
    reasons = []
    for choice in choices:
        try:
            return check(value, choice, root, at)
        except SchemaError as error:
            reasons.append(str(error))
    raise SchemaError(" and ".join(reasons))


def _type(value, wanted, _schema, _root, at):
    right = isinstance(value, TYPES[wanted]) and not (wanted in ("integer", "number") and isinstance(value, bool))
    if not right or value != value:
        raise SchemaError(f"{at} is {value!r}, not of type {wanted}")


def _required(value, names, _schema, _root, at):
    for name in names:
        if name not in value:
            raise SchemaError(f"{at} has no '{name}'")


def _properties(value, properties, schema, root, at):
    for name, item in value.items():
        if name in properties:
            check(item, properties[name], root, f"{at}.{name}")
        elif schema.get("additionalProperties", True) is False:
            raise SchemaError(f"{at} has '{name}', which the schema does not")


def _items(value, item_schema, _schema, root, at):
    for index, item in enumerate(value):
        check(item, item_schema, root, f"{at}[{index}]")


def _minimum(value, least, _schema, _root, at):
    if value < least:
        raise SchemaError(f"{at} is {value}, below {least}")


def _maximum(value, most, _schema, _root, at):
    if value > most:
        raise SchemaError(f"{at} is {value}, above {most}")


def _exclusive_minimum(value, least, _schema, _root, at):
    if value <= least:
        raise SchemaError(f"{at} is {value}, not above {least}")


def _min_length(value, least, _schema, _root, at):
    if len(value) < least:
        raise SchemaError(f"{at} has {len(value)} characters, fewer than {least}")


def _min_items(value, least, _schema, _root, at):
    if len(value) < least:
        raise SchemaError(f"{at} has {len(value)} items, fewer than {least}")


def _closed(_value, wanted, schema, _root, _at):
    if wanted is not False or "properties" not in schema:
        raise SchemaError("additionalProperties is only known as false, beside properties")


RULES = {"type": _type, "required": _required, "properties": _properties, "items": _items, "minimum": _minimum,
         "maximum": _maximum, "exclusiveMinimum": _exclusive_minimum, "minLength": _min_length,
         "minItems": _min_items, "additionalProperties": _closed}
