"""Verdicts on healthy and unhealthy inits."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from io import StringIO

import pytest
import torch
from certified_networks import FAST_THEORIES, images, mlp
from rich.console import Console
from torch import nn

from fanin.errors import ConfigError
from fanin.inits import (
    HeNormal,
    Init,
    LayerInit,
    Normal,
    NormalBias,
    Scheme,
    Uniform,
    XavierNormal,
    Zeros,
    initialize,
)
from fanin.text import to_text
from fanin.theory.certificate import (
    Certificate,
    UnhealthyInit,
    assert_healthy,
    certify,
)
from fanin.theory.certificate.render import render
from fanin.theory.predict import THEORIES


def certified(activation: nn.Module, scheme: Scheme, depth: int = 14) -> Certificate:
    return certify(mlp(activation, depth), images(side=8), init=scheme, theories=FAST_THEORIES)


@pytest.mark.parametrize(
    ("activation", "scheme"),
    [(nn.ReLU(), HeNormal()), (nn.Tanh(), XavierNormal()), (nn.Identity(), XavierNormal())],
)
def test_textbook_inits_are_healthy(activation: nn.Module, scheme: Scheme) -> None:
    certificate = certified(activation, scheme)
    assert certificate.verdicts == ()
    assert_healthy(certificate)


def test_glorot_with_relu_vanishes() -> None:
    verdicts = certified(nn.ReLU(), XavierNormal()).verdicts
    forward = [verdict for verdict in verdicts if verdict.quantity == "preact_m2"]
    # Layers 2 to 13 halve the moment; 2^-10 in layer 11 is the first value below 1e-3.
    assert forward[0].problem == "vanishing"
    assert forward[0].value == pytest.approx(2**-10, rel=0.2)
    assert forward[0].cause.startswith(
        'the variance of the weights of layer 2 (Linear "3") is 2 times too small'
    )
    assert "kaiming_normal_" in forward[0].torch_code


def test_large_weights_explode_in_both_directions() -> None:
    verdicts = certified(nn.ReLU(), Normal(std=1.0)).verdicts
    assert {verdict.problem for verdict in verdicts} == {"exploding"}
    assert {verdict.quantity for verdict in verdicts} == {"preact_m2", "vjp_m2"}


def test_unscaled_images_explode_in_the_first_layer() -> None:
    certificate = certify(
        mlp(nn.ReLU()), 255 * images(side=8), init=HeNormal(), theories=FAST_THEORIES
    )
    (first, *_) = certificate.verdicts
    assert (first.layer, first.problem) == ("1", "exploding")
    assert "scale the images" in first.remedy


def test_saturation_vanishes_only_backward() -> None:
    verdicts = certified(nn.Sigmoid(), XavierNormal()).verdicts
    assert verdicts
    assert {(v.problem, v.quantity) for v in verdicts} == {("vanishing", "vjp_m2")}


def test_deep_gelu_is_depth_unstable() -> None:
    """docs/appendix/derivations.md, section 2.3: 1.13 to 1.18 a layer, 5.2 over 14 layers."""
    net = mlp(nn.GELU(), 15)
    certificate = certify(net, 3 * images(side=8), init=HeNormal(), theories=FAST_THEORIES)
    sensitivities = [layer.log_sensitivity for layer in certificate.layers[:-1]]
    assert 1.07 < min(sensitivities) < max(sensitivities) < 1.19
    (verdict,) = certificate.verdicts
    assert verdict.problem == "depth-unstable"
    assert verdict.value > 2
    assert "increase the gains" in verdict.remedy


def test_zero_weights_do_not_suggest_a_gain() -> None:
    init = Init(Zeros(), layers={"1": LayerInit(HeNormal())})
    first, *_ = certified(nn.ReLU(), init).verdicts
    assert first.problem == "vanishing"
    assert first.message == 'the output of layer 2 (Linear(64, 64) "3", output 64) is 0'
    assert first.cause == "its weights or inputs are 0"


def test_a_network_of_zeros_is_vanishing() -> None:
    (verdict,) = certified(nn.ReLU(), Zeros()).verdicts
    assert (verdict.layer, verdict.problem) == ("1", "vanishing")


def test_error_names_layer_value_and_remedy() -> None:
    with pytest.raises(AssertionError, match="the init is unhealthy") as error:
        assert_healthy(certified(nn.ReLU(), Normal(std=0.01)))
    assert isinstance(error.value, UnhealthyInit)
    forward = [v for v in error.value.verdicts if v.quantity == "preact_m2"]
    message = str(error.value)
    assert f"{len(forward)} layers are vanishing, the first is {forward[0].description}" in message
    # Each layer multiplies the moment by 64 * 0.01^2 / 2 = 0.0032; 0.0032^2 is below 1e-3.
    assert forward[0].description == 'layer 3 (Linear(64, 64) "5", output 64)'
    times = (64 * 0.01**2 / 2) ** (-12 / 2)  # from layer 1 to layer 25, each shrinks alike
    assert f"10^{math.log10(times):.0f} times" in message
    assert forward[0].torch_code in message
    assert len(message.splitlines()) <= 10  # one line per kind of problem
    assert message.count("Cause: ") == 1


def test_assert_healthy_accepts_a_model() -> None:
    net = mlp(nn.ReLU(), 3)
    assert_healthy(net, images(1, side=8), init=HeNormal())
    with pytest.raises(UnhealthyInit, match="vanishing"):
        assert_healthy(net, images(1, side=8), init=Normal(std=0.001))
    with pytest.raises(ConfigError, match="images is missing"):
        assert_healthy(net)


def shown(certificate: Certificate, **options: bool) -> str:
    """Return the printed certificate as one line."""
    return " ".join(to_text(render(certificate, **options)).split())


@pytest.mark.parametrize(("theories", "not_checked"), [(("he",), True), (THEORIES, False)])
def test_healthy_message_names_unchecked_problems(
    theories: tuple[str, ...], not_checked: bool
) -> None:
    certificate = certify(mlp(nn.ReLU(), 3), images(side=8), init=HeNormal(), theories=theories)
    text = shown(certificate)
    assert text.startswith("✓ Healthy: no layer vanishes")
    assert ("Not checked: dead units." in text) == not_checked


def test_theory_names_are_printed_only_if_verbose() -> None:
    certificate = certified(nn.ReLU(), HeNormal())
    assert "mean_field" not in shown(certificate)
    assert "cotangent" not in shown(certificate)
    assert "theories: he, mean_field" in shown(certificate, verbose=True)


def test_overrides_are_printed_only_for_models_from_a_config() -> None:
    certificate = certified(nn.ReLU(), XavierNormal())
    assert "init=he_normal" not in shown(certificate)
    assert "In a config: init=he_normal" in shown(certificate, from_config=True)


def test_printed_verdict_has_problem_cause_effect_and_code() -> None:
    text = shown(certified(nn.Tanh(), Normal(std=1.0)))
    # The variance of 1 is 64 times Glorot's 1/64.
    layers = r'layer 13 \(Linear "25"\) and layer 1 \(Linear\(64, 64\) "1", output 64\); '
    assert re.match(rf"✗ Gradients grow [\d,]+ times between {layers}", text)
    cause = 'The variance of the weights of layer 2 (Linear "3") is 64 times too large for Tanh'
    assert f"Cause: {cause}" in text
    assert "Training: A learning rate that suits the later layers" in text
    assert "[nn.init.xavier_normal_(w) for w in model.parameters() if w.ndim > 1]" in text


@pytest.mark.parametrize(
    ("activation", "scheme"),
    [
        (nn.ReLU(), XavierNormal()),
        (nn.ReLU(), Normal(std=1.0)),
        (nn.ReLU(), Uniform(0.0, 1.0)),
        (nn.ReLU(), Zeros()),
        (nn.LeakyReLU(0.2), Normal(std=0.01)),
        (nn.ELU(), Normal(std=0.01)),
        (nn.Tanh(), Normal(std=0.01)),
        (nn.Tanh(), Normal(std=1.0)),
        (nn.Identity(), Normal(std=1.0)),
    ],
    ids=str,
)
def test_torch_code_fixes_the_init(activation: nn.Module, scheme: Scheme) -> None:
    model = mlp(activation, 14)
    (code,) = {v.torch_code for v in certified(activation, scheme).verdicts}
    torch.manual_seed(0)
    exec(code, {"model": model, "nn": nn})
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    assert certify(model, images(side=8), theories=FAST_THEORIES).verdicts == ()


def test_remedy_sets_biases_to_zero_only_if_they_are_large() -> None:
    def code(bias_std: float) -> str:
        init = Init(Normal(std=1.0), bias=NormalBias(std=bias_std))
        (code,) = {v.torch_code for v in certified(nn.ReLU(), init).verdicts}
        return code

    assert "zeros_" not in code(0.1)
    assert "zeros_(b)" in code(1.0)


@pytest.mark.parametrize(
    ("scheme", "scale", "needed"),
    [
        (Uniform(0.0, 1.0), 255.0, ("kaiming", "images")),
        (Uniform(0.0, 1.0), 1.0, ("kaiming",)),
        (Normal(std=10.0), 1.0, ("kaiming",)),  # the output of the first layer is large as well
        (HeNormal(), 255.0, ("images",)),
        (XavierNormal(), 255.0, ("kaiming", "images")),
    ],
    ids=str,
)
def test_fix_has_all_changes_that_are_needed_and_no_more(
    scheme: Scheme, scale: float, needed: tuple[str, ...]
) -> None:
    """The healthy networks are measured on drawn weights: their own moments are estimated."""
    inputs = scale * images(side=8)
    init = Init(scheme)
    certificate = certify(mlp(nn.ReLU(), 14), inputs, init=init, theories=FAST_THEORIES)
    fix = certificate.fix
    assert fix.is_enough
    codes = [remedy.torch_code for remedy in fix.remedies]
    assert tuple(name for name in ("kaiming", "images") if name in "".join(codes)) == needed
    assert len(codes) == len(needed)
    plural = {1: "→ To fix: ", 2: "→ To fix, both changes are needed: 1. "}
    assert plural[len(needed)] in shown(certificate)

    def is_healthy_after(codes: Sequence[str]) -> bool:
        model = mlp(nn.ReLU(), 14)
        initialize(model, init, lambda name: torch.Generator().manual_seed(len(name)))
        torch.manual_seed(0)
        scope = {"model": model, "nn": nn, "images": inputs}
        for code in codes:
            exec(code, scope)
        return certify(model, scope["images"], theories=FAST_THEORIES).verdicts == ()

    assert is_healthy_after(codes)
    for left_out in codes:
        assert not is_healthy_after([code for code in codes if code != left_out])


def test_a_fix_that_cannot_be_predicted_says_so() -> None:
    """The remedy of a depth-unstable network replaces its activation, by hand."""
    certificate = certify(
        mlp(nn.GELU(), 15), 3 * images(side=8), init=HeNormal(), theories=FAST_THEORIES
    )
    assert not certificate.fix.is_enough
    assert "call certify again" in shown(certificate)


def test_a_fix_replaces_an_activation_that_is_used_several_times() -> None:
    certificate = certified(nn.Sigmoid(), XavierNormal(), depth=8)
    assert certificate.fix.is_enough
    assert "nn.Tanh() # instead of nn.Sigmoid()" in shown(certificate)


def test_a_network_has_one_statement_on_training() -> None:
    """Signal and gradient explode, and units overflow; the statements must not contradict."""
    certificate = certified(nn.ReLU(), Normal(std=1e3), depth=20)
    assert {v.problem for v in certificate.verdicts} == {"exploding", "overflowing"}
    assert shown(certificate).count("Training: ") == 1
    assert "Training: The loss is inf or NaN in the first step." in shown(certificate)


@pytest.mark.parametrize(
    ("path", "n_in"), [("net", 64), ("encoder.stage_number_four.block_number_two", 1024)]
)
def test_rows_have_number_path_and_type_and_do_not_wrap(path: str, n_in: int) -> None:
    net = nn.Sequential()
    net.add_module("flatten", nn.Flatten())
    inner: nn.Module = nn.Linear(n_in, 1024)
    for name in reversed(path.split(".")):
        outer = nn.Sequential()
        outer.add_module(name, inner)
        inner = outer
    net.add_module("part", inner)
    net.add_module("act", nn.ReLU())
    net.add_module("head", nn.Linear(1024, 10))
    side = int(n_in**0.5)
    for certificate in (
        certify(net, images(side=side), init=Normal(std=3.0)),
        certify(net, images(side=side), init=Normal(std=3.0), measure=2),
    ):
        lines = to_text(render(certificate)).splitlines()
        first = next(line for line in lines if line.startswith("1  "))
        assert path.rpartition(".")[2] in first
        assert "Linear" in first
        assert next(line for line in lines if line.startswith("2  ")).startswith("2  head")
        assert lines.index(first) + 1 == lines.index(
            next(line for line in lines if line.startswith("2  "))
        )
        assert max(map(len, lines)) <= 100


class Tenth(nn.Module):
    """Activation without a recommended variance."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 10


