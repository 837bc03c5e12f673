"""relay/providers/*.toml → Presets: what the relay knows about each provider, as data.

One file each; its name is the preset's. `relay providers show NAME` and docs/providers.md say what stands in them.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from relay.errors import ConfigError, nearest
from relay.handshake_tables import Handshake, read_handshakes
from relay.models import Request
from relay.schemes.base import Scheme
from relay.schemes.generic import generic_hmac, generic_open, generic_token
from relay.schemes.places import utf8
from relay.schemes.reading import Option, override, read_option, read_scheme
from relay.schemes.tables import Table

FOLDER: Final = Path(__file__).parent / "providers"
#: Presets whose scheme is written in relay.toml, as [sources.NAME.scheme].
GENERIC: Final = {"hmac": generic_hmac, "token": generic_token, "none": generic_open}


@dataclass(frozen=True, slots=True)
class OwnAnswer:
    """What a provider wants to read when its request was taken, in place of the relay's JSON."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    #: A refusal has no body either, where the provider wants none in any answer.
    refusals_empty: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """A request as the provider sends it, unsigned. `@id@`, `@now@`, `@now_ms@` and `@now_iso@` are filled in."""

    event: str
    content_type: str
    headers: Mapping[str, str]
    body: str

    def request(self, path: str, *, now_s: float, delivery_id: str) -> Request:
        """Ready for `sign`. A new `delivery_id` makes it a new delivery."""
        iso = datetime.fromtimestamp(int(now_s), UTC).isoformat().replace("+00:00", "Z")
        marks = {"id": delivery_id, "now": str(int(now_s)), "now_ms": str(int(now_s * 1000)), "now_iso": iso}
        named = {"Content-Type": self.content_type, **self.headers}
        headers = tuple((utf8(name), utf8(fill_marks(value, marks))) for name, value in named.items())
        return Request("POST", path, "", headers, utf8(fill_marks(self.body, marks)))


@dataclass(frozen=True, slots=True)
class Preset:
    """What is known about one provider.

    `expects` is the answer it wants; `transform` names the shipped script that fits, if there is one; `mistakes` are
    patterns of what people paste instead of the secret. With `secret_optional` a source may have none: it arrives in a
    handshake, or the provider's public keys do without. `methods` are those its webhooks come by beside POST.
    """

    name: str
    title: str
    docs_url: str
    paste: str
    secret_form: str
    expects: str
    transform: str
    traps: tuple[str, ...]
    mistakes: tuple[tuple[re.Pattern[str], str], ...]
    scheme: Scheme
    options: tuple[Option, ...]
    secret_optional: bool
    methods: tuple[str, ...]
    handshakes: tuple[Handshake, ...]
    answer: OwnAnswer | None
    samples: tuple[Sample, ...]

    @property
    def keeps_secrets(self) -> bool:
        """Does a handshake bring the secret?"""
        return any(handshake.keeps for handshake in self.handshakes)

    def sample(self, event: str | None = None) -> Sample:
        """The sample of this event, or the first one. Raises ConfigError, naming those there are."""
        for sample in self.samples:
            if event in (None, sample.event):
                return sample
        known = [sample.event for sample in self.samples]
        raise ConfigError(
            f"{self.name} has no sample {event!r}{nearest(event or '', known)}; it has {', '.join(known)}"
        )


def load_presets(folder: Path = FOLDER) -> dict[str, Preset]:
    """Every preset by its name, in the order of the alphabet. A mistake is a ConfigError that names file and key."""
    return {file.stem: load_preset(file.stem, folder) for file in sorted(folder.glob("*.toml"))}


def load_preset(name: str, folder: Path = FOLDER) -> Preset:
    """One preset; the others are not read."""
    known = sorted(file.stem for file in folder.glob("*.toml"))
    if name not in known:
        remedy = '`relay providers` lists them, and provider = "hmac" or "token" describes one that is not there'
        raise ConfigError(f"there is no provider {name!r}{nearest(name, known)}; {remedy}")
    return read_preset(name, read_table(folder / f"{name}.toml"), folder)


def load_own_preset(path: str, config_file: Path | None) -> Preset:
    """A preset that the relay does not ship; its name is the file's. The path begins where relay.toml is."""
    file = (config_file.absolute().parent if config_file else Path.cwd()) / path
    if not file.is_file():
        raise ConfigError(f"there is no file {path}: a provider is a name (`relay providers`), or a preset's file")
    return read_preset(file.stem, read_table(file), FOLDER)


def preset_for(provider: str, scheme_keys: Mapping[str, Any], *, file: Path | None, key: str) -> Preset:
    """The preset of one source, with what its [sources.NAME.scheme] says. `key` is `sources.NAME`.

    A provider that ends in .toml is a preset of the operator's own, a file beside relay.toml.
    """
    try:
        preset = load_own_preset(provider, file) if provider.endswith(".toml") else load_preset(provider)
    except ConfigError as error:
        if error.file is not None:
            raise
        raise ConfigError(error.message, file=file, key=f"{key}.provider") from None
    table = Table(scheme_keys, file, f"{key}.scheme")
    if provider in GENERIC:
        return replace(preset, scheme=GENERIC[provider](table))
    return replace(preset, scheme=override(preset.scheme, table, preset.options))


