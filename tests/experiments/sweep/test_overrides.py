"""Meaning of valid overrides."""

import sys

import pytest

from experiments.config.catalog import config_loader
from experiments.sweep.cli import check_command, run_command
from experiments.sweep.overrides import parse_arguments
from fanin.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("optim.lr=0.1,1e-2", [0.1, 0.01]),
        ("seed=range(3)", [0, 1, 2]),
        ("seed=range(1,6,2)", [1, 3, 5]),
        ("seed=choice(4,5)", [4, 5]),
        ("seed=sort(3,1,2)", [1, 2, 3]),
        ("init=glob(he*)", ["he_normal", "he_uniform"]),
        ("data.n_train=null,100", [None, 100]),
        ("probe.steps=[1,2],[3]", [[1, 2], [3]]),
        ("init.layers={conv1:{gain:2}}", [{"conv1": {"gain": 2}}]),
        ("data.root='/a b/c'", ["/a b/c"]),
        ("data.root='x,y'", ["x,y"]),
        ("probe.images=['0']", [["0"]]),
        ("hydra.job.name=x", []),
    ],
)
def test_overrides_follow_hydras_grammar(loader, text, values):
    arguments = parse_arguments(loader, [text])
    assert [value for argument in arguments for value in argument.values] == values


def test_keys_are_prefixed_for_hydra(loader):
    arguments = ["init.layers.conv1.gain=2", "init=zeros", "+seed_data=1", "hydra.verbose=true"]
    checked = check_command(loader, "config", arguments, multirun=False)
    assert checked == ["++init.layers.conv1.gain=2", "init=zeros", "++seed_data=1", arguments[3]]


@pytest.fixture
def my_package(tmp_path, monkeypatch):
    (tmp_path / "my_inits.py").write_text(
        "from dataclasses import dataclass\n"
        "import torch\n"
        "@dataclass(frozen=True)\n"
        "class MyInit:\n"
        "    x: float = 0.0\n"
        "    def sample(self, weight, generator):\n"
        "        return torch.full(weight.shape, self.x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_inits", None)


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_user_init_is_given_by_target(my_package, cells_of, plus):
    cells = cells_of("init=custom", "init._target_=my_inits.MyInit", f"{plus}init.x=1,2")
    assert [cell.config["init"]["x"] for cell in cells] == [1.0, 2.0]
    assert cells[0].id.startswith("digits-twolayer-relu-myinit-s0-")


def test_keys_of_a_user_init_are_checked(my_package, cells_of):
    with pytest.raises(ConfigError, match=r"init\.y: no such key"):
        cells_of("init=custom", "init._target_=my_inits.MyInit", "+init.y=1")
    with pytest.raises(ConfigError, match=r"init\.x: .*'one'"):
        cells_of("init=custom", "init._target_=my_inits.MyInit", "+init.x=one")


def test_config_dir_adds_options_and_sweeps(my_package, tmp_path, capsys):
    for folder, name, text in [
        ("init", "mine", "_target_: my_inits.MyInit\nx: 3\n"),
        ("sweep", "ours", "grid:\n  init: [mine, zeros]\n  seed: range(2)\n"),
    ]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.yaml").write_text(text)
    loader = config_loader(str(tmp_path))
    arguments = ["sweep=ours", "sweep.mode=plan", f"sweep.results='{tmp_path}/results'"]
    checked = check_command(loader, "config", arguments, multirun=True)
    assert run_command(loader, "config", checked) == 0
    shown = capsys.readouterr().out
    assert "ours: 4 cells" in shown
    assert "mine" in shown
