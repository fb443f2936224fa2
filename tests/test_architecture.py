"""The import rule, the size of files, the public names and the lightness of the import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gapcam

PACKAGE = Path(gapcam.__file__).parent
LONGEST_FILE = 400

LEAVES = {"types", "resample", "products"}
STAGES = {
    "images",
    "labels",
    "paths",
    "engines",
    "models",
    "maps",
    "refine",
    "instances",
    "dt_box",
    "proof",
    "boxes",
    "recipes",
    "metrics",
}
MAY_IMPORT = {
    "types": {"draw"},  # inside Localization.draw only
    "resample": {"types", "products"},
    "products": {"types"},
    **dict.fromkeys(STAGES, LEAVES),
    "paths": {"types", "inputs"},
    "refine": LEAVES | {"maps"},
    "engines": LEAVES | {"maps"},  # a head that is not linear is part of the network that runs
    "boxes": LEAVES | {"dt_box", "instances"},
    "metrics": {"types"},
    "data": {"types"},
    "agreement": LEAVES | {"boxes", "metrics"},
    "label_free": LEAVES | STAGES | {"agreement", "localizer"},
    "outputs": {"types"},
    "samples": set(),
    "parallel": set(),
    "on_torch": {"types", "products", "engines", "models", "foreign"},  # foreign: a type only
    "foreign": {"types", "engines", "models", "recipes", "on_torch"},
    "loading": {"types", "engines", "models", "recipes", "proof", "localizer", "foreign"},
    "int8": LEAVES | STAGES | {"localizer"},
    "exporting": {
        "types",
        "products",
        "engines",
        "images",
        "foreign",
        "loading",
        "outputs",
        "proof",
    }
    | {"samples", "int8", "localizer"},
    "training": {"types", "images", "data", "outputs", "parallel", "engines", "models", "report"},
    "trainer": LEAVES
    | STAGES
    | {"training", "foreign", "loading", "localizer", "outputs", "parallel", "sheet"},
    "localizer": {"samples", "seeing"} | LEAVES | STAGES - {"metrics", "paths"},
    "evaluate": LEAVES | STAGES | {"data", "localizer", "parallel", "report", "draw"},
    "report": {"types", "draw", "outputs"},
    "draw": LEAVES | {"images"},
    "sheet": {"types", "draw"},
    "formats": {"types", "outputs"},
    "inputs": LEAVES | {"images"},
    "page": set(),
    "web_runtime": {"types", "models", "outputs"},
    "exporting_web": {"types", "exporting", "loading", "outputs", "page", "recipes", "samples"}
    | {"web_runtime"},
    "known_labels": LEAVES | {"labels", "training", "data", "formats"},
    "review": {"types", "draw", "outputs", "images", "formats", "report", "parallel"},
    "seeing": LEAVES | STAGES,
    "serve": LEAVES | STAGES | {"localizer", "seeing", "loading", "page", "samples", "formats"},
    "batch": LEAVES
    | {
        "engines",  # opened anew in the workers of a cluster
        "inputs",
        "known_labels",
        "labels",
        "localizer",
        "draw",
        "sheet",
        "formats",
        "outputs",
        "parallel",
        "paths",
        "review",
    },
    "terminal": {"types", "paths"},
    "cli": LEAVES
    | STAGES
    | {"batch", "data", "evaluate", "report", "formats", "label_free", "loading", "localizer"}
    | {"exporting", "exporting_web", "inputs", "known_labels", "review", "serve", "trainer"}
    | {"outputs", "parallel", "terminal"},
    "__main__": {"cli"},
    "__init__": LEAVES
    | {"exporting", "trainer", "loading", "samples", "sheet", "localizer", "proof", "recipes"},
}
HEAVY = {"torch", "onnx", "onnxscript", "lightning"}
HEAVY_ALLOWED = {
    "training/processes.py",
    "models/dilation.py",
    "models/dilation_windows.py",
    "models/dilation_check.py",
    "models/trunks/__init__.py",
    "models/trunks/hooked.py",
    "models/trunks/finding.py",
    "models/trunks/pruning.py",
    "models/pooling.py",
    "models/gap_net.py",
    "models/gap_nets/__init__.py",
    "models/gap_nets/layers.py",
    "models/gap_nets/checkpoints.py",
    "models/file/pools.py",
    "training/batches.py",
    "training/ema.py",
    "training/together.py",
    "training/checkpoints.py",
    "training/schedule.py",
    "training/quiet.py",
    "training/lightning_net.py",
    "training/finetune.py",
    "training/tensorboard.py",
    "trainer/sheets.py",
    "engines/torch.py",
    "models/pytorch/aten.py",
    "models/file/build.py",
    "models/efficientnet_lite.py",
    "models/pytorch/export.py",
    "models/onnx_graphs/foreign.py",
    "models/pytorch/frozen_norms.py",
    "models/gradients/rules.py",
    "models/gradients/elementwise.py",
    "models/gradients/reduce.py",
    "models/gradients/tape.py",
    "models/gradients/__init__.py",
    "models/file/assemble.py",
    "models/file/nodes.py",
    "models/file/maps.py",
    "models/file/probe.py",
    "models/file/layouts.py",
    "models/pytorch/modules.py",
    "models/file/network.py",
    "models/onnx_graphs/fold.py",
    "models/onnx_graphs/ops.py",
    "models/onnx_graphs/probe.py",
    "models/onnx_graphs/trace.py",
    "models/pytorch/planes.py",
    "models/onnx_graphs/prepare.py",
    "models/onnx_graphs/quantize.py",
    "models/sources/checkpoint.py",
    "models/pytorch/fuse.py",
    "models/pytorch/hooks.py",
    "models/pytorch/network.py",
    "models/pytorch/trace.py",
}
"""Imported only when a model is built, or runs on PyTorch."""
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def part(path: Path) -> str:
    """The module or sub-package of gapcam that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_data_flows_one_way(path: Path):
    own = part(path)
    used = {name.split(".")[1] for name in imports(path) if name.startswith("gapcam.")}
    used -= {own, "__version__"}
    assert used <= MAY_IMPORT[own], f"{own} imports {sorted(used - MAY_IMPORT[own])}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_short(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


def test_only_building_and_the_torch_engine_import_heavy_libraries():
    importers = {
        path.relative_to(PACKAGE).as_posix()
        for path in SOURCES
        if {name.split(".")[0] for name in imports(path, top_level_only=True)} & HEAVY
    }
    assert importers <= HEAVY_ALLOWED


def test_public_names_are_importable_and_documented():
    assert set(gapcam.__all__) == set(gapcam._HOME)
    for name in gapcam.__all__:
        assert getattr(gapcam, name) is not None
        assert name in dir(gapcam)
    assert len(gapcam.__all__) == 13
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        gapcam.nonsense  # noqa: B018


def test_the_import_is_light():
    code = "import sys, gapcam; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in shown.stdout.split()}
    assert not loaded & {"torch", "onnx", "onnxruntime", "cv2", "PIL", "numpy", "typer", "rich"}