def test_torch_code_for_an_unknown_activation_scales_the_weights() -> None:
    """The scale of the signal is 1/10 per layer; gains of 10 fix both directions."""
    model = mlp(Tenth(), 6)
    init = Init(XavierNormal())
    verdicts = certify(model, images(side=8), init=init, theories=FAST_THEORIES).verdicts
    assert {verdict.quantity for verdict in verdicts} == {"preact_m2", "vjp_m2"}
    (code,) = {verdict.torch_code for verdict in verdicts}
    assert '"3": 10' in code
    initialize(model, init, lambda name: torch.Generator().manual_seed(len(name)))
    assert certify(model, images(side=8), theories=FAST_THEORIES).verdicts
    exec(code, {"model": model})
    assert certify(model, images(side=8), theories=FAST_THEORIES).verdicts == ()


@pytest.mark.parametrize("problem", ["zero", "vanishing", "healthy"])
def test_repr_is_short(problem: str) -> None:
    scheme = {"zero": Zeros(), "vanishing": XavierNormal(), "healthy": HeNormal()}[problem]
    certificate = certified(nn.ReLU(), scheme)
    health = "healthy" if problem == "healthy" else "unhealthy: vanishing"
    assert repr(certificate) == f"Certificate(14 layers, {health})"
    assert repr(certificate.layers[0]).startswith('LayerCertificate(layer 1 (Linear(64, 64) "1"')


