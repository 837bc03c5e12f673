"""docs/providers.md as text, made from the presets, so that the page cannot say anything else than the data."""

from __future__ import annotations

from collections.abc import Iterable

from relay.presets import GENERIC, OwnAnswer, Preset
from relay.schemes.base import Scheme
from relay.schemes.kinds import BySecret
from relay.schemes.places import headers_of
from relay.schemes.signed import Signed

#: Where the generated part of docs/providers.md begins; what stands above it is written by hand.
MARK = "<!-- made by `relay providers --markdown`: everything below comes from relay/providers/*.toml -->"


def provider_pages(presets: Iterable[Preset]) -> str:
    """What there is, and a section for each preset, after the mark."""
    listed = list(presets)
    names = ", ".join(f"[{preset.name}](#{preset.name}-{anchor(preset.title)})" for preset in listed)
    return "\n".join([MARK, "", f"{len(listed)} presets: {names}", "", *(provider_page(preset) for preset in listed)])


def anchor(title: str) -> str:
    """The end of a heading's anchor, as GitHub makes them: small letters, digits, hyphens for spaces."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def provider_page(preset: Preset) -> str:
    """One section of Markdown."""
    places = ", ".join(f"`{place.text}`" for place in preset.scheme.delivery_id) or "none: copies are not told apart"
    rows = [
        ("secret", preset.secret_form),
        ("what to paste where", preset.paste),
        *(
            (f"`scheme.{option.name}`{', required' if option.required else ''}", option.about)
            for option in preset.options
        ),
        ("headers of its signature", ", ".join(f"`{name}`" for name in signature_headers(preset))),
        ("delivery id", places),
        ("event type", ", ".join(f"`{place.text}`" for place in preset.scheme.event_type)),
        ("comes by", ", ".join(("POST", *preset.methods)) if preset.methods else ""),
        ("it expects", preset.expects),
        ("it is answered", answer_shown(preset.answer)),
        ("handshakes", ", ".join(f"`{each.name}` ({each.method})" for each in preset.handshakes)),
        ("samples for `relay send`", ", ".join(f"`{sample.event}`" for sample in preset.samples)),
        ("documentation", f"<{preset.docs_url}>" if preset.docs_url else ""),
    ]
    table = [f"| {name} | {escape(text)} |" for name, text in rows if text]
    traps = [f"- {trap}" for trap in preset.traps]
    return "\n".join([f"## `{preset.name}`: {preset.title}", "", "| | |", "|---|---|", *table, "", *traps, ""])


def signature_headers(preset: Preset) -> list[str]:
    """The headers that vouch for a request, without the further numbered ones; none where relay.toml describes them."""
    return [] if preset.name in GENERIC else sorted(name.decode("latin-1") for name in headers_of_scheme(preset.scheme))


def headers_of_scheme(scheme: Scheme) -> frozenset[bytes]:
    if isinstance(scheme, BySecret):
        return frozenset[bytes]().union(*(headers_of_scheme(choice) for _, choice in scheme.choices))
    return scheme.headers_judged() - (headers_of(scheme.numbered) if isinstance(scheme, Signed) else frozenset())


def answer_shown(answer: OwnAnswer | None) -> str:
    """What the relay answers an accepted request with, where it is not its own JSON."""
    if answer is None:
        return ""
    return f"{answer.status} with `{answer.body.decode()}`" if answer.body else f"{answer.status}, without a body"


def escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
