"""A script that does nothing, with as many config groups as fanin: measures Hydra's overhead."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="trivial_conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> int:
    return 0


if __name__ == "__main__":
    main()
