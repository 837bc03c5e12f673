"""Sources changed under a running relay: rotation without a restart or a lost request, and mistakes refused whole."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp

from relay.presets import FOLDER
from tests.support import signing
from tests.support.fake_inngest import FakeInngest
from tests.support.relay_process import RelayProcess, destination, to_toml, write_config


class Configured:
    """A relay.toml that is changed while the relay runs; each change waits for the line that answers it."""

    def __init__(self, relay: RelayProcess, inngest: FakeInngest) -> None:
        self.relay, self.lines_seen = relay, 0
        self.sources: dict[str, dict[str, Any]] = {"github": self.source("one"), "other": self.source("other")}
        self.table: dict[str, dict[str, dict[str, Any]]] = {
            "sources": self.sources,
            "destinations": {"default": destination(inngest.url)},
        }

    @staticmethod
    def source(*secrets: str) -> dict[str, Any]:
        return {"provider": "github", "secrets": list(secrets), "transform": "plain.js"}

    async def start(self) -> None:
        write_config(self.relay.folder, "", sources=self.sources, destinations=self.table["destinations"])
        text = (self.relay.folder / "relay.toml").read_text()
        self.fixed = text[: text.index('["destinations"]')]
        await self.relay.start()

    def text(self) -> str:
        return self.fixed + to_toml(self.table)

    def write(self, text: str | None = None) -> None:
        """As an editor does it: a new file in the old one's place."""
        draft = self.relay.folder / "draft.toml"
        draft.write_text(self.text() if text is None else text)
        draft.replace(self.relay.folder / "relay.toml")

    async def answered(self) -> dict[str, Any]:
        """The next config.reloaded or config.refused."""
        async with asyncio.timeout(15):
            while True:
                lines = [line for line in self.relay.log_lines() if line["event"].startswith("config.")]
                if len(lines) > self.lines_seen:
                    self.lines_seen += 1
                    return lines[self.lines_seen - 1]
                await asyncio.sleep(0.02)

    async def post(self, http: aiohttp.ClientSession, secret: str, delivery: str, source: str = "github") -> int:
        body = signing.json_body(delivery)
        headers = signing.github(body, delivery, secret=secret)
        async with http.post(f"{self.relay.receiver_url}/in/{source}", data=body, headers=headers) as answer:
            return answer.status


async def test_a_secret_is_rotated_and_no_request_is_lost(relay: RelayProcess, inngest: FakeInngest) -> None:
    made = Configured(relay, inngest)
    await made.start()
    statuses: list[int] = []
    async with aiohttp.ClientSession() as http:

        async def keep_sending(stop: asyncio.Event) -> None:
            while not stop.is_set():
                statuses.append(await made.post(http, "one", f"d{len(statuses)}"))

        stop = asyncio.Event()
        sending = asyncio.create_task(keep_sending(stop))
        assert await made.post(http, "two", "early") == 401
        made.sources["github"]["secrets"] = ["two", "one"]
        made.write()
        assert (await made.answered())["event"] == "config.reloaded"
        assert await made.post(http, "two", "new") == 200
        assert await made.post(http, "one", "old") == 200
        stop.set()
        await sending
        made.sources["github"]["secrets"] = ["two"]
        made.write()
        assert (await made.answered())["changed"] == "github"
        assert await made.post(http, "one", "late") == 401
        assert await made.post(http, "two", "newer") == 200
        sent = len(statuses)
        assert statuses == [200] * sent
    await inngest.wait_for(lambda: len(set(inngest.ids())) >= sent + 3)


async def test_a_mistake_anywhere_changes_nothing(relay: RelayProcess, inngest: FakeInngest) -> None:
    made = Configured(relay, inngest)
    await made.start()
    async with aiohttp.ClientSession() as http:
        made.sources["github"]["secrets"] = ["two"]
        made.sources["other"]["provider"] = "gihtub"
        made.write()
        refused = await made.answered()
        assert refused["event"] == "config.refused"
        assert "sources.other.provider" in refused["reason"]
        assert "did you mean 'github'" in refused["reason"]
        assert await made.post(http, "one", "a") == 200
        assert await made.post(http, "two", "b") == 401
        async with http.get(f"{relay.operator_url}/metrics") as answer:
            assert "relay_config_usable 0.0" in await answer.text()
        made.write(made.text()[:-40])  # an editor that is not done
        assert (await made.answered())["event"] == "config.refused"
        made.sources["other"]["provider"] = "github"
        made.write()
        assert (await made.answered())["event"] == "config.reloaded"
        assert await made.post(http, "two", "c") == 200
        async with http.get(f"{relay.operator_url}/metrics") as answer:
            assert "relay_config_usable 1.0" in await answer.text()


async def test_a_script_that_does_not_compile_is_refused_too(relay: RelayProcess, inngest: FakeInngest) -> None:
    made = Configured(relay, inngest)
    await made.start()
    assert relay.process is not None
    (relay.folder / "plain.js").write_text("function transform(evt) {")
    relay.process.send_signal(signal.SIGHUP)
    assert "script_invalid" in (await made.answered())["reason"]
    (relay.folder / "plain.js").write_text('function transform(evt) { return { id: evt.id, name: "test/changed" } }')
    relay.process.send_signal(signal.SIGHUP)
    assert (await made.answered())["changed"] == "github,other"
    async with aiohttp.ClientSession() as http:
        assert await made.post(http, "one", "a") == 200
    await inngest.wait_for(lambda: len(inngest.accepted) == 1)
    assert inngest.accepted[0].event["name"] == "test/changed"


