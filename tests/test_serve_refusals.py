"""Everything that a request can be refused with: status, kind, and words that say what to do."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image

import gapcam
from gapcam.serve import ServeOptions, create_app
from gapcam.serve.errors import RequestError
from gapcam.serve.guard import HEADERS, host_of
from gapcam.serve.holding import Held, Share
from picture_files import encode, png_file
from serving import ask, form, post_picture, refused

CAT = next(p for p in gapcam.sample_pictures() if p.name == "cat.jpg").read_bytes()
BOUNDED = ServeOptions(
    max_bytes=80_000, max_request_bytes=100_000, max_pixels=200_000, max_pictures=2, max_classes=3
)


@pytest.fixture(scope="module")
def app(quick):
    return create_app(quick, BOUNDED)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?top=0", "top: expected a whole number of 1 to 3, got '0'"),
        ("?top=4", "top: expected a whole number of 1 to 3, got '4'"),
        ("?top=1e3", "top: expected a whole number of 1 to 3, got '1e3'"),
        ("?top=", "top: expected a whole number of 1 to 3, got ''"),
        ("?top=1&top=2", "parameter 'top' is given twice: give it once"),
        ("?top=1&class=tabby", "give either classes or top, not both"),
        ("?class=tabbi", "class 'tabbi' is unknown to efficientnet-lite0; did you mean 'tabby'"),
        ("?class=1000", "class id 1000: expected 0 to 999"),
        ("?class=-1", "class '-1' is unknown"),
        ("?class=", "class '' is unknown"),
        ("?class=1&class=2&class=3&class=4", "class: expected 1 to 3 names or ids, got 4 of them"),
        ("?class=" + "9" * 5000, "is unknown"),
        ("?maps=some", "maps: expected none, found or all, got 'some'"),
        ("?maps=found&maps=all", "parameter 'maps' is given twice: give it once"),
        ("?tops=3", "parameter 'tops' is unknown: expected top, class, maps"),
    ],
)
def test_wrong_parameters(app, query, words):
    assert words in refused(post_picture(app, CAT, query), 422, "argument")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"hello", "picture: expected a picture (JPEG, PNG"),
        (CAT[:2000], "picture: expected a whole picture, but it is broken or cut short"),
        (encode(Image.new("RGB", (500, 401)), "PNG"), "expected at most 200,000 pixels, it is 500"),
        (png_file(60_000, 60_000, 8, b""), "picture: too many pixels"),
        (encode(Image.new("F", (9, 9)), "TIFF"), "32-bit floats"),
    ],
)
def test_a_picture_that_cannot_be_read(app, data, words):
    assert words in refused(post_picture(app, data), 422, "picture")
    alone = ask(app, "POST", "/v1/localize", files=form(("a.png", data)))
    assert refused(alone, 422, "picture").startswith("a.png: ")


@pytest.mark.parametrize(
    "given",
    ["text/plain", "application/json", "image/", "image", "video/mp4", "", ";", "multipart/mixed"],
)
def test_another_type_of_body(app, given):
    words = refused(post_picture(app, CAT, headers={"Content-Type": given}), 415, "type")
    assert words.startswith("expected a picture (image/... or application/octet-stream) or multi")
    assert words.endswith(f"got {given!r}" if given else "got no Content-Type")


@pytest.mark.parametrize("given", ["image/jpeg", "IMAGE/anything; q=1", "application/octet-stream"])
def test_any_type_of_picture_is_looked_at(app, given):
    assert post_picture(app, CAT, "?top=1", headers={"Content-Type": given}).status_code == 200


def test_a_packed_body(app):
    words = refused(post_picture(app, CAT, headers={"Content-Encoding": "gzip"}), 415, "type")
    assert words == "Content-Encoding 'gzip': send the body as it is"


def test_an_empty_body(app):
    assert refused(post_picture(app, b""), 400, "request").startswith("the body is empty; expected")


async def drops(count: int, size: int):
    for _ in range(count):
        yield b"x" * size


@pytest.mark.parametrize("content", [b"x" * 80_001, drops(9, 9000)], ids=["said", "unsaid"])
def test_too_many_bytes(app, content):
    words = refused(post_picture(app, content), 413, "size")
    assert words == "the body is larger than 80,000 bytes; send a smaller picture, or fewer at once"


def test_a_form_with_too_many_bytes(app):
    large = form(("a", b"x" * 60_000), ("b", b"x" * 60_000))
    words = refused(ask(app, "POST", "/v1/localize", files=large), 413, "size")
    assert "larger than 100,000 bytes" in words
    one = form(("a", b"x" * 90_000))
    words = refused(ask(app, "POST", "/v1/localize", files=one), 413, "size")
    assert "larger than 80,000 bytes" in words


def test_a_length_that_is_none(app):
    words = refused(post_picture(app, CAT, headers={"Content-Length": "many"}), 400, "request")
    assert words == "Content-Length: expected a number of bytes, got 'many'"
    refused(post_picture(app, CAT, headers={"Content-Length": "9" * 4000}), 413, "size")


def test_a_form_with_too_many_pictures(app):
    files = form(*[(f"{i}.jpg", b"x") for i in range(3)])
    words = refused(ask(app, "POST", "/v1/localize", files=files), 413, "size")
    assert words == "the form has more than 2 pictures; send fewer at once"


def test_a_picture_of_several_that_is_too_large_fails_alone(app):
    files = form(("small.jpg", CAT[:50]), ("large.jpg", b"\xff\xd8" + b"x" * 80_000))
    small, large = ask(app, "POST", "/v1/localize", files=files).json()["results"]
    assert "broken" in small["error"]["message"]
    assert large["error"]["message"] == (
        "large.jpg: expected at most 80,000 bytes, it has 80,002; save it smaller"
    )


BOUNDARY = {"Content-Type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="pictures"; filename="a"\r\n\r\nxyz\r\n'


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (PART, {"Content-Type": "multipart/form-data"}, "the form is broken: Missing boundary"),
        (b"--c--\r\n", BOUNDARY, "the form is broken: "),
        (PART, BOUNDARY, "the form is cut short: its closing boundary is missing"),
        (PART[:-9], BOUNDARY, "the form is cut short"),
        (b"--b--\r\n", BOUNDARY, "the form has no files; expected a picture"),
        (PART.replace(b"pictures", b"other") + b"--b--", BOUNDARY, "form field 'other': expected"),
        (
            PART.replace(b'; filename="a"', b"") + b"--b--",
            BOUNDARY,
            "form field 'pictures': expected files",
        ),
        (PART.replace(b'name="pictures"; ', b"") + b"--b--", BOUNDARY, 'header field "name" must'),
        (b"--b\r\n" + b"X: y\r\n" * 99 + b"\r\nz\r\n--b--", BOUNDARY, "the form is broken"),
    ],
)
def test_broken_forms(app, body, headers, words):
    assert words in refused(post_picture(app, body, headers=headers), 400, "request")


def test_pictures_without_a_file_name_are_numbered(app):
    part = PART.replace(b'filename="a"', b'filename=""')
    answer = post_picture(app, part + part + b"--b--\r\n", headers=BOUNDARY)
    assert [r["name"] for r in answer.json()["results"]] == ["picture 1", "picture 2"]


def test_other_addresses_and_methods(app):
    assert (
        refused(ask(app, "GET", "/v2/localize"), 404, "address") == "there is no /v2/localize here"
    )
    missing = refused(ask(app, "GET", "/samples/dog.jpg"), 404, "address")
    assert missing == "there is no /samples/dog.jpg here"
    for method, path, allowed in [
        ("GET", "/v1/localize", "POST"),
        ("PUT", "/v1/localize", "POST"),
        ("POST", "/v1/model", "GET"),
        ("DELETE", "/healthz", "GET"),
        ("OPTIONS", "/v1/localize", "POST"),
        ("POST", "/", "GET"),
        ("PATCH", "/page.json", "GET"),
    ]:
        answer = ask(app, method, path)
        words = refused(answer, 405, "method")
        assert words == f"{path} does not answer {method}: expected {allowed}"
        assert answer.headers["allow"] == allowed


def test_head_is_get_without_a_body(app):
    for path in ("/v1/model", "/healthz", "/page.json", "/samples/cat.jpg", "/nothing"):
        full, head = ask(app, "GET", path), ask(app, "HEAD", path)
        assert head.status_code == full.status_code
        assert head.headers == full.headers
        assert head.content == b""
    assert ask(app, "HEAD", "/v1/localize").status_code == 405


def test_every_answer_carries_the_headers(app):
    for path in ("/page.json", "/v1/model", "/maps.js", "/nothing", "/metrics", "/v1/localize"):
        answer = ask(app, "GET", path)
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
        assert "access-control-allow-origin" not in answer.headers
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_a_token(quick):
    app = create_app(quick, ServeOptions(token="s3cret"))
    for given in (None, "Bearer other", "Bearer", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret"):
        headers = {} if given is None else {"Authorization": given}
        for answer in (
            ask(app, "GET", "/v1/model", headers=headers),
            post_picture(app, CAT, "?nonsense=1", headers=headers),
        ):
            words = refused(answer, 401, "token")
            assert words.startswith("expected the header Authorization: Bearer TOKEN, got")
            assert answer.headers["www-authenticate"] == "Bearer"
    for given in ("Bearer s3cret", "bearer s3cret"):
        headers = {"Authorization": given}
        assert ask(app, "GET", "/v1/model", headers=headers).status_code == 200
        assert post_picture(app, CAT, "?top=1", headers=headers).status_code == 200
    for path in ("/healthz", "/metrics", "/page.json", "/openapi.json"):
        assert ask(app, "GET", path).status_code == 200
    shown = ask(app, "GET", "/openapi.json").json()
    assert shown["paths"]["/v1/model"]["get"]["security"] == [{"HTTPBearer": []}]
    assert shown["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert "s3cret" not in repr(app.state.service.options)


def test_mounted_below_another_application(quick):
    outer, inner = FastAPI(), create_app(quick, ServeOptions(token="s3cret"))
    outer.mount("/look", inner)
    refused(ask(outer, "GET", "/look/v1/model"), 401, "token")
    headers = {"Authorization": "Bearer s3cret"}
    assert ask(outer, "GET", "/look/v1/model", headers=headers).status_code == 200
    assert ask(outer, "GET", "/look/page.json").status_code == 200
    assert post_picture(inner, CAT, "?top=1", headers=headers).status_code == 200
    assert inner.state.service.close(20)
    refused(ask(outer, "GET", "/look/healthz"), 503, "stopping")
    answer = post_picture(inner, CAT, headers=headers)
    assert refused(answer, 503, "stopping") == "the server is stopping; try another, or later"
    assert int(answer.headers["retry-after"]) > 0


def test_web_pages_of_other_hosts(quick):
    app = create_app(quick, ServeOptions(origins=("https://a.example",), token="s3cret"))
    asked = {
        "Origin": "https://a.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    before = ask(app, "OPTIONS", "/v1/localize", headers=asked)
    assert before.status_code == 200
    assert before.headers["access-control-allow-origin"] == "https://a.example"
    answer = ask(app, "GET", "/v1/model", headers={"Origin": "https://a.example"})
    refused(answer, 401, "token")
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-credentials" not in answer.headers
    other = ask(app, "OPTIONS", "/v1/localize", headers=asked | {"Origin": "https://b.example"})
    words = refused(other, 400, "origin")
    assert "Origin 'https://b.example'" in words
    assert "--cors ORIGIN" in words
    assert "access-control-allow-origin" not in other.headers
    page = ask(app, "GET", "/v1/model", headers={"Origin": "https://b.example"})
    assert "access-control-allow-origin" not in page.headers


def test_names_that_lead_here_but_are_not_ours(quick):
    app = create_app(quick, ServeOptions(hosts=("localhost", "127.0.0.1", "::1", "Box.example")))
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "box.example"):
        assert ask(app, "GET", "/healthz", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "localhost.evil.example", "", "127.0.0.2", "[::2]:8000"):
        words = refused(ask(app, "GET", "/healthz", headers={"Host": host}), 421, "host")
        assert words.startswith(f"Host {host!r}: this server answers for 127.0.0.1, ::1, box.ex")
    assert [host_of(h) for h in ("a:1", "[::1]", "[::1]:1", "")] == ["a", "::1", "::1", ""]


def busy(app, files, seconds: float) -> list[httpx.Response]:
    """Requests at once, each with these files."""

    async def asked():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            jobs = [client.post("/v1/localize?top=1", files=form(*f)) for f in files]
            return await asyncio.wait_for(asyncio.gather(*jobs), seconds)

    return asyncio.run(asked())


def test_a_full_queue(quick):
    app = create_app(quick, ServeOptions(queue=4, workers=1, batch=1))
    answers = busy(app, [[("a", CAT)]] * 12, 30)
    by_status = {s: [a for a in answers if a.status_code == s] for s in (200, 429)}
    assert len(by_status[200]) + len(by_status[429]) == 12
    assert len(by_status[200]) >= 4
    assert by_status[429]
    for answer in by_status[429]:
        words = refused(answer, 429, "busy")
        seconds = answer.headers["retry-after"]
        assert words == f"as many pictures wait as the server takes on; try again in {seconds} s"
    answers = busy(app, [[("a", CAT)] * 5], 30)
    refused(answers[0], 429, "busy")  # more at once than ever fit
    assert post_picture(app, CAT).status_code == 200


def test_more_bytes_than_the_server_holds(quick):
    size = len(CAT)
    bounds = {"max_bytes": size, "max_request_bytes": size + 900, "max_held_bytes": 2 * size + 900}
    app = create_app(quick, ServeOptions(**bounds, workers=1))
    answers = busy(app, [[("a", CAT)]] * 6, 30)
    assert {answer.status_code for answer in answers} == {200, 429}
    late = next(answer for answer in answers if answer.status_code == 429)
    assert "holds as many bytes of pictures as it takes on" in refused(late, 429, "busy")
    assert late.headers["retry-after"] == "1"
    assert post_picture(app, CAT).status_code == 200  # all of it was given back


def test_what_is_held_is_given_back_once_nothing_needs_it():
    held = Held(10)
    share = Share(held)
    share.take(6)
    with pytest.raises(RequestError, match="holds as many bytes"):
        Share(held).take(5)
    from concurrent.futures import Future

    futures = [Future(), Future()]
    share.give_after(futures)
    futures[0].set_result(None)
    assert held.used == 6
    futures[1].cancel()
    assert held.used == 0
    empty = Share(held)
    empty.take(3)
    empty.give_after([])
    assert held.used == 0


def test_an_answer_that_comes_too_late(quick):
    app = create_app(quick, ServeOptions(deadline_s=0.05, workers=1, batch=1))
    answers = busy(app, [[("a", CAT)] * 8] * 2, 30)
    for answer in answers:
        assert refused(answer, 503, "late") == "no answer within 0.05 s; try again later"
        assert answer.headers["retry-after"] == "1"
    ends = time.monotonic() + 20
    while app.state.service._held.used or app.state.service._batcher.depth:
        assert time.monotonic() < ends
        time.sleep(0.01)
    run = app.state.service.metrics.registry.get_sample_value
    done = run("gapcam_pictures_total", {"outcome": "localized"})
    assert done is None or done < 16  # what nobody waits for is not run


def test_a_sender_that_is_too_slow(quick):
    app = create_app(quick, ServeOptions(receive_s=0.05))

    async def slowly():
        yield CAT[:100]
        await asyncio.sleep(5)
        yield CAT[100:]

    began = time.monotonic()
    answer = post_picture(app, slowly())
    assert time.monotonic() - began < 3
    words = refused(answer, 408, "slow")
    assert words == "the request did not arrive within 0.05 s; send it faster, or smaller pictures"
    assert app.state.service._held.used == 0


def test_a_fault_is_told_without_its_inside_and_logged(quick, caplog):
    app = create_app(quick)

    @app.get("/v1/fault/here")
    def fault():
        raise ValueError("the inside")

    words = refused(ask(app, "GET", "/v1/fault/here"), 500, "server")
    assert words == "something unforeseen happened; the server's log says what"
    assert "the inside" in caplog.text
    assert "GET /v1/fault/here" in caplog.text


def test_many_requests_leave_no_thread_behind(quick):
    app = create_app(quick, ServeOptions(workers=1))
    post_picture(app, CAT)
    before = threading.active_count()
    for _ in range(5):
        post_picture(app, CAT)
    assert threading.active_count() <= before
    assert app.state.service.close(20)