def secret_problems(preset: Preset, secrets: Sequence[str]) -> list[str]:
    """Why these secrets cannot work, a sentence each, which never holds a secret. Empty: they may be right."""
    if preset.scheme.open:
        return [f"{preset.name} checks no signature and takes no secret: leave secrets out"] if secrets else []
    if not secrets and not preset.secret_optional:
        return [f"{preset.title} needs a secret ({preset.secret_form}): set secrets = [...]"]
    found = ((index, secret_problem(preset, secret)) for index, secret in enumerate(secrets))
    return [f"secrets[{index}] {problem}" for index, problem in found if problem]


def secret_problem(preset: Preset, secret: str) -> str | None:
    if secret != secret.strip() and "-----BEGIN" not in secret:  # a PEM ends with a line break
        return "begins or ends with white space: it was not copied cleanly"
    for pattern, sentence in preset.mistakes:
        if pattern.search(secret):
            return sentence
    problem = preset.scheme.key_problem(secret)
    begins = "" if preset.secret_form.startswith("none") else "it should be "
    return f"{problem}: {begins}{preset.secret_form}" if problem else None


def read_table(file: Path) -> Table:
    try:
        return Table(tomllib.loads(file.read_text("utf-8")), file)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", file=file) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"is not TOML: {error}", file=file) from error


def read_preset(name: str, table: Table, folder: Path) -> Preset:
    scheme_table = table.table("scheme")
    if scheme_table is None:
        raise table.error("is required: how the provider signs", "scheme")
    options = tuple(read_option(option, inner) for option, inner in named_tables(table, "options"))
    preset = Preset(
        name=name,
        title=table.text("title"),
        docs_url=table.text("docs_url"),
        paste=table.text("paste"),
        secret_form=table.text("secret_form"),
        expects=table.text("expects", ""),
        transform=table.text("transform", name),
        traps=table.texts("traps") or (),
        mistakes=read_mistakes(table),
        scheme=read_scheme(scheme_table, lambda other: other_scheme(other, name, folder)),
        methods=read_methods(table),
        handshakes=read_handshakes(table, [option.name for option in options]),
        options=options,
        answer=read_answer(table),
        secret_optional=table.flag("secret_optional"),
        samples=tuple(read_sample(sample) for sample in table.tables("samples")),
    )
    table.done()
    return preset


def named_tables(table: Table, name: str) -> list[tuple[str, Table]]:
    outer = table.table(name) or Table({}, table.file, name)
    return [(key, inner) for key in outer.values if (inner := outer.table(key)) is not None]


def other_scheme(other: str, name: str, folder: Path) -> Scheme:
    """The scheme of the preset that a by_secret choice names. Raises ValueError."""
    file = folder / f"{other}.toml"
    if other == name or not file.is_file():
        raise ValueError(f"there is no other preset {other!r}")
    table = read_table(file).table("scheme")
    if table is None or table.values.get("kind") == "by_secret":
        raise ValueError(f"{other!r} has no scheme of its own")
    return read_scheme(table, lambda _: other_scheme("", name, folder))


def read_methods(table: Table) -> tuple[str, ...]:
    methods = table.texts("methods") or ()
    if not set(methods) <= {"GET", "PUT", "PATCH", "DELETE"}:
        raise table.error("must be a list of some of GET, PUT, PATCH, DELETE: POST goes without saying", "methods")
    return methods


def read_mistakes(table: Table) -> tuple[tuple[re.Pattern[str], str], ...]:
    found = table.mapping("secret_mistakes")
    try:
        return tuple((re.compile(pattern), sentence) for pattern, sentence in found.items())
    except re.error as error:
        raise table.error(f"holds what is not a regular expression: {error}", "secret_mistakes") from error


def read_answer(table: Table) -> OwnAnswer | None:
    inner = table.table("answer")
    if inner is None:
        return None
    status: int = inner.get("status", 200, int, "an HTTP status of success")
    answer = OwnAnswer(status, inner.mapping("headers"), utf8(inner.text("body", "")), inner.flag("refusals_empty"))
    inner.done()
    if not 200 <= status < 300:
        raise inner.error("must be an HTTP status of success: the delivery is stored", "status")
    return answer


def read_sample(table: Table) -> Sample:
    sample = Sample(
        event=table.text("event"),
        content_type=table.text("content_type", "application/json"),
        headers=table.mapping("headers"),
        body=table.text("body"),
    )
    table.done()
    if sample.content_type == "application/json":
        table.compiled("body", sample.request("/", now_s=0, delivery_id="0").body.decode(), json.loads)
    return sample


def fill_marks(text: str, marks: Mapping[str, str]) -> str:
    return re.sub(r"@(\w+)@", lambda match: marks.get(match[1], match[0]), text)
