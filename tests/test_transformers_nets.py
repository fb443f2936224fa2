"""Real architectures of Transformers, small and with random weights: traced, and their heads."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from gapcam.models.heads import find_head
from gapcam.models.pytorch.trace import shape_of, trace_module
from gapcam.models.trace import Trace
from head_nets import CLASSES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own modules and of the libraries that it tries
    import transformers
transformers.logging.set_verbosity_error()

REAL = {
    "ResNet": ("gap-linear", 0, {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}),
    "RegNet": (
        "gap-linear",
        0,
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 4},
    ),
    "MobileNetV1": ("gap-linear", 0, {"depth_multiplier": 0.25}),
    "MobileNetV2": ("gap-linear", 0, {"depth_multiplier": 0.25}),
    "Bit": (
        "gap-linear",
        0,
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_groups": 4},
    ),
    "ConvNext": (
        "gap-norm-linear",
        0,
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    ),
    "Swin": (
        "gap-linear",
        0,
        {"image_size": 64, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4},
    ),
    "ViT": ("class-token", 1, {"intermediate_size": 32}),
    "DeiT": ("class-token", 2, {"intermediate_size": 32}),
    "Dinov2": ("token-mix", 1, {}),
    "Dinov2WithRegisters": ("token-mix", 5, {"num_register_tokens": 4}),
    "Siglip": ("gap-linear", 0, {}),
    "PoolFormer": (
        "gap-linear",
        0,
        {
            "depths": [1, 1],
            "hidden_sizes": [8, 16],
            "num_encoder_blocks": 2,
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "padding": [2, 1],
        },
    ),
    "Segformer": (
        "gap-linear",
        0,
        {
            "depths": [1, 1],
            "hidden_sizes": [8, 16],
            "num_encoder_blocks": 2,
            "num_attention_heads": [1, 2],
            "sr_ratios": [2, 1],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "mlp_ratios": [2, 2],
        },
    ),
}
TRANSFORMER = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
}


def real(name: str) -> nn.Module:
    options = dict(REAL[name][2])
    if name in ("ViT", "DeiT", "Dinov2", "Dinov2WithRegisters"):
        options |= TRANSFORMER
    if name == "Siglip":
        options = {"vision_config": {**TRANSFORMER, "intermediate_size": 32}}
    config = getattr(transformers, f"{name}Config")(num_labels=CLASSES, **options)
    ending = "ForImageClassificationWithTeacher" if name == "DeiT" else "ForImageClassification"
    return getattr(transformers, name + ending)(config).eval()


@functools.cache
def traced(name: str) -> tuple[nn.Module, ExportedProgram, Trace]:
    net = real(name)
    return net, *trace_module(net, (64, 64))


@pytest.mark.parametrize("name", REAL)
def test_their_heads_are_found(name: str):
    plan = find_head(traced(name)[2])
    assert (plan.kind, plan.layout.first_patch) == REAL[name][:2]
    assert plan.layout.grid_hw[0] == plan.layout.grid_hw[1] >= 2


@pytest.mark.parametrize("name", REAL)
def test_their_programs_give_what_they_give_and_norms_and_activations_are_named(name: str):
    net, program, trace = traced(name)
    averaged = name == "DeiT"  # the scores of its two classifiers
    assert trace.steps[-1].op == ("scale" if averaged else "linear")
    assert trace.shapes[trace.logits] == (2, CLASSES)
    assert not {s.op for s in trace.steps if s.words.startswith(("gelu", "layer_norm"))} - {
        *("activation", "norm"),
    }
    pictures = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(pictures), net(pictures).logits)


def test_the_sides_of_a_program_are_those_it_is_traced_with():
    _, program, _ = traced("Swin")
    picture = next(n for n in program.graph.nodes if n.name == "x")
    assert picture.meta["val"].shape[2:] == (64, 64)
    assert all(isinstance(side, int) for side in picture.meta["val"].shape[2:])
    assert shape_of(picture) == (2, 3, 64, 64)
