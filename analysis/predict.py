"""Print the init certificate of a configured cell, without training: `python -m analysis.predict`.

python -m analysis.predict model=alexnet init=he_normal activation=tanh data=mnist
python -m analysis.predict model=plain format=json
python -m analysis.predict model=two_layer measure=16      16 real draws beside the prediction
python -m analysis.predict model=two_layer format=explain  from He's number to the measured one
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from experiments.config.catalog import CONF, hydra_arguments
from experiments.console import BrokenPipeConsole, exit_on_error
from experiments.sweep.cli import check_argv, space_of
from fanin.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from experiments.schema import Cell
    from fanin.theory import Certificate

CONFIG_NAME = "predict"
FORMATS = ("table", "json", "explain")
EXPLAIN_DRAWS = 16  # draws that are explained where `measure` says nothing
OWN_KEYS = ("format", "theories", "images", "measure")  # keys that are no part of the cell
WIDTH, EXPLAIN_WIDTH = 100, 120


# An absolute path: from a console script Hydra would look for a relative one inside a package.
@hydra.main(config_path=str(CONF), config_name=CONFIG_NAME, version_base="1.3")
def predict_one(config: DictConfig) -> None:
    """Predict the cell that Hydra composed."""
    from experiments.sweep.expand import expand
    from experiments.sweep.overrides import parse_arguments
    from experiments.sweep.request import parse_request

    about = HydraConfig.get()
    loader = GlobalHydra.instance().config_loader()
    with exit_on_error():
        arguments = parse_arguments(loader, list(about.overrides.task))
        space = space_of(loader, about.job.config_name or CONFIG_NAME, tuple(about.overrides.hydra))
        request = parse_request(space, [a for a in arguments if a.key not in OWN_KEYS])
        (cell,) = expand(space, request.grids)
        if config.format not in FORMATS:
            raise ConfigError(f"format={config.format}: expected one of {', '.join(FORMATS)}")
        images, measure = (
            _parse_count("images", config.images),
            _parse_count("measure", config.measure),
        )
        show(cell.config, cell.id, config.format, _parse_theories(config.theories), images, measure)


def show(
    config: dict[str, Any],
    cell_id: str,
    form: str,
    theories: Sequence[str],
    images: int,
    measure: int,
) -> None:
    """Print the certificate as a table or as one JSON object, or the waterfall."""
    if form == "explain":
        from fanin.theory import explain

        model, inputs, _, cell = _network(config, images)
        found = explain(model, inputs, cell.init, draws=measure or EXPLAIN_DRAWS)
        BrokenPipeConsole(width=EXPLAIN_WIDTH, highlight=False).print(cell_id, found, sep="\n")
        return
    certificate = build_certificate(config, theories, images, measure)
    if form == "json":
        told = {"cell_id": cell_id, **certificate.as_dict()}
        print(json.dumps(told, indent=2, allow_nan=False))
        return
    from fanin.theory import print_certificate

    print_certificate(certificate, title=cell_id, width=WIDTH)


def build_certificate(
    config: dict[str, Any], theories: Sequence[str], images: int, measure: int = 0
) -> Certificate:
    """The certificate of a cell's network on its own images, by every theory that has a formula.

    Parameters
    ----------
    config
        A coerced cell config. Its data is loaded, for theory starts from real images.
    theories
        Which theories, from coarse to fine.
    images
        How many of the probe images theory is asked about, the first ones.
    measure
        Real draws to set beside it.

    Raises
    ------
    UnpredictableLayer
        Not even the coarsest theory has a formula for a layer.
    """
    from fanin.theory import UnpredictableLayer, certify
    from fanin.theory.certificate.weights import resolve_moments

    model, inputs, labels, cell = _network(config, images)
    resolve_moments(model, cell.init)  # an init that declares no moments fails every theory
    while True:
        try:
            return certify(
                *(model, inputs),
                init=cell.init,
                theories=theories,
                labels=labels,
                loss=cell.objective,
                measure=measure,
            )
        except UnpredictableLayer as error:
            if len(theories) == 1:
                raise
            left_out = error.theory or theories[-1]
            print(f"without theory {left_out}: {error}", file=sys.stderr)
            theories = tuple(theory for theory in theories if theory != left_out)


def _network(config: dict[str, Any], images: int) -> tuple[nn.Module, Tensor, Tensor, Cell]:
    """The cell's network, its first probe images as inputs, and their labels."""
    import torch

    from experiments.inputs import prepared, probe_images
    from experiments.schema import build_cell

    cell = build_cell(config)
    data, scaling = prepared(cell, torch.device("cpu"))
    # Rounded as the network sees them, then exact: theory itself is computed in float64.
    inputs = probe_images(cell, data, scaling)[:images].double()
    return cell.network().eval(), inputs, data.train.y[: len(inputs)], cell


def _parse_theories(value: object) -> tuple[str, ...]:
    if not isinstance(value, ListConfig) or not value:
        raise ConfigError(f"theories={value}: expected a list, such as theories=[he,mean_field]")
    return tuple(map(str, value))


def _parse_count(key: str, value: object) -> int:
    least = 1 if key == "images" else 0
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{key}={value}: expected a whole number, {least} or more")
    return value


def main() -> None:
    """Check the command line, then let Hydra take it."""
    with exit_on_error():
        if hydra_arguments().multirun:
            raise ConfigError("analysis.predict takes one cell; leave out -m")
    check_argv(CONFIG_NAME)
    predict_one()


if __name__ == "__main__":
    main()
