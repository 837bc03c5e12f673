"""`relay send` for every sample of every preset, through a real relay to the event at the far end.

The commands run in this process, so that three hundred of them take seconds; everything else is the real thing.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relay.cli import parser
from relay.commands.output import Output
from relay.presets import Preset, load_presets, secret_problems
from tests.support.command import run
from tests.support.fake_inngest import FakeInngest
from tests.support.key_server import key_server
from tests.support.relay_process import RelayProcess, write_config
from tests.support.throwaway import believing, certificate, rsa_key

SHIPPED = Path(__file__).parents[2] / "transforms"
SCHEMES: dict[str, dict[str, Any]] = {
    "hmac": {"header": "X-Signature", "prefix": "sha256="},
    "token": {"query": "token"},
}
#: Samples that a transform filters on purpose: pings and the like.
FILTERED = {("pagerduty", "pagey.ping")}
AT_ONCE = 8
#: For presets whose secrets have a form that others may not have.
SECRETS = (
    "user:password",
    "0123456789abcdef" * 2,
    "0123456789abcdef" * 4,
    "a-secret-of-words",
    "1234567890",
    "a-client&a-secret",
)


def source_of(preset: Preset, folder: Path) -> tuple[dict[str, Any], Path | None]:
    """The source as an operator writes it, and the private key's file where the provider keeps its key to itself."""
    scheme, sign_with, secrets = believing(preset)
    source: dict[str, Any] = {
        "provider": preset.name,
        "scheme": {**dict(scheme.options), **SCHEMES.get(preset.name, {})},
    }
    if preset.name == "sns":
        body = json.loads(preset.sample().body)
        secrets = [body["TopicArn"]]
        source["scheme"]["certs"] = {body["SigningCertURL"]: certificate(rsa_key(), "sns")}
    if secrets:
        fit = (texts for texts in (secrets, *([text] for text in SECRETS)) if not secret_problems(preset, texts))
        source["secrets"] = next(fit)
    if (SHIPPED / f"{preset.transform}.js").exists():
        source["transform"] = f"transforms/{preset.transform}.js"
    _, begins, rest = sign_with.partition("-----BEGIN")
    if not begins:
        return source, None
    key = folder / f"{preset.name}.pem"
    key.write_text(begins + rest)
    return source, key


async def send(relay: RelayProcess, *arguments: str) -> tuple[int, Any]:
    """The command's exit code and its document."""
    out = io.StringIO()
    args = parser().parse_args(["--config", str(relay.folder / "relay.toml"), "send", *arguments, "--json"])
    code: int = await args.run(args, Output({}, out, io.StringIO()))
    return code, json.loads(out.getvalue())


async def settled(relay: RelayProcess, count: int) -> Counter[str]:
    """Deliveries by state, once none is waiting."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(60):
        while True:
            async with http.get(f"{relay.operator_url}/api/stats") as answer:
                states = Counter((await answer.json())["deliveries"])
            if states["received"] == 0 and states.total() >= count:
                return states
            await asyncio.sleep(0.05)


@pytest.mark.timeout(300)
async def test_every_sample_of_every_preset_becomes_events(relay: RelayProcess, inngest: FakeInngest) -> None:
    presets = load_presets()
    made = {name: source_of(preset, relay.folder) for name, preset in presets.items()}
    async with key_server(relay.folder, "sns.us-east-1.amazonaws.com") as server:  # confirms a subscription
        server.says("/", "<ConfirmSubscriptionResponse/>")
        write_config(
            relay.folder,
            inngest.url,
            sources={name: source for name, (source, _) in made.items()},
            keys={"proxy": server.proxy, "ca_file": str(server.ca_file)},
        )
        await relay.start(seconds=60)
        await send_all(relay, inngest, presets, {name: key for name, (_, key) in made.items()})


async def send_all(
    relay: RelayProcess, inngest: FakeInngest, presets: dict[str, Preset], keys: dict[str, Path | None]
) -> None:
    places, answers = asyncio.Semaphore(AT_ONCE), Counter[str]()

    async def one(name: str, event: str) -> None:
        key = keys[name]
        async with places:
            code, said = await send(relay, name, "--event", event, *(["--key", str(key)] if key else []))
        assert code == 0, f"{name}/{event}: {said}"
        taken = said.get("answer", {}).get("status") == "accepted" or presets[name].answer is not None
        answers["accepted" if taken else "handshake"] += 1

    samples = [(name, sample.event) for name, preset in presets.items() for sample in preset.samples]
    await asyncio.gather(*(one(name, event) for name, event in samples))
    assert answers["handshake"] <= 3  # Slack's url_verification and the like
    states = await settled(relay, answers["accepted"])
    assert states["dead"] == 0, run(relay.folder, "deliveries", "list", "--state", "dead").out
    assert states["filtered"] == len(FILTERED)
    assert states["processed"] == answers["accepted"] - len(FILTERED)
    await inngest.wait_for(lambda: len(inngest.accepted) >= states["processed"], seconds=30)
    assert len(set(inngest.ids())) == len(inngest.accepted)
    assert all("undefined" not in got.event["name"] for got in inngest.accepted)


def test_a_throwaway_pair_signs_what_its_public_half_believes(tmp_path: Path) -> None:
    for name in ("discord", "sendgrid", "standard_webhooks_v1a", "postal", "wise", "plaid"):
        made = run(tmp_path, "providers", "key", name)
        assert made.code == 0, made.err
        assert (tmp_path / f"{name}.key.pem").stat().st_mode & 0o777 == 0o600
        secret = json.loads(made.out.splitlines()[-1].removeprefix("secrets = "))[0]
        write_config(tmp_path, "http://127.0.0.1:9", sources={name: {"provider": name, "secrets": [secret]}})
        assert run(tmp_path, "send", name, "--key", f"{name}.key.pem").code == 3  # signed, and nobody listens
        refused = run(tmp_path, "send", name)
        assert (refused.code, "private key" in refused.err) == (2, True)
        assert run(tmp_path, "providers", "key", name).code == 2  # the file is there: nothing is written over
    assert "needs no key pair" in run(tmp_path, "providers", "key", "stripe").err
