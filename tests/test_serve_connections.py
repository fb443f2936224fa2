"""Connections that are slow, silent or too many, on real sockets."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

import gapcam
from gapcam.serve import ServeOptions, create_app
from serving import raw, threaded

HEAD = b"POST /v1/localize HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def port(quick):
    options = ServeOptions(receive_s=0.5, max_connections=8)
    with threaded(create_app(quick, options), options) as port:
        yield port


def test_slow_senders_are_told_and_dropped(port):
    """A body that drips, a head that never ends, a connection that says nothing: all at once."""
    drip = (HEAD + b"Content-Length: 5000\r\n\r\n", *[b"x"] * 8)
    unfinished = (b"GET / HTTP/1.1\r\nHost: localhost\r\n", *[b"X: y\r\n"] * 8)
    began = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(raw, port, *parts, pause=0.1) for parts in (drip, unfinished, ())]
        assert raw(port, HEALTH).startswith(b"HTTP/1.1 200 ")
        slow, open_ended, silent = (job.result() for job in jobs)
    assert time.monotonic() - began < 10
    assert slow.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 0.5 s" in slow
    assert b"connection: close" in slow
    assert open_ended == silent == b""


def test_a_body_that_goes_on_after_its_refusal_is_not_read_for_ever(port):
    began = time.monotonic()
    endless = [HEAD.replace(b"png", b"") + b"Content-Length: 99999\r\n\r\n", *[b"x"] * 30]
    answer = raw(port, *endless, pause=0.1)
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert time.monotonic() - began < 10


def test_too_many_connections_are_told(port):
    lines = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    time.sleep(0.1)
    answer = raw(port)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1" in answer
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert error == {"kind": "busy", "message": "too many connections; try again in 1 s"}
    for line in lines:
        line.close()
    time.sleep(0.1)
    assert raw(port, HEALTH).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("asked", [1, 2])
def test_a_reader_that_stops_reading_is_dropped(port, asked):
    """The answer is larger than what the system buffers; a second one may wait behind it."""
    cat = next(p for p in gapcam.sample_pictures() if p.name == "cat.jpg").read_bytes()
    part = (
        b'--b\r\nContent-Disposition: form-data; name="pictures"; filename="a"\r\n\r\n%s\r\n' % cat
    )
    body = part * 16 + b"--b--\r\n"
    head = HEAD.replace(b"image/png", b"multipart/form-data; boundary=b")
    head = head.replace(b"localize", b"localize?maps=all")
    got = b""
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        line.settimeout(20)
        line.connect(("127.0.0.1", port))
        line.sendall((head + b"Content-Length: %d\r\n\r\n" % len(body) + body) * asked)
        got = line.recv(2000)
        time.sleep(1.5)
        with suppress(ConnectionError):
            while more := line.recv(1 << 18):
                got += more
    start, _, answer = got.partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 200 ")
    promised = int(start.split(b"content-length: ")[1].split()[0])
    assert promised > 3_000_000
    assert len(answer) < promised
