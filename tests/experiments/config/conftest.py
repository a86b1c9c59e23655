"""Fixtures: the options under `conf/`, composed once for all tests of this folder."""

import pytest
from hydra.core.config_loader import ConfigLoader

from experiments.config.catalog import ConfigCatalog, config_loader


@pytest.fixture(scope="session")
def loader() -> ConfigLoader:
    return config_loader()


@pytest.fixture(scope="session")
def catalog(loader: ConfigLoader) -> ConfigCatalog:
    return ConfigCatalog(loader, "config")
