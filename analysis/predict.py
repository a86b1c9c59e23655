"""Print the init certificate of a configured cell, without training: `fanin predict`.

fanin predict model=alexnet init=he_normal activation=tanh data=mnist
fanin predict model=plain verbose=true        also the table of all moments
fanin predict model=plain format=json         one JSON object
fanin predict model=two_layer measure=16      compare with 16 measured draws
fanin predict model=two_layer format=explain  explain measured / He, step by step
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
from experiments.sweep.cli import check_argv, compose_catalog
from fanin.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from experiments.schema import Cell
    from fanin.theory import Certificate

CONFIG_NAME = "predict"
FORMATS = ("table", "json", "explain")
EXPLAIN_DRAWS = 16  # draws for `format=explain` with `measure=0`
OWN_KEYS = ("format", "theories", "images", "measure", "verbose")  # keys outside the cell config
WIDTH = 100  # columns


# The path is absolute because Hydra resolves a relative one inside the console script's package.
@hydra.main(config_path=str(CONF), config_name=CONFIG_NAME, version_base="1.3")
def predict_one(config: DictConfig) -> None:
    """Predict the cell that Hydra composed."""
    from experiments.sweep.expand import expand
    from experiments.sweep.overrides import parse_arguments
    from experiments.sweep.request import parse_request

    hydra_config = HydraConfig.get()
    loader = GlobalHydra.instance().config_loader()
    with exit_on_error():
        arguments = parse_arguments(loader, list(hydra_config.overrides.task))
        space = compose_catalog(
            loader, hydra_config.job.config_name or CONFIG_NAME, tuple(hydra_config.overrides.hydra)
        )
        request = parse_request(space, [a for a in arguments if a.key not in OWN_KEYS])
        (cell,) = expand(space, request.grids)
        if config.format not in FORMATS:
            raise ConfigError(f"format={config.format}: expected one of {', '.join(FORMATS)}")
        images, measure = (
            _parse_count("images", config.images),
            _parse_count("measure", config.measure),
        )
        if not isinstance(config.verbose, bool):
            raise ConfigError(f"verbose={config.verbose}: expected true or false")
        theories = _parse_theories(config.theories)
        show(cell.config, cell.id, config.format, theories, images, measure, config.verbose)


def show(
    config: dict[str, Any],
    cell_id: str,
    output_format: str,
    theories: Sequence[str],
    images: int,
    measure: int,
    verbose: bool,
) -> None:
    """Print the certificate as a table or as JSON, or the explanation."""
    if output_format == "explain":
        from fanin.theory import explain

        model, inputs, _, cell = _network(config, images)
        explanation = explain(
            *(model, inputs, cell.init), draws=measure or EXPLAIN_DRAWS, max_images=None
        )
        console = BrokenPipeConsole(width=WIDTH, markup=False, highlight=False)
        console.print(cell_id, explanation, sep="\n")
        return
    certificate = build_certificate(config, theories, images, measure)
    if output_format == "json":
        document = {"cell_id": cell_id, **certificate.as_dict()}
        print(json.dumps(document, indent=2, allow_nan=False))
        return
    from fanin.theory import print_certificate

    print_certificate(certificate, cell_id, WIDTH, verbose=verbose, from_config=True)


def build_certificate(
    config: dict[str, Any], theories: Sequence[str], images: int, measure: int = 0
) -> Certificate:
    """Certify a cell's network on its own images with every theory that has a formula.

    Parameters
    ----------
    config
        A validated cell config. Its data is loaded, because theory starts from real images.
    theories
        Theories from the lowest to the highest.
    images
        Number of probe images to predict for, starting from the first.
    measure
        Number of draws to measure and compare with the prediction.

    Raises
    ------
    UnpredictableLayer
        No theory has a formula for some layer.
    """
    from fanin.theory import UnpredictableLayer, certify
    from fanin.theory.certificate.weights import resolve_moments
    from fanin.theory.predict import applicable_theories

    model, inputs, labels, cell = _network(config, images)
    resolve_moments(model, cell.init)  # raises if the init declares no moments
    messages: list[str] = []
    while True:
        try:
            certificate = certify(
                *(model, inputs),
                init=cell.init,
                theories=theories,
                labels=labels,
                loss=cell.objective,
                measure=measure,
                max_images=None,
            )
        except UnpredictableLayer as error:
            usable = applicable_theories(model, tuple(inputs.shape[1:]), theories)
            if len(usable) == 1:  # this error says enough
                raise
            skipped = error.theory or usable[-1]
            messages.append(f"Skipped theory {skipped}: {error}")
            theories = tuple(theory for theory in usable if theory != skipped)
        else:
            for message in messages:
                print(message, file=sys.stderr)
            return certificate


def _network(config: dict[str, Any], images: int) -> tuple[nn.Module, Tensor, Tensor, Cell]:
    """Return the network, `images` probe images as its inputs, their labels, and the cell."""
    import torch

    from experiments.inputs import prepared, probe_images
    from experiments.schema import build_cell
    from fanin.models import use_batch_statistics

    cell = build_cell(config)
    data, scaling = prepared(cell, torch.device("cpu"))
    # Scaled in float32 like the network's inputs; theory then computes in float64.
    inputs = probe_images(cell, data, scaling)[:images].double()
    model = cell.network().eval()
    use_batch_statistics(model)
    return model, inputs, data.train.y[: len(inputs)], cell


def _parse_theories(value: object) -> tuple[str, ...]:
    if not isinstance(value, ListConfig) or not value:
        raise ConfigError(
            f"theories={value}: expected a list of theories, such as theories=[he,mean_field]"
        )
    return tuple(map(str, value))


def _parse_count(key: str, value: object) -> int:
    minimum = 1 if key == "images" else 0
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigError(f"{key}={value}: expected an integer of at least {minimum}")
    return value


def main() -> None:
    """Check the command line, then run Hydra."""
    with exit_on_error():
        if hydra_arguments().multirun:
            raise ConfigError("-m: fanin predict accepts only one cell; remove -m")
    check_argv(CONFIG_NAME)
    predict_one()


if __name__ == "__main__":
    main()
