"""A small sweep with HTML and TeX markup in every text that a user can choose."""

from __future__ import annotations

from pathlib import Path

from small_sweep import SMALL

from analysis import Results, load
from experiments.config.catalog import config_loader
from experiments.sweep.cli import run_command

NAME = "<img src=x onerror=alert(1)>"  # a valid folder name
MARKUP = "$x$ </script><script>alert(1)</script>"
CELLS = 24  # four inits, two learning rates, three seeds
SWEEP = f"""
question: Does {MARKUP} show as text?
fixed: {{model: mlp, model.depth: 2, model.width: 8}}
grid:
  init:
    - he_normal
    - xavier_normal
    - {{init: hostile, init.text: {MARKUP!r}}}
    - {{init: hostile, init.text: {MARKUP!r}, init.raises: true}}
  optim.lr: [0.1, 1.0e+8]
  seed: range(3)
"""
OPTIONS = {
    "init/hostile": "_target_: hostile_init.HostileInit\ntext: ''\nraises: false\n",
    "sweep/hostile": SWEEP,
}


def run_hostile_sweep(root: Path) -> Results:
    """Run the sweep; some cells diverge and some fail."""
    for option, text in OPTIONS.items():
        path = root / "conf" / f"{option}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    overrides = ["sweep=hostile", f"sweep.name='{NAME}'", f"sweep.results={root / 'results'}"]
    loader = config_loader(str(root / "conf"))
    assert run_command(loader, "config", [*SMALL, *overrides]) == 1  # some cells fail
    return load(NAME, root / "results")
