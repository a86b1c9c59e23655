"""Models and images that users pass: conversions, subsampling, and one-line errors."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fanin import assert_healthy, certify, explain, prescribe, probe, progress
from fanin.errors import ConfigError, FaninError, InputError
from fanin.inits import HeNormal

FAST = {"theories": ("he", "mean_field")}


def net() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
    )


def images(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def run_all(model: nn.Module, x: object, **arguments: object) -> list[object]:
    """Call every function that accepts images; return the exceptions."""
    calls = (
        lambda: certify(model, x, init="he_normal", **FAST),
        lambda: explain(model, x, "he_normal", draws=2),
        lambda: prescribe(model, x),
        lambda: assert_healthy(model, x, init="he_normal"),
        lambda: probe(model, x),
    )
    errors = []
    for call in calls:
        with pytest.raises(FaninError) as error:
            call()
        errors.append(error.value)
    return errors


INVALID = {
    "uint8": (
        torch.zeros(2, 1, 6, 6, dtype=torch.uint8),
        r"images has dtype uint8; convert and scale .* images\.float\(\) / 255",
    ),
    "uint8 array": (np.zeros((2, 1, 6, 6), np.uint8), r"images has dtype uint8"),
    "NaN": (
        torch.tensor([0.0, float("nan")])[:, None, None, None].expand(2, 1, 6, 6),
        r"images\[1, 0, 0, 0\] is nan; 36 of 72 values are NaN or infinite, in 1 of 2 samples",
    ),
    "infinite": (
        torch.full((2, 1, 6, 6), float("inf")),
        "72 of 72 values are NaN or infinite, in 2 of 2 samples",
    ),
    "empty": (torch.zeros(0, 1, 6, 6), r"images has shape \(0, 1, 6, 6\); pass one or more"),
    "complex": (torch.zeros(2, 1, 6, 6, dtype=torch.complex64), "images is complex"),
    "channels": (torch.zeros(2, 3, 6, 6), r"layer 0 \(Conv2d\) needs 1 channels, but gets 3"),
    "channels last": (
        torch.zeros(2, 6, 6, 1),
        r"for channels in the last axis, use images\.permute\(0, 3, 1, 2\)",
    ),
    "size": (
        torch.zeros(2, 1, 8, 8),
        r"layer 3 \(Linear\) needs 144 inputs, but gets 256; the shape of one image is \(1, 8, 8\)",
    ),
    "single image": (torch.zeros(1, 6, 6), r"for a single image, use images\[None\]"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_images_raise_one_line(name: str):
    x, message = INVALID[name]
    for error in run_all(net(), x):
        assert isinstance(error, InputError)
        assert isinstance(error, ValueError)
        assert "\n" not in str(error)
        with pytest.raises(InputError, match=message):
            raise error


@pytest.mark.parametrize("function", [certify, prescribe, lambda m, x: explain(m, x, "he_normal")])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            (images(), torch.tensor([0, 1])),
            r"a tuple of 2 tensors; pass the images only: batch\[0\]",
        ),
        ([images(), np.array([0, 1])], r"pass the images only: batch\[0\]"),
        ([images()], r"a list of 1 tensor; pass the images only: batch\[0\]"),
        ([images(), images()], r"a list of 2 tensors; pass one tensor: torch\.stack"),
        ([images()] * 3, r"a list of 3 tensors; pass one tensor: torch\.stack"),
        ({"x": images()}, r"of type dict; pass the tensor of the images only: batch\[KEY\]"),
        (DataLoader(TensorDataset(images())), r"next\(iter\(loader\)\)\[0\]"),
        (None, "of type NoneType; pass a tensor or a numpy array"),
    ],
)
def test_other_types_than_arrays_are_refused(function, x, message: str):
    with pytest.raises(InputError, match=message):
        function(net(), x)


def test_probe_refuses_a_list_of_tensors():
    with pytest.raises(InputError, match="batch is a list of 3 tensors; pass images as one tensor"):
        probe(net(), [images()] * 3)


LAZY = nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 2))
MODELS = {
    "lazy": (LAZY, r"layer 1 \(LazyLinear\) has no weights yet; call model\(images\) once"),
    "meta": (
        nn.Sequential(nn.Flatten(), nn.Linear(36, 4, device="meta")),
        r"layer 1 \(Linear\) is on the meta device and holds no values; create the model on the",
    ),
    "function": (lambda x: x, "model is of type function; pass an nn.Module"),
    "class": (nn.ReLU, "model is the class ReLU; pass an instance"),
}


@pytest.mark.parametrize("name", MODELS)
def test_invalid_models_raise_one_line(name: str):
    model, message = MODELS[name]
    for error in run_all(model, images()):
        assert "\n" not in str(error)
        with pytest.raises(InputError, match=message):
            raise error


def test_a_model_without_parameters_cannot_be_probed():
    with pytest.raises(InputError, match="has no parameters to measure"):
        probe(nn.Flatten(), images())


def test_a_model_in_half_precision_is_predicted_in_float64():
    expected = certify(net(), images(), init="he_normal").to_frame()
    half = certify(net().half(), images(), init="he_normal").to_frame()
    assert half.equals(expected)


def test_a_model_in_half_precision_is_measured_in_its_dtype():
    """float16 has a relative precision of 2^-11; a second moment sums rounding errors below 1 %."""
    model = net()
    expected = probe(model, images()).set_index(["layer", "quantity"]).value
    half = probe(model.half(), images()).set_index(["layer", "quantity"]).value
    for quantity in ("preact_m2", "vjp_m2"):
        ratio = half.xs(quantity, level=1) / expected.xs(quantity, level=1)
        assert (ratio - 1).abs().max() < 0.01
    assert not half.equals(expected)


def test_numpy_arrays_give_the_same_results_as_tensors():
    model, x = net(), images()
    assert certify(model, x.numpy(), **FAST).frame.equals(certify(model, x, **FAST).frame)
    assert probe(model, x.numpy()).equals(probe(model, x))
    assert prescribe(model, x.numpy()).gains == prescribe(model, x).gains
    targets = np.array([0, 1])
    loss = nn.functional.cross_entropy
    assert probe(model, (x.numpy(), targets), loss=loss).equals(
        probe(model, (x, torch.tensor(targets)), loss=loss)
    )


def test_large_sets_are_subsampled_with_a_line_that_says_so(capsys, monkeypatch):
    monkeypatch.setattr(progress, "FIRST_LINE", 1e6)  # no line of progress on a slow machine
    model, x = net(), images(20)
    indices = [0, 3, 5, 8, 11, 14, 16, 19]  # 19 i / 7, rounded
    certificate = certify(model, x, **FAST)
    assert torch.equal(certificate.inputs.images, x[indices].double())
    line = "certify: uses 8 of the 20 images, evenly spaced; max_images=20 uses all\n"
    assert capsys.readouterr().err == line
    assert "All numbers are for 8 of the 20 images" in str(certificate)
    assert certificate.frame.equals(certify(model, x[indices], **FAST).frame)
    assert capsys.readouterr().err == ""
    assert len(certify(model, x, max_images=None, **FAST).inputs.images) == 20
    assert len(certify(model, x, max_images=3, quiet=True, **FAST).inputs.images) == 3
    assert capsys.readouterr().err == ""
    prescribe(model, x)
    assert capsys.readouterr().err.startswith("prescribe: uses 8 of the 20 images")


def test_labels_are_subsampled_with_their_images():
    x, labels = images(9), torch.arange(9)
    certificate = certify(net(), x, init="he_normal", labels=labels, measure=1, quiet=True, **FAST)
    same = certify(
        *(net(), certificate.inputs.images),
        init="he_normal",
        labels=torch.tensor([0, 1, 2, 3, 5, 6, 7, 8]),
        measure=1,
        **FAST,
    )
    assert certificate.draws.equals(same.draws)
    with pytest.raises(InputError, match="9 images, but 3 labels"):
        certify(net(), x, labels=labels[:3], **FAST)


@pytest.mark.parametrize("max_images", [0, -1])
def test_at_least_one_image_is_used(max_images: int):
    with pytest.raises(InputError, match=f"max_images={max_images}: must be 1 or more"):
        certify(net(), images(), max_images=max_images)


def test_inits_by_name_give_the_same_results_as_schemes():
    model, x = net(), images()
    assert certify(model, x, init="he_normal", **FAST).frame.equals(
        certify(model, x, init=HeNormal(), **FAST).frame
    )
    assert prescribe(model, x, init="he_normal").gains == prescribe(model, x).gains
    by_name, by_scheme = (explain(model, x, init, draws=2).frame for init in ("zeros", "zeros"))
    assert by_name.equals(by_scheme)
    assert probe(model, x, init="he_normal", seed=3).equals(
        probe(model, x, init=HeNormal(), seed=3)
    )


def test_probe_with_an_init_measures_new_weights_and_keeps_the_model():
    model, x = net(), images()
    before = probe(model, x)
    zeros = probe(model, x, init="zeros").query("quantity == 'preact_m2'").value
    assert zeros.tolist() == [0.0, 0.0]
    assert probe(model, x).equals(before)
    draws = [probe(model, x, init="he_normal", seed=seed) for seed in (0, 0, 1)]
    assert draws[0].equals(draws[1])
    assert not draws[0].equals(draws[2])


@pytest.mark.parametrize(
    "call",
    [
        lambda: certify(net(), images(), init="he_norml"),
        lambda: explain(net(), images(), "he_norml"),
        lambda: prescribe(net(), images(), init="he_norml"),
        lambda: assert_healthy(net(), images(), init="he_norml"),
        lambda: probe(net(), images(), init="he_norml"),
    ],
)
def test_unknown_inits_list_the_nearest_names(call):
    with pytest.raises(ConfigError, match="init='he_norml': no such init; did you mean he_normal"):
        call()
