"""docs/providers.md as text, made from the presets, so that the page cannot say anything else than the data."""

from __future__ import annotations

from collections.abc import Iterable

from relay.presets import Preset

#: Where the generated part of docs/providers.md begins; what stands above it is written by hand.
MARK = "<!-- made by `relay providers --markdown`: everything below comes from relay/providers/*.toml -->"


def provider_pages(presets: Iterable[Preset]) -> str:
    """A section for each preset, after the mark."""
    return "\n".join([MARK, "", *(provider_page(preset) for preset in presets)])


def provider_page(preset: Preset) -> str:
    """One section of Markdown."""
    places = ", ".join(f"`{place.text}`" for place in preset.scheme.delivery_id) or "none: copies are not told apart"
    rows = [
        ("secret", preset.secret_form),
        ("what to paste where", preset.paste),
        ("delivery id", places),
        ("event type", ", ".join(f"`{place.text}`" for place in preset.scheme.event_type)),
        ("handshake", "answered by the relay, kept nowhere" if preset.handshake else ""),
        ("samples for `relay send`", ", ".join(f"`{sample.event}`" for sample in preset.samples)),
        ("documentation", f"<{preset.docs_url}>" if preset.docs_url else ""),
    ]
    table = [f"| {name} | {escape(text)} |" for name, text in rows if text]
    traps = [f"- {trap}" for trap in preset.traps]
    return "\n".join([f"## `{preset.name}`: {preset.title}", "", "| | |", "|---|---|", *table, "", *traps, ""])


def escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
