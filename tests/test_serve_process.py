"""A real `gapcam serve` over real sockets: load, slow and broken clients, and how it stops."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import typer
from typer.testing import CliRunner

import gapcam
from gapcam.cli import app
from gapcam.cli.serve import address_of, hosts_of
from gapcam.serve import ServeOptions
from gapcam.serve.errors import STATUSES
from serving import form, raw, refused, serving

SAMPLES = [path.read_bytes() for path in gapcam.sample_pictures()]
CAT = SAMPLES[1]
HEADERS = {"Content-Type": "image/jpeg"}
USUAL = ("--recipe", "fast", "--workers", "2")


@pytest.fixture(scope="module")
def served():
    with serving(*USUAL, "--queue", "8", "--max-bytes", "300000") as server:
        yield server


def post(address: str, data: bytes = CAT, query: str = "?top=1", **options) -> httpx.Response:
    url = f"{address}/v1/localize{query}"
    return httpx.post(url, content=data, headers=HEADERS, timeout=60, trust_env=False, **options)


def assert_lives(served, quick) -> None:
    """It answers, and right."""
    fast = gapcam.Localizer(quick.engine, quick.card, gapcam.RECIPES["fast"])
    (shown,) = post(served.address).json()["results"]
    best = fast(CAT, top=1).detections[0]
    assert shown["detections"][0]["class_id"] == best.class_id == 285
    assert shown["detections"][0]["box"] == pytest.approx(best.box_xyxy, abs=0.02)


def test_it_says_where_it_is_and_what_it_serves(served, quick):
    first, second = served.said[:2]
    assert first == (
        f"Serving efficientnet-lite0, recipe fast, at {served.address}/ (Ctrl-C stops it)"
    )
    assert second.startswith("efficientnet-lite0: class maps are exact.")
    assert len(served.said) == 2
    model = httpx.get(f"{served.address}/v1/model", trust_env=False).json()
    assert model["recipe"]["name"] == "fast"
    assert model["limits"]["max_bytes"] == 300_000
    assert_lives(served, quick)


def test_forms_and_chunks_over_a_socket(served):
    url = f"{served.address}/v1/localize?top=1"
    files = form(*[(f"{i}.jpg", data) for i, data in enumerate(SAMPLES)])
    answer = httpx.post(url, files=files, timeout=60, trust_env=False)
    assert [result["name"] for result in answer.json()["results"]] == [f"{i}.jpg" for i in range(4)]
    pieces = (CAT[start : start + 1000] for start in range(0, len(CAT), 1000))
    chunked = httpx.post(url, content=pieces, headers=HEADERS, timeout=60, trust_env=False)
    ours, theirs = (a.json()["results"][n]["detections"] for a, n in ((chunked, 0), (answer, 1)))
    assert ours == theirs


def test_a_request_without_a_body_or_that_is_none(served, quick):
    head = b"POST /v1/localize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    answer = raw(served.port, head + b"Content-Type: image/jpeg\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 411 ")
    assert b"does not say its Content-Length" in answer
    for broken in (
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03" * 9,
        b"GET / HTTP/9\r\n\r\n",
    ):
        answer = raw(served.port, broken)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["kind"] == "request"
    answer = raw(served.port, head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    answer = raw(served.port, head + b"X: " + b"y" * 70_000 + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 4")
    assert raw(served.port, b"GET /healthz HTTP/1.1\r\n\r\n").startswith(
        b"HTTP/1.1 400 "
    )  # no Host
    assert raw(served.port, b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 421 ")
    assert_lives(served, quick)


def test_bodies_beyond_the_bound_are_refused_before_they_are_sent(served, quick):
    head = b"POST /v1/localize HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    asked = head + b"Expect: 100-continue\r\nContent-Length: 9000000000\r\n\r\n"
    answer = raw(served.port, asked, patience=1)
    assert answer.startswith(b"HTTP/1.1 413 ")
    before = served.resident_mb()
    endless = head + b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    answer = raw(served.port, endless, *[chunk] * 150, patience=1)
    assert b"HTTP/1.1 413 " in answer
    assert served.resident_mb() < before + 8
    assert_lives(served, quick)


def test_clients_that_go_away(served, quick):
    head = b"POST /v1/localize HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
    whole = head + b"Content-Length: %d\r\n\r\n" % len(CAT) + CAT
    for sent in (whole, whole[: len(whole) // 2], head) * 8:
        line = socket.create_connection(("127.0.0.1", served.port))
        line.sendall(sent)
        line.close()
    ends = time.monotonic() + 20
    while True:
        text = httpx.get(f"{served.address}/metrics", trust_env=False).text
        if "gapcam_held_bytes 0.0" in text and "gapcam_queue_pictures 0.0" in text:
            break
        assert time.monotonic() < ends, text
        time.sleep(0.05)
    assert 'status="499"' in text
    assert 'status="500"' not in text
    assert_lives(served, quick)


def test_twice_the_load_that_it_takes(served, quick):
    """Nothing is lost, nothing is stuck: every request is answered, with 200 or 429."""
    statuses, late = Counter(), []

    def client(number: int) -> None:
        with httpx.Client(base_url=served.address, timeout=60, trust_env=False) as http:
            for i in range(4):
                data = SAMPLES[(number + i) % len(SAMPLES)]
                began = time.monotonic()
                answer = http.post("/v1/localize?top=1", content=data, headers=HEADERS)
                late.append(time.monotonic() - began)
                statuses[answer.status_code] += 1
                if answer.status_code == 429:
                    assert int(answer.headers["retry-after"]) >= 1
                    refused(answer, 429, "busy")
                    time.sleep(0.02)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(client, range(20)))
    assert set(statuses) == {200, 429}
    assert statuses.total() == 20 * 4
    assert statuses[200] > 15
    assert max(late) < 20
    assert_lives(served, quick)


def test_what_was_taken_is_finished_before_it_stops():
    with serving(*USUAL) as served, ThreadPoolExecutor(30) as pool:
        half = threading.Event()
        count = len(SAMPLES[0])

        def slowly():
            yield SAMPLES[0][: count // 2]
            half.set()
            time.sleep(1)  # the rest comes after the server was asked to stop
            yield SAMPLES[0][count // 2 :]

        jobs = [pool.submit(post, served.address, slowly())]
        assert half.wait(20)
        jobs += [pool.submit(post, served.address, SAMPLES[i % 4]) for i in range(16)]
        ends = time.monotonic() + 20
        # Wait until all of them have been taken: what was not yet accepted may be turned away.
        while _taken(served) < len(jobs):
            assert time.monotonic() < ends
            time.sleep(0.01)
        began = time.monotonic()
        assert served.stop() == 0
        assert time.monotonic() - began < 15
        answers = [job.result(20) for job in jobs]
        assert [answer.status_code for answer in answers] == [200] * len(jobs)
        assert served.said[-1] == "Stopped."
        with pytest.raises(httpx.ConnectError):
            post(served.address)


def _taken(served) -> int:
    """Requests that it has begun to read, answered or not; less the one that asks."""
    text = httpx.get(f"{served.address}/metrics", trust_env=False).text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    done = lines.get('gapcam_requests_total{route="/v1/localize",status="200"}', 0)
    return int(float(done) + float(lines["gapcam_open_requests"])) - 1


def test_an_open_address_says_what_that_means_and_ctrl_c_stops_it():
    with serving(*USUAL, "--host", "0.0.0.0", GAPCAM_TOKEN="s3cret") as served:
        assert served.address.startswith("http://127.0.0.1:")
        said = "\n".join(served.said)
        assert "Requests to /v1/ need the token; the page asks for it." in said
        assert "0.0.0.0 is not this machine alone: anyone with the token who reaches this" in said
        assert "s3cret" not in said
        refused(post(served.address), 401, "token")
        answer = httpx.get(
            f"{served.address}/v1/model",
            headers={"Authorization": "Bearer s3cret", "Host": "any.example"},
            trust_env=False,
        )
        assert answer.status_code == 200
        assert served.stop(signal.SIGINT) == 0


def run(*options: str) -> tuple[int, str]:
    shown = CliRunner().invoke(app, ["serve", *options])
    return shown.exit_code, shown.stderr


def test_wrong_usage_is_said_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = f"127.0.0.1 port {port} is in use; choose another --port, or 0 for a free one"
        assert run("--port", str(port)) == (2, f"gapcam: {words}\n")
    code, said = run("--host", "no-such-host.invalid")
    assert code == 2
    assert said.startswith("gapcam: --host no-such-host.invalid: not an address of this machine")
    code, said = run("--host", "192.0.2.1", "--port", "0")
    assert code == 2
    assert "192.0.2.1 port 0 cannot be listened on" in said
    code, said = run("--cors", "a.example")
    assert code == 2
    assert "origin 'a.example': expected scheme and host of a web page" in said


@pytest.mark.parametrize(
    ("host", "address", "hosts"),
    [
        ("127.0.0.1", "http://127.0.0.1:80/", {"localhost", "127.0.0.1", "::1", "x"}),
        ("127.0.0.9", "http://127.0.0.9:80/", {"localhost", "127.0.0.1", "::1", "127.0.0.9", "x"}),
        ("::1", "http://[::1]:80/", {"localhost", "127.0.0.1", "::1", "x"}),
        ("::", "http://[::1]:80/", {"localhost", "127.0.0.1", "::1", "::", "x"}),
        ("0.0.0.0", "http://127.0.0.1:80/", {"localhost", "127.0.0.1", "::1", "0.0.0.0", "x"}),
    ],
)
def test_where_a_browser_finds_it_and_by_which_names(host, address, hosts):
    assert address_of(host, 80) == address
    assert set(hosts_of(host, ("x",))) == hosts
    assert (hosts_of(host, ()) == ()) == (host in ("::", "0.0.0.0"))


def test_the_command_line_has_the_defaults_of_the_library():
    usual = ServeOptions()
    given = {p.name: p.default for p in typer.main.get_command(app).commands["serve"].params}
    for name in ("queue", "batch", "max_bytes", "max_pixels", "max_pictures"):
        assert given[name] == getattr(usual, name)
    assert given["deadline"] == usual.deadline_s == usual.receive_s


def test_only_serving_imports_what_serves():
    code = (
        "import sys, gapcam.cli\n"
        "assert not {'fastapi', 'uvicorn', 'starlette', 'prometheus_client'} & set(sys.modules)\n"
        "sys.modules['fastapi'] = None\n"
        "from gapcam.cli import main\n"
        "sys.argv = ['gapcam', 'serve']\n"
        "main()"
    )
    failed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 2
    assert failed.stderr == (
        "gapcam: fastapi is not installed, and serving needs it. Run: pip install 'gapcam[serve]'\n"
    )


def test_the_example_of_the_documentation_runs(served, tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "serve.md").read_text("utf-8")
    (code,) = re.findall(r"```py\n(.*?)```", page, re.S)
    (tmp_path / "cat.jpg").write_bytes(CAT)
    code = code.replace("http://127.0.0.1:8000", served.address)
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    for line in shown.stdout.splitlines():
        total, logit = re.search(r"bias = (\S+), logit = (\S+)", line).groups()
        assert float(total) == pytest.approx(float(logit), abs=0.02)
    assert shown.stdout.startswith("Egyptian cat ")


@pytest.mark.parametrize("row", [n for n in STATUSES if n != 500])
def test_the_documentation_lists_every_refusal(row):
    page = (Path(__file__).parent.parent / "docs" / "serve.md").read_text("utf-8")
    table = page.partition("## What it refuses")[2].partition("## How it runs")[0]
    assert str(row) in table
    assert f"`{STATUSES[row][0]}`" in table
