"""Gradients of whole heads, exported by PyTorch, against autograd on the same network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from exporter import list_operators_once
from gapcam.models.gradients import Gradient, append_gradient
from gapcam.types import ModelError
from gradient_tools import model_of, run

list_operators_once()
CLASSES, SIDE = 7, 64


class Picture(nn.Module):
    """A Transformers classifier as a function of the picture."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x).logits


class Headed(nn.Module):
    """A convolution, then a head."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 12, 8, 8), head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Pooled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Gated(nn.Module):
    """Squeeze and excitation on the features, then pooling: the gate moves with the features."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.last = nn.Conv2d(12, 12, 1), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(F.adaptive_avg_pool2d(x, 1)))
        return self.last((x * gate).mean((2, 3)))


class ClassToken(nn.Module):
    """A transformer block with one matrix for queries, keys and values, then the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(12), nn.LayerNorm(12), nn.LayerNorm(12)
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)
        self.mlp = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))
        self.token, self.last = nn.Parameter(torch.randn(1, 1, 12)), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x.flatten(2).mT], 1)
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, 3, 4).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, 12)
        x = x + self.proj(mixed)
        x = x + self.mlp(self.norm2(x))
        return self.last(self.norm3(x)[:, 0])


class PooledByAttention(nn.Module):
    """SigLIP's vision tower with its attention pooling, and a linear layer."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower, self.last = tower, nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.tower(pixel_values=x).pooler_output)


def plain(*layers: nn.Module) -> Callable[[], tuple[nn.Module, str]]:
    return lambda: (Headed(nn.Sequential(*layers)), "body")


def vit():
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=SIDE,
        patch_size=16,
        num_labels=CLASSES,
    )
    return Picture(ViTForImageClassification(config)), "model.vit.layers.0"


def dinov2():
    from transformers import Dinov2Config, Dinov2ForImageClassification

    config = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=16,
        num_labels=CLASSES,
        layerscale_value=0.7,
    )
    return Picture(Dinov2ForImageClassification(config)), "model.dinov2.encoder.layer.0"


def swin():
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(
        embed_dim=24,
        depths=[1, 1],
        num_heads=[2, 4],
        window_size=4,
        image_size=SIDE,
        patch_size=4,
        attn_implementation="eager",  # the other does not export with a free batch
        num_labels=CLASSES,
    )
    return Picture(SwinForImageClassification(config)), "model.swin.encoder"


def siglip():
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=SIDE,
        patch_size=16,
    )
    return PooledByAttention(SiglipVisionModel(config)), "tower.post_layernorm"


def convnext():
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(hidden_sizes=[16, 32], depths=[1, 1], num_stages=2, num_labels=CLASSES)
    return Picture(ConvNextForImageClassification(config)), "model.convnext.encoder"


NETWORKS = {
    "gap-linear": plain(Pooled(), nn.Linear(12, CLASSES)),
    "gap-norm-linear": plain(Pooled(), nn.LayerNorm(12), nn.Linear(12, CLASSES)),
    "gap-hidden": plain(Pooled(), nn.Linear(12, 20), nn.Hardswish(), nn.Linear(20, CLASSES)),
    "flatten-linear": plain(nn.Flatten(), nn.Linear(768, CLASSES)),
    "flatten-hidden": plain(
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(192, 20),
        nn.ReLU(),
        nn.Linear(20, 20),
        nn.ReLU(),
        nn.Linear(20, CLASSES),
    ),
    "conv-head": plain(
        nn.Conv2d(12, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.SiLU(),
        nn.Conv2d(16, CLASSES, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ),
    "gated": lambda: (Headed(Gated()), "body"),
    "class-token": lambda: (Headed(ClassToken()), "body"),
    "vit": vit,
    "dinov2": dinov2,
    "swin": swin,
    "siglip": siglip,
    "convnext": convnext,
}
EXACT = ["gap-linear", "gap-norm-linear", "flatten-linear", "swin", "convnext"]


@dataclass
class Exported:
    """A network, its ONNX graph, and where in both the features are."""

    network: nn.Module
    module: str
    proto: onnx.ModelProto
    constants: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]
    features: str

    def gradient(self, *, frozen: bool) -> Gradient:
        return append_gradient(
            self.proto.graph.node,
            self.constants,
            self.features,
            self.proto.graph.output[0].name,
            "classes",
            CLASSES,
            self.shapes,
            18,
            "grad",
            frozen_norms=frozen,
        )

    def model(self, *, frozen: bool) -> onnx.ModelProto:
        gradient, graph = self.gradient(frozen=frozen), self.proto.graph
        classes = helper.make_tensor_value_info("classes", TensorProto.INT64, ["b", "n"])
        names = [graph.output[0].name, self.features, gradient.name]
        return model_of(
            [*graph.node, *gradient.nodes],
            [*graph.initializer, *gradient.constants],
            [helper.make_empty_tensor_value_info(name) for name in names],
            [*graph.input, classes],
            18,
        )


def export(network: nn.Module) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own dependencies
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 3, SIDE, SIDE),),
            dynamo=True,
            opset_version=18,
            input_names=["picture"],
            dynamic_shapes=({0: torch.export.Dim.AUTO},),
            verbose=False,
        )
    return program.model_proto


