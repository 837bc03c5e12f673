"""`relay send` for every preset, through a real relay to the event at the far end, with the shipped transforms."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from relay.presets import load_presets
from tests.support.command import run
from tests.support.fake_inngest import FakeInngest
from tests.support.relay_process import RelayProcess, write_config

BASE64_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLfSw"
SECRETS = {
    "stripe": "whsec_0123456789abcdefghij",
    "gitlab_token": "a plain token",
    "hmac": "an hmac secret",
    "token": "a token",
}
SCHEMES: dict[str, dict[str, Any]] = {
    "hmac": {"header": "X-Signature", "prefix": "sha256="},
    "token": {"query": "token"},
}
#: Samples that are handshakes: answered, kept nowhere.
HANDSHAKES = {("slack", "url_verification")}


def sources() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    for name, preset in load_presets().items():
        source: dict[str, Any] = {"provider": name}
        if not preset.scheme.open:
            source["secrets"] = [SECRETS.get(name, BASE64_SECRET)]
        if name in SCHEMES:
            source["scheme"] = SCHEMES[name]
        shipped = {"github_sha1_legacy": "github", "gitlab_token": "gitlab", "gitlab_signing": "gitlab"}.get(name, name)
        if name not in ("hmac", "token", "none"):
            source["transform"] = f"transforms/{shipped}.js"
        table[name] = source
    return table


@pytest.mark.timeout(300)
async def test_every_sample_of_every_preset_becomes_an_event(relay: RelayProcess, inngest: FakeInngest) -> None:
    write_config(relay.folder, inngest.url, sources=sources())
    await relay.start()
    expected = 0
    for name, preset in load_presets().items():
        commands = [("send", name, "--event", sample.event, "--to", relay.receiver_url) for sample in preset.samples]
        for sent in await asyncio.gather(*(asyncio.to_thread(run, relay.folder, *words) for words in commands)):
            assert sent.code == 0, f"{name}: {sent.out}{sent.err}"
        expected += sum((name, sample.event) not in HANDSHAKES for sample in preset.samples)
    await inngest.wait_for(lambda: len(inngest.accepted) >= expected, seconds=20)
    assert len(inngest.accepted) == expected
    assert len(set(inngest.ids())) == expected
    assert all("undefined" not in got.event["name"] for got in inngest.accepted)
