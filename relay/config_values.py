"""What single values of relay.toml may be, and how ${NAME} is filled in. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from relay.errors import ConfigError

VARIABLE: Final = re.compile(r"\$\{([^}]*)\}")
#: ${file:PATH} is a file's text.
FILE_VARIABLE: Final = "file:"


def fill_variables(
    value: Any, environ: Mapping[str, str], path: Path | None, problems: list[ConfigError], key: str = ""
) -> Any:
    """Replace every ${NAME} in every string; a name that is not set, or set to nothing, is a problem."""
    if isinstance(value, dict):
        return {k: fill_variables(v, environ, path, problems, f"{key}.{k}" if key else k) for k, v in value.items()}
    if isinstance(value, list):
        return [fill_variables(v, environ, path, problems, f"{key}[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        found = environ.get(match[1], "")
        if not found:
            message = f"the environment variable {match[1]} is not set: set it, or write the value here"
            if match[1].startswith(FILE_VARIABLE):
                message = f"the file {match[1].removeprefix(FILE_VARIABLE)} cannot be read, or is empty"
            problems.append(ConfigError(message, file=path, key=key))
        return found or match[0]

    return VARIABLE.sub(replace, value)


def is_cloud(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host == "inn.gs" or host.endswith(".inngest.com")


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(value: str) -> str:
    """An http(s) URL that paths can be put behind: the URL without its last slashes."""
    problem = ValueError("must be http:// or https://, a host, and no query, fragment or password")
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value) or not value.isprintable():
        raise problem
    try:
        host_and_port = urlsplit(value).hostname, urlsplit(value).port
    except ValueError:
        raise ValueError("has a port that is no number from 0 to 65535, or a host that is no address") from None
    if not host_and_port[0]:
        raise problem
    return value.rstrip("/")


def check_environment(value: str | None) -> str | None:
    if value is not None and not environment_is_valid(value):
        raise ValueError("must be 1 to 128 printable characters")
    return value


def environment_is_valid(value: str) -> bool:
    """Fit to be an HTTP header value and a branch name."""
    return 0 < len(value) <= 128 and value.isascii() and value.isprintable() and value == value.strip()