def all_tensors(proto: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    graph = proto.graph
    names = [name for node in graph.node for name in node.output if name]
    outputs = [helper.make_empty_tensor_value_info(name) for name in names]
    model = model_of(graph.node, graph.initializer, outputs, graph.input, 18)
    return dict(zip(names, run(model, {"picture": x}, names), strict=True))


@contextmanager
def recorded(network: nn.Module, module: str) -> Iterator[list[Tensor]]:
    """Makes a module's output a leaf that gradients are taken for."""
    found: list[Tensor] = []

    def replace(_module: nn.Module, _inputs: object, output: object) -> object:
        features = output if isinstance(output, Tensor) else output[0]
        found.append(features.detach().requires_grad_())
        if isinstance(output, Tensor):
            return found[0]
        if isinstance(output, tuple):
            return (found[0], *output[1:])
        output.last_hidden_state = found[0]
        return output

    handle = network.get_submodule(module).register_forward_hook(replace)
    yield found
    handle.remove()


@pytest.fixture(scope="module")
def exported() -> Callable[[str], Exported]:
    known: dict[str, Exported] = {}

    def get(name: str) -> Exported:
        if name not in known:
            torch.manual_seed(3)
            network, module = NETWORKS[name]()
            with torch.no_grad():  # norms and biases that are not the identity
                for parameter in network.parameters():
                    parameter += 0.1 * torch.randn_like(parameter)
            network.eval()
            proto = export(network)
            x = pictures(2)
            tensors = all_tensors(proto, x)
            with recorded(network, module) as found:
                network(torch.from_numpy(x))
            features = found[0].detach().numpy()
            place = next(
                key
                for key, value in tensors.items()
                if value.shape == features.shape and np.allclose(value, features, atol=1e-4)
            )
            arrays = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
            shapes = {key: value.shape for key, value in tensors.items()}
            known[name] = Exported(network, module, proto, arrays, shapes, place)
        return known[name]

    return get


def pictures(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).normal(size=(batch, 3, SIDE, SIDE)).astype(np.float32)


def autograd(net: Exported, x: np.ndarray, classes: np.ndarray) -> np.ndarray:
    network = net.network.double()
    with recorded(network, net.module) as found:
        logits = network(torch.from_numpy(x).double())
        chosen = logits.gather(1, torch.from_numpy(classes))
        gradients = [
            torch.autograd.grad(chosen[:, i].sum(), found[0], retain_graph=True)[0]
            for i in range(classes.shape[1])
        ]
    return torch.stack(gradients).numpy()


def compare(net: Exported, *, frozen: bool) -> None:
    model = net.model(frozen=frozen)
    for batch, n in ((1, 1), (1, 4), (3, 1), (3, 4)):
        x = pictures(batch)
        classes = np.random.default_rng(n).integers(0, CLASSES, (batch, n))
        _, features, gradient = run(model, {"picture": x, "classes": classes})
        assert gradient.shape == (n, *features.shape)
        expected = autograd(net, x, classes)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=2e-4 * scale)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_true_gradient_is_autograds(name: str, exported):
    compare(exported(name), frozen=False)


