"""The server does what its own OpenAPI description says, on requests made from that description."""

from __future__ import annotations

from dataclasses import replace

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import gapcam
from gapcam.serve import ServeOptions, create_app
from gapcam.serve.schema import IMAGE_TYPES
from picture_files import encode, smooth_pixels

PICTURE = encode(gapcam.images.Image.fromarray(smooth_pixels(30, 40)), "PNG")
OPERATIONS = ["POST /v1/localize", "GET /v1/model", "GET /healthz", "GET /metrics"]
CLASSES = ["tabby", "281", "n02123045", "goldfish", "0"]


@pytest.fixture(scope="module")
def described(quick):
    for media in (*IMAGE_TYPES, "application/octet-stream"):
        schemathesis.openapi.media_type(media, st.just(PICTURE))
    schemathesis.openapi.format("binary", st.just(PICTURE))
    recipe = replace(quick.recipe, input_size_hw=(64, 64))  # quick: what it finds does not matter
    app = create_app(gapcam.Localizer(quick.engine, quick.card, recipe), ServeOptions(workers=1))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    return {operation.ok().label: operation.ok() for operation in schema.get_all_operations()}


def test_all_operations_are_described(described):
    assert sorted(described) == sorted(OPERATIONS)


@pytest.mark.parametrize("mode", schemathesis.GenerationMode)
@pytest.mark.parametrize("label", OPERATIONS)
def test_requests_made_from_the_description(described, label, mode):
    operation = described[label]
    if mode.is_negative and label != "POST /v1/localize":
        pytest.skip("has no parameters to get wrong")

    @settings(
        max_examples=60 if label == "POST /v1/localize" else 3,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        if mode.is_positive:
            make_plausible(case)
        seen.append(case.call_and_validate().status_code)

    seen: list[int] = []
    check()
    if mode.is_positive:
        assert set(seen) == {200}
    else:
        assert set(seen) <= {200, 400, 413, 415, 422}
        assert seen.count(200) < len(seen) / 10  # what a mutation happens to leave meaningful


def make_plausible(case):
    """What a schema cannot say: which names are classes; not together with `top`."""
    query = case.query or {}
    if "class" in query:
        query["class"] = [CLASSES[len(str(name)) % len(CLASSES)] for name in query["class"]]
        query.pop("top", None)
