"""pydantic's complaints in the words of relay.toml: the file, the key, the remedy, and the nearest known key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from relay.errors import ConfigError, nearest

#: pydantic's kinds of complaint → what to write instead.
REMEDIES: Final = {
    "missing": 'is required: write {name} = "…" (`relay providers` lists the names)',  # only a provider is required
    "string_type": "must be a text in quotes",
    "int_type": "must be a whole number, without quotes",
    "float_type": "must be a number, without quotes",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false, without quotes",
    "tuple_type": 'must be a list, also of one: write {name} = ["…"]',
    "is_instance_of": 'must be a path in quotes: write {name} = "transforms/NAME.js"',
    "dict_type": "must be a table: write [{table}]",
    "model_type": "must be a table: write [{table}]",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be {ge} or more",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be {le} or less",
}


def explain(error: ValidationError, path: Path | None, tables: Mapping[str, type[BaseModel]]) -> list[ConfigError]:
    """Every complaint. `tables` says which model a top-level table (or each table in it) is; "" is the file itself."""
    return [explain_one(details, path, tables) for details in error.errors()]


def explain_one(details: ErrorDetails, path: Path | None, tables: Mapping[str, type[BaseModel]]) -> ConfigError:
    location = details["loc"]
    key = key_of(location)
    if details["type"] == "extra_forbidden":
        message = unknown_key_message(str(location[-1]), known_keys(location[:-1], tables))
        return ConfigError(message, file=path, key=key)
    return ConfigError(remedy(details, key) + shown_input(details.get("input"), location), file=path, key=key)


def remedy(details: ErrorDetails, key: str) -> str:
    """What to write instead, in the words of relay.toml."""
    words = REMEDIES.get(details["type"])
    if words is None:
        return details["msg"].removeprefix("Value error, ")
    table = f"{key}.NAME" if key in ("sources", "destinations") else key
    return words.format(name=details["loc"][-1], table=table, **details.get("ctx", {}))


def leave_out(table: dict[str, Any], details: ErrorDetails) -> bool:
    """Take what a complaint is about out of `table` (of a list the whole, of what is missing the table around it)."""
    names = [part for part in details["loc"] if isinstance(part, str)]
    *above, last = names[:-1] if details["type"] == "missing" else names
    inner: Any = table
    for name in above:
        inner = inner.get(name) if isinstance(inner, dict) else None
    return isinstance(inner, dict) and inner.pop(last, None) is not None


def key_of(location: Sequence[int | str]) -> str:
    """sources.acme.secrets[0], as fill_variables writes it too."""
    key = ""
    for part in location:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
    return key


def shown_input(given: Any, location: Sequence[int | str]) -> str:
    """What was given, unless it may be a secret (a URL with an @ may hold a password)."""
    if any(part in ("secrets", "event_key", "token", "scheme") for part in location):
        return ""
    if isinstance(given, bool | int | float) or (isinstance(given, str) and "@" not in given):
        return f" (it is {given!r})"
    return ""


def known_keys(location: Sequence[int | str], tables: Mapping[str, type[BaseModel]]) -> list[str]:
    """The keys of the table at `location`."""
    model = tables.get(str(location[0]), tables[""]) if location else tables[""]
    return [name for name in model.model_fields if name != "file"]


def unknown_key_message(key: str, known: list[str]) -> str:
    return f"there is no key {key!r} here{nearest(key, known)}; the keys are {', '.join(known)}"
