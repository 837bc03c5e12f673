"""A TOML table read strictly: every mistake is a ConfigError that names file, key and remedy."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, overload

from relay.errors import ConfigError, nearest

Value = TypeVar("Value")

#: Stands for "there is no default": the key is required.
REQUIRED: Final[Any] = object()


class Table:
    """Hands out the values of one table by name; `done` refuses the keys that nobody asked for."""

    def __init__(self, values: Mapping[str, Any], file: Path | str | None, key: str = "") -> None:
        self.values, self.file, self.key = values, file, key
        self.asked: list[str] = []

    def error(self, message: str, name: str = "") -> ConfigError:
        return ConfigError(message, file=self.file, key=self.path(name) or None)

    def path(self, name: str) -> str:
        return ".".join(part for part in (self.key, name) if part)

    def get(self, name: str, default: Any, kind: type | tuple[type, ...], called: str) -> Any:
        self.asked.append(name)
        if name not in self.values:
            if default is REQUIRED:
                raise self.error(f"is required: {called}", name)
            return default
        value = self.values[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.error(f"must be {called}", name)
        return value

    @overload
    def text(self, name: str, default: str = ...) -> str: ...
    @overload
    def text(self, name: str, default: None) -> str | None: ...
    def text(self, name: str, default: Any = REQUIRED) -> str | None:
        value: str | None = self.get(name, default, str, "a string")
        if value is not None and not value.strip() and default != "":
            raise self.error("is empty: leave the key out, or give it a value", name)
        return value

    def flag(self, name: str) -> bool:
        value: bool = self.get(name, False, bool, "true or false")
        return value

    def seconds(self, name: str, default: float | None = None) -> float | None:
        """A number of seconds that is not negative."""
        value: float | None = self.get(name, default, (int, float), "a number of seconds")
        if value is not None and not 0 <= value < 1e9:
            raise self.error(f"must be a number of seconds from 0 up (it is {value!r})", name)
        return value

    def choice(self, name: str, known: Collection[str], default: Any = REQUIRED) -> Any:
        value = self.get(name, default, str, f"one of {', '.join(known)}")
        if value not in known:
            raise self.error(f"{value!r} is not known{nearest(value, known)}; it can be {', '.join(known)}", name)
        return value

    def texts(self, name: str) -> tuple[str, ...] | None:
        """A list of strings, or one string; None when the key is absent."""
        value = self.get(name, None, (str, list), "a string or a list of strings")
        if value is None:
            return None
        found = [value] if isinstance(value, str) else value
        if not all(isinstance(text, str) and text for text in found):
            raise self.error("must be a string or a list of strings, none of them empty", name)
        return tuple(found)

    def mapping(self, name: str) -> dict[str, str]:
        """A table of strings; empty when absent."""
        value: dict[str, Any] = self.get(name, {}, dict, "a table of strings")
        for key, text in value.items():
            if not isinstance(text, str):
                raise self.error("must be a string", f"{name}.{key}")
        return value

    def table(self, name: str) -> Table | None:
        value = self.get(name, None, dict, "a table")
        return None if value is None else Table(value, self.file, self.path(name))

    def tables(self, name: str) -> list[Table]:
        value = self.get(name, [], list, "a list of tables")
        if not all(isinstance(item, dict) for item in value):
            raise self.error("must be a list of tables", name)
        return [Table(item, self.file, self.path(f"{name}[{index}]")) for index, item in enumerate(value)]

    def pattern(self, name: str) -> re.Pattern[bytes] | None:
        """A regular expression over bytes with exactly one group: what it finds."""
        return self._expression(name, 1, "must have exactly one group: what it finds")

    def expression(self, name: str) -> re.Pattern[bytes] | None:
        """A regular expression over bytes without groups."""
        return self._expression(name, 0, "must have no group: use (?:...)")

    def _expression(self, name: str, groups: int, rule: str) -> re.Pattern[bytes] | None:
        text = self.text(name, None)
        if text is None:
            return None
        try:
            pattern = re.compile(text.encode())
        except (re.error, UnicodeEncodeError) as error:
            raise self.error(f"{text!r} is not a regular expression: {error}", name) from error
        if pattern.groups != groups:
            raise self.error(f"{text!r} {rule}", name)
        return pattern

    def compiled(self, name: str, text: str, compile_: Callable[[str], Value]) -> Value:
        """What `compile_` makes of a text of this table; its ValueError is a mistake of this key."""
        try:
            return compile_(text)
        except ValueError as error:
            raise self.error(str(error), name) from error

    def done(self) -> None:
        """Refuse what was not asked for."""
        for name in self.values:
            if name not in self.asked:
                known = f"; the keys are {', '.join(self.asked)}"
                raise self.error(f"there is no key {name!r} here{nearest(name, self.asked)}{known}", name)