def frozen_layer_norm(x, shape, weight=None, bias=None, eps=1e-5):
    axes = tuple(range(-len(shape), 0))
    apart = x - x.mean(axes, keepdim=True)
    sigma = (apart * apart).mean(axes, keepdim=True).add(eps).sqrt().detach()
    return apart / sigma * weight + bias


@pytest.mark.parametrize("name", NETWORKS)
def test_the_frozen_gradient_is_autograds_with_detached_statistics(
    name: str, exported, monkeypatch: pytest.MonkeyPatch
):
    net = exported(name)
    monkeypatch.setattr(F, "layer_norm", frozen_layer_norm)
    compare(net, frozen=True)


@pytest.mark.parametrize("name", EXACT)
def test_gradient_times_features_and_the_score_of_nothing_are_the_logit(name: str, exported):
    net = exported(name)
    model = net.model(frozen=True)
    classes = np.tile(np.arange(CLASSES), (3, 1))
    logits, features, gradient = run(model, {"picture": pictures(3), "classes": classes})
    nothing = without_features(net)
    total = (gradient * features).reshape(CLASSES, 3, -1).sum(2).T
    np.testing.assert_allclose(total + nothing, logits, atol=1e-4 * np.ptp(logits))


def without_features(net: Exported) -> np.ndarray:
    """The head's scores of features that are zero everywhere."""

    def empty(_module: nn.Module, _inputs: object, output: object) -> object:
        if isinstance(output, Tensor):
            return torch.zeros_like(output)
        output.last_hidden_state = torch.zeros_like(output.last_hidden_state)
        return output

    handle = net.network.get_submodule(net.module).register_forward_hook(empty)
    with torch.no_grad():
        scores = net.network.double()(torch.zeros(1, 3, SIDE, SIDE).double())
    handle.remove()
    return scores[0].numpy()


def test_a_class_token_is_not_padded_before_attention_mixes_the_tokens(exported):
    """The MLP's cotangents stay with one token: no zero is multiplied there."""
    net = exported("vit")
    nodes = net.gradient(frozen=True).nodes
    kinds = [node.op_type for node in nodes]
    assert kinds.index("Pad") > kinds.index("Softmax" if "Softmax" in kinds else "MatMul")
    hidden = [node for node in nodes if node.op_type == "Exp"]
    shapes = gradient_shapes(net, [node.output[0] for node in hidden])
    assert shapes == [(2, 1, 48)]


def gradient_shapes(net: Exported, names: list[str]) -> list[tuple[int, ...]]:
    model = net.model(frozen=True)
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    feeds = {"picture": pictures(2), "classes": np.zeros((2, 3), np.int64)}
    return [value.shape for value in run(model, feeds, names)]


def test_only_the_head_is_differentiated(exported):
    net = exported("conv-head")
    nodes = net.gradient(frozen=True).nodes
    assert sum(node.op_type == "ConvTranspose" for node in nodes) == 2
    assert len({name for node in nodes for name in node.output}) == len(nodes)


def test_a_model_with_the_gradient_passes_the_onnx_checker(exported):
    model = exported("class-token").model(frozen=True)
    shapes = (["b", CLASSES], ["b", 12, 8, 8], ["n", "b", 12, 8, 8])
    for value, shape in zip(model.graph.output, shapes, strict=True):
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, shape))
    onnx.checker.check_model(model, full_check=True)


def test_logits_that_do_not_depend_on_the_features_are_refused(exported):
    net = exported("gap-linear")
    graph = net.proto.graph
    with pytest.raises(ModelError, match=r"do not depend on the features 'elsewhere'.*layer="):
        append_gradient(
            graph.node,
            net.constants,
            "elsewhere",
            graph.output[0].name,
            "classes",
            CLASSES,
            net.shapes,
            18,
            "grad",
        )
