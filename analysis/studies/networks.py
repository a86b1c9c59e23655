"""The networks that docs/appendix/theory-networks.md compares theories on, each with its init and one real image."""

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
    """A network, how its weights are drawn, and what it is shown.

    Attributes
    ----------
    title
        What a reader has to know, in a line.
    build
        Makes the network for an image's shape.
    scheme, layers
        The init, and what differs in single layers (as `Init.layers`).
    source, scaling, side
        Where the image comes from: the first training image.
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
        """The init as the lab draws it."""
        return Init(self.scheme, layers=self.layers)

    def network(self, image: Float[Tensor, "1 channel height width"]) -> nn.Sequential:
        """The network in evaluation mode and float64; its weights are torch's own."""
        _, channels, height, width = image.shape
        return self.build((channels, height, width)).double().eval()

    def moments(self, network: nn.Sequential) -> dict[str, LayerMoments]:
        """Moments of the weights, as the theory reads them."""
        return declared_moments(network, self.init)

    def image(self, root: str) -> Float[Tensor, "1 channel height width"]:
        """The image as the network is fed it, float64.

        Raises
        ------
        DataError
            The files are neither under `root` nor to be had.
        """
        data = Data(self.source, side=self.side, root=root).load()
        fitted = self.scaling.fit(data.train.x, data.full_scale)
        return fitted.apply(data.train.x[:1]).double()


def tanh_pooled(shape: ImageShape) -> nn.Sequential:
    """Three padded convolutions of 64 channels, an average-pool between, one over all at the end.

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
    """[conv 3x3 padded - ReLU - max-pool] twice, conv - ReLU, linear; 64 channels."""
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
    """The cut-down AlexNet at 64 channels."""
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
        "means: 3 padded convolutions of 64 channels with max-pools, ReLU, weights "
        "U(-0.02, 0.05); a CIFAR-10 image at 16x16 in [0, 1]",
        max_pooled,
        Uniform(a=-0.02, b=0.05),
        Cifar10(),
        side=16,
    ),
)
"""What docs/appendix/theory-networks.md compares on."""

ANYINIT_CASE = NetworkCase(
    "anyinit's own: the network of `means` with Gaussian weights of the variances that anyinit "
    "gives them; a CIFAR-10 image at 16x16, standardized",
    max_pooled,
    Normal(std=1.0),
    Cifar10(),
    Scaling(Standardize()),
    side=16,
)
"""Its standard deviations, layer by layer, have to be asked for."""
