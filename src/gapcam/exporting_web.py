"""`gapcam export --web`: a static folder that shows what is where, with no server behind it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapcam.exporting import ExportReport, export
from gapcam.loading import load
from gapcam.outputs import output_errors
from gapcam.page import page_files
from gapcam.recipes import recipe_named
from gapcam.samples import sample_pictures
from gapcam.types import ArgumentError, OutputError
from gapcam.web_runtime import LICENCE, WebRuntime, web_runtime

if TYPE_CHECKING:
    from torch import nn

    from gapcam.loading import Tell
    from gapcam.types import Recipe

SETTINGS, INDEX, MODEL = "page.json", "index.html", "model.onnx"
RUNTIME, WASM = "ort/ort.wasm.bundle.min.js", "ort/ort-wasm-simd-threaded.wasm"
"""The script's ending is one that every server knows the type of, unlike its own, `.mjs`."""

POLICY_FOLLOWS = '<meta charset="utf-8">'
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "worker-src 'self' blob:",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
"""What a browser enforces: the page reaches its own server only, so the picture goes nowhere."""


@dataclass(frozen=True, slots=True)
class WebReport:
    """What was written.

    Attributes:
        folder: The static folder.
        exported: How its model file was checked.
        recipe: The name of the recipe that the page begins with.
        runtime: The onnxruntime-web in it, in words.
        size_bytes: Of all files.
    """

    folder: Path
    exported: ExportReport
    recipe: str
    runtime: str
    size_bytes: int

    def __str__(self) -> str:
        parts = f"the page, {MODEL}, {self.runtime}"
        serve = "python -m http.server --bind 127.0.0.1 --directory"
        return "\n".join(
            (
                f"{self.folder}: {self.size_bytes / 1e6:.1f} MB: {parts}; recipe {self.recipe}.",
                str(self.exported),
                f"Look at it: {serve} {shlex.quote(str(self.folder))} 8000",
                "and open http://127.0.0.1:8000; any server of static files will do.",
            )
        )


def export_web(
    model: str | Path | nn.Module | None,
    folder: str | Path,
    *,
    runtime: str | Path | None = None,
    recipe: str | Recipe | None = None,
    int8: Sequence[str | Path] | None = None,
    tell: Tell | None = None,
    **options: Any,
) -> WebReport:
    """Write a folder of static files: the page, the model file, and what runs it in a browser.

    Any server of static files can serve it, under any path. The folder appears when it is whole.

    Args:
        model: As `gapcam.load` takes it.
        folder: A new or empty folder, or one that this function wrote before, which is replaced.
        runtime: onnxruntime-web: its folder or npm tarball; None: the tested version, from the npm
            registry or the cache (`gapcam.web_runtime`).
        recipe: What the page uses, or its name; the model's own when None.
        int8: As `gapcam.exporting.export`.
        tell: Called with a word of progress.
        **options: As `gapcam.load` takes them.

    Raises:
        ArgumentError: As `gapcam.exporting.export`; or `folder` holds what this function did not
            write, or `runtime` is no onnxruntime-web.
        ModelError: The network cannot be exported; or onnxruntime-web cannot be fetched.
        OutputError: The folder cannot be written.
    """
    folder = Path(folder)
    _refuse_what_is_not_ours(folder)
    if isinstance(recipe, str):
        recipe_named(recipe)  # an unknown one is refused before the work begins
    files = web_runtime(runtime, tell=tell)
    with output_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = tempfile.TemporaryDirectory(dir=folder.resolve().parent, prefix=".gapcam-")
    with beside as name:
        made = Path(name) / "made"
        report = export(model, made / MODEL, int8=int8, tell=tell, **options)
        used = load(made / MODEL, recipe=recipe, threads=1).recipe
        with output_errors(folder):
            _write_page(made, files)
            _write_settings(made, report, None if recipe is None else used, files)
            size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
            _refuse_what_is_not_ours(folder)
            _put(made, folder, Path(name) / "replaced")
    report = dataclasses.replace(report, path=folder / MODEL)
    return WebReport(folder, report, used.name, str(files), size)


