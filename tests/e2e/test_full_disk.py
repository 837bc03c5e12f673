"""A real full disk (a small tmpfs): 503 and never a false 200, and recovery without a restart."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.support import signing
from tests.support.fake_inngest import FakeInngest
from tests.support.relay_process import RelayProcess, write_config


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        reason = f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}"
        if os.environ.get("CI") == "true" and os.geteuid() == 0:
            pytest.fail(reason)
        pytest.skip(reason)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def test_a_full_disk_is_503_and_recovers(
    relay: RelayProcess, http: aiohttp.ClientSession, small_disk: Path, inngest: FakeInngest
) -> None:
    store = {"url": f"sqlite:///{small_disk}/relay.db"}
    write_config(relay.folder, inngest.url, store=store)
    await relay.start()
    acknowledged: set[str] = set()
    sent = 0

    async def send() -> int:
        nonlocal sent
        sent += 1
        body = signing.json_body(f"evt_{sent}", filler=os.urandom(50_000).hex())
        headers = signing.github(body, f"d-{sent}")
        async with http.post(f"{relay.receiver_url}/in/github", data=body, headers=headers) as answer:
            if answer.status == 200:
                acknowledged.add(f"evt_{sent}")
            elif answer.status == 503:
                assert int(answer.headers["Retry-After"]) > 0
                assert (await answer.json())["error"]["code"] == "store_unavailable"
            return answer.status

    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(8 * 1024 * 1024))
    statuses = [await send() for _ in range(300)]
    assert 200 in statuses
    assert 503 in statuses
    assert set(statuses) == {200, 503}
    assert statuses[-1] == 503
    async with http.get(f"{relay.operator_url}/readyz") as answer:
        assert answer.status == 503

    ballast.unlink()
    deadline = time.monotonic() + 20
    while await send() != 200:
        assert time.monotonic() < deadline, "it did not recover"
        await asyncio.sleep(0.1)
    await inngest.wait_for(lambda: acknowledged <= set(inngest.ids()), seconds=20)
    while True:  # what it says of the store is up to a second old
        async with http.get(f"{relay.operator_url}/readyz") as answer:
            if answer.status == 200:
                break
        assert time.monotonic() < deadline, "it takes webhooks and says that it does not"
        await asyncio.sleep(0.1)
    assert set(inngest.ids()) == acknowledged
    assert await relay.stop() == 0
