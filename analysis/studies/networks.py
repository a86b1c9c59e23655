"""Networks, inits and images of the comparisons in docs/appendix/theory-networks.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from experiments.data import Data
from experiments.data.cifar import Cifar10
from experiments.data.dataset import Source
from experiments.data.mnist import Mnist
from experiments.scaling import Scaling, Standardize, Unit
from fanin.inits import (
    HeNormal,
    Init,
    LayerInit,
    LecunNormal,
    Normal,
    PytorchDefault,
    Scheme,
    Uniform,
)
from fanin.models import AlexNet, Mlp, Plain
from fanin.models.base import ImageShape
from fanin.theory.moments import LayerMoments, declared_moments

Network = Callable[[ImageShape], nn.Sequential]


@dataclass(frozen=True)
class NetworkCase:
    """A network with its init and one input image.

    Attributes
    ----------
    title
        Name and description in one line, separated by a colon.
    build
        Function that builds the network for an image shape.
    scheme, layers
        Init scheme, and exceptions for single layers (as `Init.layers`).
    source, scaling, side
        Data source, input scaling and side of the image, which is the first training image.
    """

    title: str
    build: Network
    scheme: Scheme
    source: Source
    scaling: Scaling = field(default_factory=lambda: Scaling(Unit()))
    side: int | None = None
    layers: dict[str, LayerInit] = field(default_factory=dict)

    @property
    def init(self) -> Init:
        """Init of the network."""
        return Init(self.scheme, layers=self.layers)

    def network(self, image: Float[Tensor, "1 channel height width"]) -> nn.Sequential:
        """Build the network in evaluation mode and float64, with PyTorch's default weights."""
        _, channels, height, width = image.shape
        return self.build((channels, height, width)).double().eval()

    def moments(self, network: nn.Sequential) -> dict[str, LayerMoments]:
        """Return the declared weight moments, the theory's input."""
        return declared_moments(network, self.init)

    def image(self, root: str) -> Float[Tensor, "1 channel height width"]:
        """Load and scale the image, in float64.

        Raises
        ------
        DataError
            The files are not under `root` and cannot be downloaded.
        """
        data = Data(self.source, side=self.side, root=root).load()
        fitted = self.scaling.fit(data.train.x, data.full_scale)
        return fitted.apply(data.train.x[:1]).double()


def tanh_pooled(shape: ImageShape) -> nn.Sequential:
    """Build three padded convolutions of 64 channels with tanh, average-pooling and a linear layer.

    Examples
    --------
    >>> [type(module).__name__ for module in tanh_pooled((3, 16, 16))][:4]
    ['Conv2d', 'Tanh', 'AvgPool2d', 'Conv2d']
    """
    return nn.Sequential(
        nn.Conv2d(shape[0], 64, 3, padding=1),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def max_pooled(shape: ImageShape) -> nn.Sequential:
    """Build [padded 3x3 conv - ReLU - max-pool] twice, conv - ReLU - linear; 64 channels."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 10),
    )


def alexnet(shape: ImageShape) -> nn.Sequential:
    """Build fanin's small AlexNet with 64 channels."""
    return AlexNet(width=64).build(shape, 10, nn.ReLU)


CASES = (
    NetworkCase(
        "mlp: 10 linear layers of 256, ReLU, He; an MNIST digit in [0, 1]",
        lambda shape: Mlp(depth=10, width=256).build(shape, 10, nn.ReLU),
        HeNormal(),
        Mnist(),
    ),
    NetworkCase(
        "plain: 9 padded 3x3 convolutions of 64 channels and a linear layer, ReLU, He; a CIFAR-10 "
        "image at 14x14, standardized",
        lambda shape: Plain(depth=10, width=64).build(shape, 10, nn.ReLU),
        HeNormal(),
        Cifar10(),
        Scaling(Standardize()),
        side=14,
    ),
    NetworkCase(
        "alexnet: 64 channels, overlapping max-pools, ReLU, torch's default init with its biases; "
        "a CIFAR-10 image in [0, 1]",
        alexnet,
        PytorchDefault(),
        Cifar10(),
    ),
    NetworkCase(
        "tanh: 3 padded convolutions of 64 channels with average-pools, the last over all "
        "positions, LeCun's init; a CIFAR-10 image at 16x16, standardized",
        tanh_pooled,
        LecunNormal(),
        Cifar10(),
        Scaling(Standardize()),
        side=16,
    ),
    NetworkCase(
        "non-zero mean: 3 padded convolutions of 64 channels with max-pools, ReLU, weights "
        "U(-0.02, 0.05); a CIFAR-10 image at 16x16 in [0, 1]",
        max_pooled,
        Uniform(a=-0.02, b=0.05),
        Cifar10(),
        side=16,
    ),
)
"""Networks on which the theories are compared."""

ANYINIT_CASE = NetworkCase(
    "anyinit init: the network of *non-zero mean*, with Gaussian weights of the variances that "
    "anyinit chooses; a CIFAR-10 image at 16x16, standardized",
    max_pooled,
    Normal(std=1.0),
    Cifar10(),
    Scaling(Standardize()),
    side=16,
)
"""Network for anyinit's own init; `compare_anyinit_init` fills in the standard deviations."""
