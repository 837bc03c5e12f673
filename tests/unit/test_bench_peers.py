"""Peers of the benchmark: one that cannot be had is a line in the table, never the end of the run. No network."""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from tests.bench import peers, peers_had, peers_served
from tests.bench.figures import Figure, table
from tests.bench.over_http import Plan
from tests.bench.peers_had import CannotBeHad
from tests.bench.peers_served import Serving
from tests.bench.processes import CORES, Cores, Round
from tests.bench.signed import SECRET, Signer

PLAN = Plan(rounds=1, seconds=0.1, quick=True, backlog=0)
linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are held to their cores, which only Linux can")


def nothing(_: Cores) -> Serving:
    raise AssertionError("it is fetched before anything is started")


@pytest.fixture(autouse=True)
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_FOLDER", str(tmp_path))
    return tmp_path


def test_a_peer_that_cannot_be_had_says_why_in_the_table() -> None:
    def fetch() -> None:
        raise CannotBeHad("npm: network request failed")

    figure = peers.measured(PLAN, peers.Peer("Node", "HMAC, fsync", nothing, fetch))
    assert figure.ratio is None
    assert "| Node | – | HMAC, fsync | not measured: npm: network request failed |" in table([figure])


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["no-such-registry"], "there is no no-such-registry here"),
        (["sh", "-c", "echo made; echo 'E: no Version | 2.8' >&2; exit 1"], "sh: E: no Version / 2.8"),
        (["false"], "false: it said nothing"),
    ],
)
def test_whatever_goes_wrong_is_a_reason(command: list[str], why: str, tmp_path: Path) -> None:
    with pytest.raises(CannotBeHad) as caught:
        peers_had.run(command, tmp_path)
    assert str(caught.value) == why


def test_the_reason_is_the_line_that_speaks_of_an_error() -> None:
    said = "node:internal:1\nError: Cannot find package 'isolated-vm'\n  at resolve\n\nNode.js v20.20.2\n"
    assert peers_had.reason_in(said) == "Error: Cannot find package 'isolated-vm'"
    assert peers_had.reason_in("one\ntwo\n\n") == "two"


def test_what_was_fetched_is_fetched_once_and_half_of_it_never_counts() -> None:
    filled: list[Path] = []

    def half(folder: Path) -> None:
        (folder / "begun").touch()
        raise CannotBeHad("the line was cut")

    def whole(folder: Path) -> None:
        filled.append(folder)
        (folder / "program").touch()

    with pytest.raises(CannotBeHad):
        peers_had.had("peer-1.0", half)
    folders = {peers_had.had("peer-1.0", whole) for _ in range(2)}
    (folder,) = folders
    assert len(filled) == 1
    assert [file.name for file in folder.iterdir()] == ["program"]
    assert [file.name for file in peers_had.cache().iterdir()] == ["peer-1.0"]


def test_programs_are_not_started_from_a_folder_that_others_may_write_to(disk: Path) -> None:
    (disk / "relay-bench-peers").mkdir()
    (disk / "relay-bench-peers").chmod(0o777)
    with pytest.raises(CannotBeHad, match="others may write there"):
        peers_had.cache()


@linux
def test_a_peer_that_does_not_start_says_why(tmp_path: Path) -> None:
    command = ["-c", "raise SystemExit('error: no such option')"]
    with (
        pytest.raises(CannotBeHad, match="it ended at once: error: no such option"),
        peers_served.listening(command, (CORES[0],), tmp_path),
    ):
        pass


def test_a_peer_that_refuses_much_was_not_measured() -> None:
    good = Round(1.0, 1.0, 1.0, 1.0)
    good.statuses.update({"200": 999, "ConnectionResetError": 1})
    assert peers.mostly_accepted(good) is good
    good.statuses.update({"503": 50})
    with pytest.raises(RuntimeError, match="'503': 50"):
        peers.mostly_accepted(good)


def test_peers_have_a_table_of_their_own() -> None:
    own = Figure("ack path", 1.25, 1.3, "12/s of 10/s")
    peer = Figure("Debian webhook", 0.23, None, "2/s of 10/s", does="HMAC; no dedupe")
    assert "peer" not in table([own])
    assert table([peer]).startswith("| peer |")
    above, below = table([own, peer]).split("\n\n")
    assert "Debian" not in above
    assert below.splitlines()[-1] == "| Debian webhook | **0.23** | HMAC; no dedupe | 2/s of 10/s |"


def test_every_peer_says_what_it_does_and_its_version_is_written_down() -> None:
    assert all(peer.does for peer in peers.peers().values())
    assert f"hookspool=={peers_had.HOOKSPOOL} --hash=sha256:" in (peers_had.HERE / "hookspool.txt").read_text()
    wanted = json.loads((peers_had.HERE / "node" / "package.json").read_text())
    locked = json.loads((peers_had.HERE / "node" / "package-lock.json").read_text())["packages"]
    for name, version in {**wanted["dependencies"], **wanted["optionalDependencies"]}.items():
        assert locked[f"node_modules/{name}"]["version"] == version
    assert all("integrity" in each for place, each in locked.items() if place)


def test_a_load_may_sign_the_body_alone() -> None:
    head, _, body = Signer(2048, path="/hooks/x", scheme="body").sign().partition(b"\r\n\r\n")
    expected = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert head.startswith(b"POST /hooks/x HTTP/1.1\r\n")
    assert head.endswith(f"\r\nX-Hub-Signature-256: sha256={expected}".encode())
    assert len(body) == 2048


@linux
async def test_the_ordinary_way_verifies_stores_and_deduplicates() -> None:
    request = Signer(2048).sign()
    head, _, body = request.partition(b"\r\n\r\n")
    header = head.rpartition(b"Stripe-Signature: ")[2].decode()
    with peers_served.ordinary((CORES[0],)) as served:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{served.port}") as client:

            async def post(signature: str) -> tuple[int, dict[str, object]]:
                headers = {"Stripe-Signature": signature}
                async with client.post("/in/stripe", data=body, headers=headers) as answer:
                    return answer.status, await answer.json()

            key = json.loads(body)["id"]
            assert await post(header) == (200, {"id": key, "duplicate": False})
            assert await post(header) == (200, {"id": key, "duplicate": True})
            assert (await post(header.replace("v1=", "v1=0")))[0] == 401
            assert (await post(header.replace("t=", "t=1")))[0] == 401
        with closing(sqlite3.connect(served.folder / "ordinary.db")) as store:
            rows = store.execute("SELECT key, body FROM deliveries").fetchall()
    assert rows == [(key, body)]