def with_policy(html: str) -> str:
    """The page with its content security policy, which only rules what comes after it.

    Raises:
        OutputError: The line that it follows is not there once.
    """
    if html.count(POLICY_FOLLOWS) != 1:
        raise OutputError(
            f"{INDEX}: expected {POLICY_FOLLOWS} once, found it {html.count(POLICY_FOLLOWS)} "
            "times. Install gapcam again."
        )
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    return html.replace(POLICY_FOLLOWS, f"{POLICY_FOLLOWS}\n{policy}")


def _write_page(made: Path, files: WebRuntime) -> None:
    for path in page_files():
        shutil.copyfile(path, made / path.name)
    (made / INDEX).write_text(with_policy((made / INDEX).read_text("utf-8")), "utf-8")
    (made / "samples").mkdir()
    for path in sample_pictures():
        shutil.copyfile(path, made / "samples" / path.name)
    (made / RUNTIME).parent.mkdir()
    (made / RUNTIME).write_bytes(files.script)
    (made / WASM).write_bytes(files.binary)
    (made / RUNTIME).with_name("LICENSE.txt").write_text(LICENCE, "utf-8")


def _write_settings(
    made: Path, report: ExportReport, recipe: Recipe | None, files: WebRuntime
) -> None:
    """page.json, which tells the page where its answers come from, and us what we wrote."""
    proof, gap = report.proof, report.proof.largest_gap
    written = [path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()]
    settings = {
        "source": "browser",
        "made_by": f"gapcam {metadata.version('gapcam')}",
        "model": MODEL,
        "model_sha256": hashlib.sha256((made / MODEL).read_bytes()).hexdigest(),
        "runtime": RUNTIME,
        "wasm": WASM,
        "bytes": (made / MODEL).stat().st_size + len(files.binary),
        "runtime_version": files.version,
        "recipe": None if recipe is None else dataclasses.asdict(recipe),
        "proof": {
            "exact": proof.exact,
            "proof": str(proof),
            "largest_gap": gap if math.isfinite(gap) else None,
        },
        "samples": [
            {"name": path.name, "url": f"samples/{path.name}"} for path in sample_pictures()
        ],
        "files": sorted([*written, SETTINGS]),
    }
    (made / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", "utf-8")


def _refuse_what_is_not_ours(folder: Path) -> None:
    """Refuse to replace a folder with anything in it that this module did not write."""
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"{folder}: expected the name of a folder to write, it is a file")
    if folder.resolve() == Path.cwd():
        raise ArgumentError(f"{folder}: is the working folder: name a folder to write in it")
    with output_errors(folder):
        known = _written_before(folder / SETTINGS)
        if not known and folder.exists() and any(folder.iterdir()):
            raise ArgumentError(
                f"{folder}: holds files and was not written by gapcam export --web: choose "
                "another folder"
            )
        inside = [p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()]
    there = {path.relative_to(folder).as_posix() for path in inside}
    if there - known:
        raise ArgumentError(
            f"{folder}: holds {min(there - known)}, which gapcam export --web did not write and "
            "will not delete: move it away, or choose another folder"
        )


def _written_before(settings: Path) -> set[str]:
    """What `page.json` says that an earlier export wrote; nothing where it is not one."""
    try:
        told = json.loads(settings.read_text("utf-8"))
        ours = told["source"] == "browser" and str(told["made_by"]).startswith("gapcam ")
        return set(map(str, told["files"])) if ours else set()
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return set()


def _put(made: Path, folder: Path, aside: Path) -> None:
    """Rename a finished folder into place; an older one goes aside first, or comes back."""
    target = folder.resolve()
    if target.exists():
        target.replace(aside)
    try:
        made.replace(target)
    except OSError:
        if aside.exists():
            aside.replace(target)
        raise
