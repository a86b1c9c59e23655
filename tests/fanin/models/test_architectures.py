"""Tests of the layers and sizes of each model."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from experiments.config.instantiate import instantiate, validate
from fanin.errors import ConfigError
from fanin.models import AlexNet, FitNet4, Linear, Mlp, Plain, TwoLayer, Vgg

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
OPTIONS = sorted((Path(__file__).parents[3] / "conf" / "model").glob("*.yaml"))
MODELS = {path.stem: instantiate(yaml.safe_load(path.read_text())) for path in OPTIONS}


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def names(network: nn.Module) -> list[str]:
    return list(dict(network.named_children()))


def linear_parameters(n_in: int, n_out: int) -> int:
    return (n_in + 1) * n_out


def conv_parameters(c_in: int, c_out: int, taps: int) -> int:
    return (c_in * taps + 1) * c_out


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_yaml_lists_every_option_with_its_default(path: Path):
    node = yaml.safe_load(path.read_text())
    assert validate({"_target_": node["_target_"]}) == node


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (Linear(), MNIST, linear_parameters(28 * 28, 10)),
        (Linear(), CIFAR, linear_parameters(3 * 32 * 32, 10)),
        (TwoLayer(), MNIST, conv_parameters(1, 16, 9) + linear_parameters(16 * 14 * 14, 10)),
        (TwoLayer(), CIFAR, conv_parameters(3, 16, 9) + linear_parameters(16 * 16 * 16, 10)),
        (TwoLayer(channels=1, pool=False), MNIST, 10 + 7850),
        (
            Plain(depth=22, width=8),
            MNIST,
            conv_parameters(1, 8, 9)
            + 20 * conv_parameters(8, 8, 9)
            + linear_parameters(8 * 28 * 28, 10),
        ),
        (
            Plain(),
            CIFAR,
            conv_parameters(3, 16, 9)
            + 8 * conv_parameters(16, 16, 9)
            + linear_parameters(16 * 32 * 32, 10),
        ),
        (
            Mlp(depth=4, width=32),
            MNIST,
            linear_parameters(784, 32) + 2 * linear_parameters(32, 32) + linear_parameters(32, 10),
        ),
        (
            FitNet4(width=32),
            CIFAR,
            conv_parameters(3, 32, 9)
            + 2 * conv_parameters(32, 32, 9)
            + conv_parameters(32, 48, 9)
            + conv_parameters(48, 48, 9)
            + conv_parameters(48, 80, 9)
            + 5 * conv_parameters(80, 80, 9)
            + conv_parameters(80, 128, 9)
            + 5 * conv_parameters(128, 128, 9)
            + linear_parameters(128, 10),
        ),
        (
            AlexNet(),
            MNIST,
            conv_parameters(1, 24, 25)
            + conv_parameters(24, 64, 25)
            + conv_parameters(64, 96, 9)
            + conv_parameters(96, 96, 9)
            + conv_parameters(96, 64, 9)
            + linear_parameters(64 * 2 * 2, 256)
            + linear_parameters(256, 256)
            + linear_parameters(256, 10),
        ),
        (
            AlexNet(width=96, dense=128, groups=2),
            CIFAR,
            conv_parameters(3, 96, 25)
            + conv_parameters(48, 256, 25)
            + conv_parameters(256, 384, 9)
            + conv_parameters(192, 384, 9)
            + conv_parameters(192, 256, 9)
            + linear_parameters(256 * 3 * 3, 128)
            + linear_parameters(128, 128)
            + linear_parameters(128, 10),
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, tuple | int) else None,
)
def test_parameter_counts(model, shape, expected):
    network = model.build(shape, 10, nn.ReLU)
    assert parameters(network) == expected
    assert network(torch.rand(2, *shape)).shape == (2, 10)


def test_layers_are_named_in_forward_order():
    relu = nn.ReLU
    assert names(Linear().build(MNIST, 10, relu)) == ["flatten", "fc1"]
    assert names(TwoLayer(norm="layer").build(MNIST, 10, relu)) == [
        *("conv1", "norm1", "act1", "pool1", "flatten", "fc1"),
    ]
    assert names(Mlp(depth=3, norm="batch").build(MNIST, 10, relu)) == [
        *("flatten", "fc1", "norm1", "act1", "fc2", "norm2", "act2", "fc3"),
    ]
    assert names(AlexNet(lrn=True, dropout=0.5).build(MNIST, 10, relu)) == [
        *("conv1", "act1", "lrn1", "pool1", "conv2", "act2", "lrn2", "pool2"),
        *("conv3", "act3", "conv4", "act4", "conv5", "act5", "pool5"),
        *("flatten", "drop5", "fc1", "act6", "drop6", "fc2", "act7", "fc3"),
    ]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("norm", ["batch", "layer", "mean_only", "group"])
def test_norm_follows_every_weight_layer_except_the_last(name: str, norm: str):
    if name in ("linear", "resnet"):  # without a norm, and not a sequence
        return
    network = type(MODELS[name])(norm=norm).build((1, 32, 32), 10, nn.Tanh)
    layers = names(network)
    weight_layers = [layer for layer in layers if layer.startswith(("conv", "fc"))]
    following = [layers[layers.index(layer) + 1] for layer in weight_layers[:-1]]
    assert following == [f"norm{i}" for i in range(1, len(weight_layers))]
    assert layers[-1] == weight_layers[-1]


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"vgg"}))
@pytest.mark.parametrize("side", [7, 14, 15])
def test_small_images_work_or_are_rejected_with_a_hint(name: str, side: int):
    if name == "alexnet" and side < 15:
        pooled = {7: 1, 14: 2}[side]
        message = f"pool5: a 3x3 pool does not fit on a {pooled}x{pooled} map; set data.side to 15"
        with pytest.raises(ConfigError, match=message):
            MODELS[name].build((1, side, side), 10, nn.ReLU)
    else:
        network = MODELS[name].build((1, side, side), 10, nn.ReLU)
        assert network(torch.rand(2, 1, side, side)).shape == (2, 10)


@pytest.mark.parametrize("model", [TwoLayer, Plain, AlexNet])
def test_circular_padding_commutes_with_shifts(model):
    """A shifted image gives shifted maps, because a torus has no border."""
    network = model(padding_mode="circular").build(MNIST, 10, nn.Tanh).double()
    image = torch.rand(1, *MNIST, dtype=torch.float64)
    shifted = network.conv1(image.roll((5, 9), dims=(2, 3)))
    torch.testing.assert_close(shifted, network.conv1(image).roll((5, 9), dims=(2, 3)))


def test_circular_padding_beyond_the_map_is_rejected():
    with pytest.raises(ConfigError, match=r"conv1: circular padding by 8 .* 7x7 map"):
        TwoLayer(kernel_size=17, padding_mode="circular").build((1, 7, 7), 10, nn.ReLU)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("kernel_size", 4, "must be odd"),
        ("padding_mode", "circlar", "did you mean circular"),
        ("norm", "bacth", "did you mean batch"),
        ("channels", 0, "greater than 0"),
        ("width", 8, "no such key"),
    ],
)
def test_an_invalid_option_is_rejected(key: str, value: object, message: str):
    with pytest.raises(ConfigError, match=message):
        instantiate({"_target_": "fanin.models.TwoLayer", key: value}, "model")


def test_groups_need_an_even_width():
    with pytest.raises(ConfigError, match=r"width=25: must be a multiple of groups=2"):
        instantiate({"_target_": "fanin.models.AlexNet", "width": 25, "groups": 2}, "model")


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"fitnet4", "resnet", "vgg"}))
def test_networks_can_be_built_on_the_meta_device(name: str):
    """The number of parameters of the models left out does not grow with the images."""
    with torch.device("meta"):
        network = MODELS[name].build((1, 4096, 4096), 10, nn.ReLU)
    assert {p.device.type for p in network.parameters()} == {"meta"}
    assert parameters(network) > 1_000_000


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_alexnet_with_all_options_runs_in_every_dtype(dtype: torch.dtype):
    model = AlexNet(groups=2, lrn=True, dropout=0.5, norm="batch")
    network = model.build(CIFAR, 10, nn.ReLU).to(dtype).eval()
    assert network(torch.rand(2, *CIFAR, dtype=dtype)).dtype == dtype


# --- VGG --------------------------------------------------------------------------------------


def test_vgg_16_has_the_layers_of_configuration_d():
    """Table 1 of Simonyan & Zisserman 2015, with one linear layer."""
    layers = []
    for layer in Vgg(norm="batch").build(CIFAR, 10, nn.ReLU):
        match layer:
            case nn.Conv2d(kernel_size=(3, 3)):
                layers.append(layer.out_channels)
            case nn.MaxPool2d(kernel_size=2, stride=2):
                layers.append("maxpool")
            case nn.Linear():
                layers.append((layer.in_features, layer.out_features))
    assert layers == [
        *(64, 64, "maxpool", 128, 128, "maxpool", 256, 256, 256, "maxpool"),
        *(512, 512, 512, "maxpool", 512, 512, 512, "maxpool", (512, 10)),
    ]


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_vgg_has_its_depth_without_two_linear_layers(depth: int):
    with torch.device("meta"):
        network = Vgg(depth=depth).build(CIFAR, 10, nn.ReLU)
    convs = [name for name in names(network) if name.startswith("conv")]
    assert len(convs) == depth - 3
    # The convolutions of torchvision's models of these depths (torchvision.models.vgg).
    assert (
        sum(parameters(network.get_submodule(conv)) for conv in convs)
        == {
            11: 9_220_480,
            13: 9_404_992,
            16: 14_714_688,
            19: 20_024_384,
        }[depth]
    )


def test_vgg_needs_images_of_32_pixels():
    network = Vgg(depth=19, width=1).build((1, 32, 32), 10, nn.ReLU)
    assert network(torch.rand(2, 1, 32, 32)).shape == (2, 10)
    message = "pool16: a 2x2 pool does not fit on a 1x1 map; set data.side to 32"
    with pytest.raises(ConfigError, match=message):
        Vgg(depth=19, width=1).build((1, 31, 31), 10, nn.ReLU)


@pytest.mark.parametrize(
    ("channels", "groups"), [(64, 8), (16, 8), (12, 2), (4, 2), (2, 1), (9, 1), (1, 1)]
)
def test_groups_of_a_group_norm_have_at_least_two_channels(channels: int, groups: int):
    network = Mlp(depth=2, width=channels, norm="group").build(MNIST, 10, nn.ReLU)
    assert network.norm1.num_groups == groups
    assert network(torch.rand(2, *MNIST)).shape == (2, 10)
