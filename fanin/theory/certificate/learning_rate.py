"""What the curvature at initialization says of the learning rate: measured, on one draw."""

from __future__ import annotations

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from fanin.inits import weight_layers
from fanin.losses import Objective
from fanin.probes.sharpness import sharpness
from fanin.theory.certificate.networks import drawn
from fanin.theory.certificate.weights import Weights

WHOLE_NET = ""
# THEORY.md, section 6: 32 points, width 256, full batch; what was seen, not what was proved.
MEANING = {
    "mse": (
        "full-batch gradient descent overshoots from a learning rate of 2/sharpness on; nets of two"
        " layers diverge at 4/sharpness, deeper rectifier nets at 8 to 40/sharpness"
    ),
    "cross_entropy": (
        "a cautious bound only: this loss flattens as soon as the batch is fitted, and rectifier"
        " nets first overshot at 20 to 40 times 1/sharpness"
    ),
}
OTHER = "a cautious bound: gradient descent on a quadratic of this curvature diverges beyond it"


def sharpness_by_layer(
    model: nn.Module,
    images: Float[Tensor, "image ..."],
    labels: Shaped[Tensor, " image"],
    weights: Weights,
    objective: Objective,
    seed: int = 0,
) -> dict[str, float]:
    """Largest Hessian eigenvalue of the mean loss of one draw, whole net and single layers.

    In evaluation mode: a loss that changes with each dropout mask has no curvature.

    Returns
    -------
    dict
        By layer name, where only that layer's weights and biases may move; the whole net's under
        the empty name.
    """
    (network,) = drawn(model, weights, 1, seed)
    network.eval()
    found = {WHOLE_NET: sharpness(network, objective.loss, images, labels)}
    for name, layer in weight_layers(network).items():
        alone = _OnlyLayer(network, name, layer)
        found[name] = sharpness(alone, objective.loss, images, labels)
    return found


def meaning(loss: str) -> str:
    """What 2 / sharpness does and does not say for a loss."""
    return MEANING.get(loss, OTHER)


class _OnlyLayer(nn.Module):
    """A network in which one layer's parameters are the only ones."""

    def __init__(self, network: nn.Module, name: str, layer: nn.Module) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple, so that its parameters aren't taken for ours
        self._prefix = name
        for key, parameter in layer.named_parameters():
            self.register_parameter(key, nn.Parameter(parameter.detach()))

    def forward(self, x: Tensor) -> Tensor:
        (network,) = self._network
        own: dict[str, Tensor] = {
            f"{self._prefix}.{key}": value for key, value in self.named_parameters()
        }
        y: Tensor = functional_call(network, own, (x,))
        return y
