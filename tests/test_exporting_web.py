"""`gapcam export --web`: a whole folder that a browser can use alone, or nothing."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

import gapcam
from gapcam.cli import app
from gapcam.exporting_web import POLICY, export_web, with_policy
from gapcam.page import page_files
from gapcam.types import ArgumentError, OutputError, Preprocessing
from gapcam.web_runtime import VERSION
from head_nets import CLASSES, NETS, SIDE, old_onnx
from web_site import WASM, small_package

OPTIONS = {
    "labels": [f"class {i}" for i in range(CLASSES)],
    "preprocessing": Preprocessing((SIDE, SIDE), (120.0,) * 3, (60.0,) * 3),
}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return small_package(tmp_path_factory.mktemp("npm") / "onnxruntime-web")


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A small classifier's file of another make."""
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    path.write_bytes(old_onnx(NETS["gap_linear"]()))
    return path


@pytest.fixture(scope="module")
def exported(net, package, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sites") / "new" / "site"
    return export_web(net, folder, runtime=package, **OPTIONS)


def files_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def left_in(folder):
    return [path.name for path in folder.iterdir()]


def settings_of(folder):
    return json.loads((folder / "page.json").read_text("utf-8"))


# --- the folder -------------------------------------------------------------------------------


def test_the_folder_holds_the_page_the_model_and_the_runtime(exported, package):
    folder = exported.folder
    pages = [path.name for path in page_files()]
    samples = [f"samples/{path.name}" for path in gapcam.sample_pictures()]
    ort = ["ort/LICENSE.txt", "ort/ort-wasm-simd-threaded.wasm", "ort/ort.wasm.bundle.min.js"]
    assert files_in(folder) == sorted([*pages, "page.json", "model.onnx", *samples, *ort])
    assert left_in(folder.parent) == ["site"]
    assert {"index.html", "page.css", "app.js", "browser_source.js"} <= set(pages)
    for path in page_files():
        if path.name != "index.html":
            assert (folder / path.name).read_bytes() == path.read_bytes()
    assert (folder / "ort/ort-wasm-simd-threaded.wasm").read_bytes() == WASM
    assert "Copyright (c) Microsoft" in (folder / "ort/LICENSE.txt").read_text()
    assert exported.size_bytes == sum((folder / name).stat().st_size for name in files_in(folder))


def test_the_settings_say_what_the_page_needs(exported):
    settings = settings_of(exported.folder)
    found = gapcam.load(exported.folder / "model.onnx")
    assert settings["source"] == "browser"
    assert settings["files"] == files_in(exported.folder)
    for name in ("model", "runtime", "wasm"):
        assert settings[name] in settings["files"]  # beside the page, whatever path it is under
    assert [sample["url"] in settings["files"] for sample in settings["samples"]] == [True] * 4
    assert settings["model_sha256"] == found.engine.fingerprint
    model_bytes = (exported.folder / "model.onnx").stat().st_size
    assert settings["bytes"] == model_bytes + len(WASM)
    assert settings["recipe"] is None
    assert settings["proof"]["exact"]
    assert settings["proof"]["proof"] == str(exported.exported.proof)
    assert settings["proof"]["largest_gap"] == exported.exported.proof.largest_gap
    assert settings["runtime_version"] == "9.9.9"


def test_the_policy_comes_before_all_that_it_rules(exported):
    html = (exported.folder / "index.html").read_text("utf-8")
    assert html.count("Content-Security-Policy") == 1
    assert html.index(POLICY) < min(html.index(tag) for tag in ("<script", "<link", "<title"))
    assert "connect-src 'self';" in POLICY
    assert "script-src 'self' 'wasm-unsafe-eval';" in POLICY
    assert "<script>" not in html
    assert "style=" not in html


@pytest.mark.parametrize("html", ["<p>", '<meta charset="utf-8">' * 2])
def test_a_page_without_a_place_for_the_policy_is_not_written(html):
    with pytest.raises(OutputError, match=r"index.html: expected <meta charset=.*, found it \d ti"):
        with_policy(html)


@pytest.mark.parametrize("path", page_files(), ids=lambda path: path.name)
def test_the_page_names_its_files_relatively_and_nothing_outside(path):
    text = path.read_text("utf-8")
    outside = {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert set(re.findall(r"https?://[^\s\"'`)]+", text)) <= outside
    for name in re.findall(r"(?:from|import\() ?\"([^\"]+)\"|(?:src|href)=\"([^\"]+)\"", text):
        target = name[0] or name[1]
        if not target.startswith(("data:", "#")):
            assert target.startswith("./")
            assert (path.parent / target).is_file()


def test_the_report_says_how_to_look_at_it(exported):
    first, *middle, look, last = str(exported).splitlines()
    size = f"{exported.size_bytes / 1e6:.1f} MB"
    assert first == (
        f"{exported.folder}: {size}: the page, model.onnx, onnxruntime-web 9.9.9 (gapcam is "
        f"tested with {VERSION}); recipe default."
    )
    assert middle[0].startswith(f"{exported.folder / 'model.onnx'}: ")
    assert "class maps are exact" in middle[1]
    serve = "python -m http.server --bind 127.0.0.1 --directory"
    assert look == f"Look at it: {serve} {exported.folder} 8000"
    assert last == "and open http://127.0.0.1:8000; any server of static files will do."


def test_a_second_export_replaces_the_first_and_only_what_the_first_wrote(net, package, tmp_path):
    site = tmp_path / "site"
    export_web(net, site, runtime=package, **OPTIONS)
    (site / "app.js").unlink()
    # From its own model file, with another recipe.
    report = export_web(site / "model.onnx", site, runtime=package, recipe="paper")
    assert report.recipe == "paper"
    assert settings_of(site)["recipe"]["name"] == "paper"
    assert settings_of(site)["recipe"]["input_size_hw"] == [SIDE, SIDE]
    assert files_in(site) == settings_of(site)["files"]
    assert left_in(tmp_path) == ["site"]
    (site / "CNAME").write_text("example.org")
    with pytest.raises(ArgumentError, match=r"site: holds CNAME, which gapcam export --web did no"):
        export_web(site / "model.onnx", site, runtime=package)
    assert settings_of(site)["recipe"]["name"] == "paper"


def test_an_empty_folder_is_used(net, package, tmp_path):
    (tmp_path / "site").mkdir()
    report = export_web(net, tmp_path / "site", runtime=package, **OPTIONS)
    assert files_in(report.folder) == settings_of(report.folder)["files"]


@pytest.mark.parametrize(
    "content",
    [None, "{", "[]", '{"source": "server"}', '{"source": "browser", "made_by": "me"}'],
)
def test_a_folder_of_others_is_left_alone(net, package, tmp_path, content):
    (tmp_path / "thesis.tex").write_text("years of work")
    if content is not None:
        (tmp_path / "page.json").write_text(content)
    before = files_in(tmp_path)
    with pytest.raises(ArgumentError, match="holds files and was not written by gapcam export --w"):
        export_web(net, tmp_path, runtime=package, **OPTIONS)
    assert files_in(tmp_path) == before


def test_a_file_or_the_working_folder_is_no_target(net, package, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArgumentError, match="file: expected the name of a folder to write, it is "):
        export_web(net, tmp_path / "file", runtime=package, **OPTIONS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match="is the working folder: name a folder to write in it"):
        export_web(net, ".", runtime=package, **OPTIONS)
    with pytest.raises(OutputError, match="cannot be written"):
        export_web(net, "file/site", runtime=package, **OPTIONS)


def test_what_fails_leaves_nothing_and_an_older_folder_as_it_was(net, package, tmp_path):
    site = tmp_path / "site"
    with pytest.raises(ArgumentError, match="recipe 'worst' is unknown"):
        export_web(net, site, runtime=package, recipe="worst", **OPTIONS)
    with pytest.raises(ArgumentError, match="takes pictures of 64 x 64 only, not 128 x 128"):
        export_web(net, site, runtime=package, recipe="best", **OPTIONS)
    with pytest.raises(ArgumentError, match="unknown option 'labelz'"):
        export_web(net, site, runtime=package, labelz=[])
    assert left_in(tmp_path) == []
    export_web(net, site, runtime=package, **OPTIONS)
    before = {name: (site / name).stat().st_ino for name in files_in(site)}
    with pytest.raises(ArgumentError, match="recipe 'worst' is unknown"):
        export_web(net, site, runtime=package, recipe="worst", **OPTIONS)
    with pytest.raises(ArgumentError, match="takes pictures of 64 x 64 only, not 128 x 128"):
        export_web(net, site, runtime=package, recipe="best", **OPTIONS)
    assert {name: (site / name).stat().st_ino for name in files_in(site)} == before
    assert left_in(tmp_path) == ["site"]


def test_a_link_to_a_folder_stays_one_and_its_target_is_replaced(net, package, tmp_path):
    export_web(net, tmp_path / "real", runtime=package, **OPTIONS)
    (tmp_path / "link").symlink_to("real")
    export_web(net, tmp_path / "link", runtime=package, recipe="paper", **OPTIONS)
    assert (tmp_path / "link").is_symlink()
    assert settings_of(tmp_path / "real")["recipe"]["name"] == "paper"


# --- the command ------------------------------------------------------------------------------


def call(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_the_command_writes_the_folder(exported, package, tmp_path):
    model, site = exported.folder / "model.onnx", tmp_path / "a site"
    done = call(model, "--web", site, "--runtime", package, "--recipe", "paper")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "; recipe paper.\n" in done.stdout
    assert f"--directory '{site}' 8000\n" in done.stdout
    assert files_in(site) == settings_of(site)["files"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected OUT.onnx, or --web DIR for a page in a folder, got neither"),
        (["out.onnx", "--web", "site"], "give OUT.onnx or --web, not both: site/model.onnx is the"),
        (["out.onnx", "--runtime", "x"], "--runtime x: goes with --web DIR only"),
        (["out.onnx", "--recipe", "paper"], "--recipe paper: goes with --web DIR only"),
        (["--web", "site", "--runtime", "gone.tgz"], "gone.tgz: cannot be read"),
    ],
)
def test_wrong_usage_is_one_line(net, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = call(net, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"gapcam: {message}")
    assert done.stderr.count("\n") == 1
    assert left_in(tmp_path) == []
