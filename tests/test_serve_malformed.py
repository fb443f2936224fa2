"""A thousand malformed uploads over a socket: each is refused or answered, and the server lives."""

from __future__ import annotations

import random
import struct
import zlib
from collections import Counter

import httpx
import pytest
from PIL import Image

import gapcam
from picture_files import encode, png_file, smooth_pixels
from serving import form, serving

COUNT = 1000
BLANK = zlib.compress(bytes(2**20))
CLIENT_ERRORS = {400, 411, 413, 415, 422}
SAMPLES = [path.read_bytes() for path in gapcam.sample_pictures()]
SMALL = [
    encode(Image.fromarray(smooth_pixels(48, 64, seed)), kind)
    for seed, kind in enumerate(("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"))
]
TYPES = ("text/plain", "application/json", "image/", "multipart/form-data", "", "a/b/c", "image")


def flipped(chance: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 8, 64))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def bomb(chance: random.Random) -> bytes:
    """A small file that says that it is huge, or is."""
    side = chance.choice((8_000, 60_000, 2**31 - 1))
    if chance.random() < 0.3:
        return (
            b"BM" + struct.pack("<IHHIIiiHHI", 54, 0, 0, 54, 40, side, side, 1, 24, 0) + bytes(20)
        )
    if chance.random() < 0.3:
        return b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + bytes(20)
    return png_file(side, side, 8, BLANK)


def broken_form(chance: random.Random) -> tuple[bytes, str]:
    request = httpx.Request("POST", "http://x", files=form(("a.jpg", chance.choice(SMALL))))
    body, kind = request.read(), request.headers["content-type"]
    how = chance.randrange(4)
    if how == 0:
        return body[: chance.randrange(len(body))], kind
    if how == 1:
        return body, kind.partition(";")[0] + chance.choice(("", "; boundary=", "; boundary=x"))
    if how == 2:
        return flipped(chance, body[:200]) + body[200:], kind
    return bytes(chance.randrange(256) for _ in range(300)), kind


def upload(chance: random.Random) -> tuple[bytes, str]:
    """A body and its type, hardly ever right."""
    picture = chance.choice(SMALL)
    kind = "image/jpeg"
    how = chance.randrange(7)
    if how == 0:
        return flipped(chance, picture), kind
    if how == 1:
        return picture[: chance.randrange(len(picture))], kind
    if how == 2:
        return bytes(chance.choice((0, 1, 10, 5000))), kind
    if how == 3:
        return chance.randbytes(chance.randrange(1, 3000)), kind
    if how == 4:
        return bomb(chance), kind
    if how == 5:
        return picture[:3000], chance.choice(TYPES)
    return broken_form(chance)


def test_a_thousand_malformed_uploads(quick):
    chance = random.Random(7)
    fast = gapcam.Localizer(quick.engine, quick.card, gapcam.RECIPES["fast"])
    statuses = Counter()
    with (
        serving("--recipe", "fast", "--max-pixels", "4000000") as served,
        httpx.Client(base_url=served.address, timeout=30, trust_env=False) as http,
    ):
        for number in range(COUNT):
            body, kind = upload(chance)
            headers = {"Content-Type": kind} if kind else {}
            answer = http.post("/v1/localize?top=1", content=body, headers=headers)
            statuses[answer.status_code] += 1
            if answer.status_code == 200:  # flipped bits that still make a picture
                assert answer.json()["results"][0]["width"] > 0
            else:
                assert answer.status_code in CLIENT_ERRORS, (number, answer.text)
                assert set(answer.json()["error"]) == {"kind", "message"}
                assert answer.json()["error"]["message"]
            if number == COUNT // 4:
                early = served.resident_mb()
        for data in SAMPLES:
            (shown,) = http.post("/v1/localize?top=1", files=form(("a", data))).json()["results"]
            best = fast(data, top=1).detections[0]
            assert shown["detections"][0]["class_id"] == best.class_id
            assert shown["detections"][0]["box"] == pytest.approx(best.box_xyxy, abs=0.02)
        assert served.resident_mb() < early + 40
        assert served.stop() == 0
        assert len(served.said) == 3  # nothing was logged but what it says of itself
    assert sum(statuses[status] for status in CLIENT_ERRORS) > COUNT * 0.7
    assert set(statuses) >= {200, 400, 415, 422}