def test_notebooks_show_the_printed_certificate() -> None:
    certificate = certified(nn.ReLU(), XavierNormal())
    html = certificate._repr_html_()
    assert html.startswith("<pre")
    assert "Linear(64, 64)" in html
    assert str(certificate).startswith("✗ The signal")
    assert "\x1b" not in str(certificate)


def test_rich_prints_colors_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = certified(nn.ReLU(), XavierNormal())

    def printed() -> str:
        console = Console(file=StringIO(), force_terminal=True, width=100)
        console.print(certificate)
        return console.file.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[31m" in printed()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in printed()


def test_as_dict_contains_verdicts() -> None:
    certificate = certified(nn.ReLU(), Normal(std=0.01))
    assert certificate.as_dict()["verdicts"][0]["problem"] == "vanishing"


def test_limits_can_be_changed() -> None:
    certificate = certified(nn.ReLU(), XavierNormal())
    assert_healthy(certificate, low=1e-6)
    with pytest.raises(TypeError, match="lowest"):
        assert_healthy(certificate, lowest=1e-6)


def test_global_average_pooling_is_not_vanishing() -> None:
    """The average pooling distributes each cotangent over all positions."""
    convs = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()]
    convs += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    net = nn.Sequential(*convs, nn.Flatten(), nn.Linear(8, 10))
    certificate = certify(net, torch.rand(1, 1, 48, 48), init=HeNormal(), theories=FAST_THEORIES)
    assert certificate.verdicts == ()