async def test_sources_come_and_go_and_the_rest_waits(relay: RelayProcess, inngest: FakeInngest) -> None:
    made = Configured(relay, inngest)
    await made.start()
    async with aiohttp.ClientSession() as http:
        made.sources["third"] = made.source("three")
        del made.sources["other"]
        made.fixed = made.fixed.replace('["receiver"]', '["receiver"]\nbody_seconds = 7.0')
        made.write()
        reloaded = await made.answered()
        assert reloaded["event"] == "config.reloaded"
        assert (reloaded["changed"], reloaded["waiting_for_restart"]) == ("other,third", "receiver")
        assert await made.post(http, "three", "a", "third") == 200
        assert await made.post(http, "other", "b", "other") == 404
        made.sources["third"]["destination"] = "second"
        made.table["destinations"] = {**made.table["destinations"], "second": destination(inngest.url)}
        made.write()
        refused = await made.answered()
        assert refused["event"] == "config.refused"
        assert "restart" in refused["reason"]
        assert await made.post(http, "three", "c", "third") == 200


async def test_a_secret_in_a_file_of_its_own(relay: RelayProcess, inngest: FakeInngest) -> None:
    made = Configured(relay, inngest)
    secret = relay.folder / "secret"
    secret.write_text("one\n")
    made.sources["github"]["secrets"] = ["${file:secret}"]
    await made.start()
    async with aiohttp.ClientSession() as http:
        assert await made.post(http, "one", "a") == 200
        secret.write_text("two\n")
        assert (await made.answered())["changed"] == "github"
        assert await made.post(http, "two", "b") == 200
        os.unlink(secret)
        assert "the file secret cannot be read" in (await made.answered())["reason"]
        assert await made.post(http, "two", "c") == 200


async def test_an_emptied_file_takes_no_source_away(relay: RelayProcess, inngest: FakeInngest) -> None:
    """A disk that was full when it was written, say. Where the environment has the event key, nothing else is wrong."""
    relay.environ["INNGEST_EVENT_KEY"] = "key"
    made = Configured(relay, inngest)
    await made.start()
    async with aiohttp.ClientSession() as http:
        made.write("")
        refused = await made.answered()
        assert (refused["event"], "no source any more" in refused["reason"]) == ("config.refused", True)
        assert await made.post(http, "one", "a") == 200


async def test_what_changes_while_the_relay_starts_is_seen(relay: RelayProcess, inngest: FakeInngest) -> None:
    made = Configured(relay, inngest)
    slow = "const began = Date.now(); while (Date.now() - began < 100);\nfunction transform(evt) { return evt; }\n"
    for number in range(10):
        (relay.folder / f"slow{number}.js").write_text(f"// {number}\n{slow}")
        made.sources[f"slow{number}"] = {**made.source("one"), "transform": f"slow{number}.js"}
    starting = asyncio.create_task(made.start())
    while not (relay.process and children(relay.process.pid)):
        await asyncio.sleep(0.005)
    assert not starting.done()
    made.sources["github"]["secrets"] = ["two"]
    made.write()
    await starting
    assert (await made.answered())["changed"] == "github"


def children(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return ""


async def test_sighup_ends_no_relay_that_is_stopping(relay: RelayProcess, inngest: FakeInngest) -> None:
    made = Configured(relay, inngest)
    await made.start()
    assert relay.process is not None
    relay.process.send_signal(signal.SIGTERM)
    while relay.process.poll() is None:
        relay.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(0.001)
    assert relay.process.returncode == 0


async def test_a_preset_of_ones_own_is_watched(relay: RelayProcess, inngest: FakeInngest) -> None:
    made = Configured(relay, inngest)
    own = (FOLDER / "github.toml").read_text("utf-8")
    (relay.folder / "acme.toml").write_text(own.replace("x-hub-signature-256", "x-acme"))
    made.sources["github"]["provider"] = "acme.toml"
    await made.start()
    async with aiohttp.ClientSession() as http:
        assert await made.post(http, "one", "a") == 401
        (relay.folder / "acme.toml").write_text(own)
        assert (await made.answered())["event"] == "config.reloaded"
        assert await made.post(http, "one", "b") == 200
        (relay.folder / "acme.toml").write_text(own.replace("[scheme]", "[skeme]"))
        assert "acme.toml" in (await made.answered())["reason"]
        assert await made.post(http, "one", "c") == 200


async def test_events_go_where_their_source_says_now(relay: RelayProcess, inngest: FakeInngest) -> None:
    made = Configured(relay, inngest)
    await made.start()
    async with aiohttp.ClientSession() as http:
        assert await made.post(http, "one", "before") == 200
        await inngest.wait_for(lambda: len(inngest.accepted) == 1)
        made.sources["github"]["environment"] = "pr-7"
        made.write()
        assert (await made.answered())["event"] == "config.reloaded"
        assert await made.post(http, "one", "after") == 200
        await inngest.wait_for(lambda: len(inngest.accepted) == 2)
    assert [each.environment for each in inngest.accepted] == [None, "pr-7"]
