"""A small sweep of which everything that people can name holds what could hurt a page."""

from __future__ import annotations

from pathlib import Path

from small_sweep import SMALL

from analysis import Results, load
from experiments.config.catalog import config_loader
from experiments.sweep.cli import run_command

NAME = "<img src=x onerror=alert(1)>"  # a folder may be called so
WORD = "$x$ </script><script>alert(1)</script>"
CELLS = 24  # four inits, two learning rates, three seeds
SWEEP = f"""
question: Does {WORD} show as text?
fixed: {{model: mlp, model.depth: 2, model.width: 8}}
grid:
  init:
    - he_normal
    - xavier_normal
    - {{init: outspoken, init.word: {WORD!r}}}
    - {{init: outspoken, init.word: {WORD!r}, init.raises: true}}
  optim.lr: [0.1, 1.0e+8]
  seed: range(3)
"""
OPTIONS = {
    "init/outspoken": "_target_: outspoken.Outspoken\nword: ''\nraises: false\n",
    "sweep/told": SWEEP,
}


def run_told(root: Path) -> Results:
    """Run it: some cells diverge, some fail."""
    for option, text in OPTIONS.items():
        path = root / "conf" / f"{option}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    where = ["sweep=told", f"sweep.name='{NAME}'", f"sweep.results={root / 'results'}"]
    loader = config_loader(str(root / "conf"))
    assert run_command(loader, "config", [*SMALL, *where]) == 1  # some cells fail
    return load(NAME, root / "results")
