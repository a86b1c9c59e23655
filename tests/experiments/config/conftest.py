"""The options under `conf/`, composed once for all tests of this folder."""

import pytest
from hydra.core.config_loader import ConfigLoader

from experiments.config.loader import config_loader
from experiments.config.space import Space


@pytest.fixture(scope="session")
def loader() -> ConfigLoader:
    return config_loader()


@pytest.fixture(scope="session")
def space(loader: ConfigLoader) -> Space:
    return Space(loader, "config")
