"""Options that a user brings, and what keeps them from reaching where they should not."""

import pytest

from experiments.config.catalog import ConfigCatalog, assign, config_loader
from experiments.config.instantiate import check_value, instantiate, locate, validate
from experiments.schema import PartsChecker, coerce_cell, coerce_group
from fanin.errors import ConfigError


@pytest.fixture
def users(tmp_path):
    """Writes one option into a user's own config folder and gives the options with it."""

    def with_option(group: str, option: str, text: str) -> ConfigCatalog:
        (tmp_path / group).mkdir(exist_ok=True)
        (tmp_path / group / f"{option}.yaml").write_text(text)
        return ConfigCatalog(config_loader(str(tmp_path)), "config")

    return with_option


def test_a_users_option_stands_beside_ours(users):
    space = users("init", "narrow", "_target_: fanin.inits.Normal\nstd: 0.5\nmean: 0.0\n")
    assert "narrow" in space.options("init")
    assert "he_normal" in space.options("init")
    assert space.node("init", "narrow")["gain"] == 1.0


@pytest.mark.parametrize("name", ["he's half", "hälfte", "half, again"])
def test_an_option_may_have_any_name_that_a_file_has(users, name):
    text = "_target_: fanin.inits.Normal\nstd: 0.5\nmean: 0.0\n"
    assert users("init", name, text).node("init", name)["std"] == 0.5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# @package _global_\nseed: 3\n", "sets seed too"),
        ("defaults:\n  - override /optim: adam\n_target_: a.B\n", "override"),
        ("_target_: fanin.inits.Normal\nstd: ${optim.lr}\n", "interpolation of other keys"),
        ("_target_: fanin.inits.Normal\nstd: [1, '${optim.lr}']\n", "interpolation of other keys"),
        ("_target_: [", "mine"),
    ],
)
def test_a_users_option_that_reaches_out_of_its_group_is_refused(users, text, says):
    with pytest.raises(ConfigError, match=says) as refused:
        users("init", "mine", text).node("init", "mine")
    assert len(str(refused.value).splitlines()) <= 4


def test_an_environment_variable_is_no_other_key(users, monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    text = "_target_: experiments.data.Digits\nroot: ${oc.env:SCRATCH}/data\n"
    assert users("data", "here", text).node("data", "here")["root"] == "/scratch/me/data"


def test_a_value_that_a_users_yaml_leaves_open_is_asked_for(users):
    node = users("init", "open", "_target_: fanin.inits.Normal\nstd: ???\n")
    with pytest.raises(ConfigError, match=r"init\.std: must be given \(a number\)"):
        coerce_group("init", node.node("init", "open"))


def test_a_missing_config_dir_is_named():
    with pytest.raises(ConfigError, match="--config-dir nowhere: no such folder"):
        config_loader("nowhere")


def test_a_group_that_no_cell_has_is_refused(users):
    space = users("colour", "red", "_target_: a.B\n")
    with pytest.raises(ConfigError, match="colour: no such group"):
        space.node("colour", "red")


def test_options_are_composed_once(loader, monkeypatch):
    composed = []
    compose = ConfigCatalog._compose
    monkeypatch.setattr(
        ConfigCatalog, "_compose", lambda s, *o: composed.append(o) or compose(s, *o)
    )
    space = ConfigCatalog(loader, "config")
    for _ in range(3):
        space.node("init", "zeros")
        space.node("init", "he_normal")  # the default: composed already
    assert composed == [(), ("init='zeros'",)]


def test_setting_a_key_leaves_the_original_alone():
    node = {"a": {"b": 1}}
    assert assign(node, "a.c", {"d": 2}) == {"a": {"b": 1, "c": {"d": 2}}}
    assert node == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("math.pi", "not a class or function"),
        ("no_such_package.Thing", "No module named"),
        ("fanin.inits.HeNorml", "did you mean HeNormal"),
        ("HeNormal", "expected package.module.Name"),
        (".HeNormal", "expected package.module.Name"),
        ("a..b", "expected package.module.Name"),
        (3, "expected package.module.Name"),
        (None, "expected package.module.Name"),
        ("???", "got nothing"),
    ],
)
def test_a_target_that_is_not_there_is_named(target, says):
    with pytest.raises(ConfigError, match=says):
        locate({"_target_": target}, "init")


@pytest.mark.parametrize(
    "group", ["data", "scaling", "clip", "model", "optim", "schedule", "probe"]
)
def test_a_target_of_another_kind_is_refused(group):
    node = {"_target_": "fractions.Fraction"}
    with pytest.raises(ConfigError, match=rf"{group}\._target_=fractions.Fraction: expected a"):
        coerce_group(group, node)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ({"_target_": "torch.nn.GELU", "approximate": "exactly"}, "approximate"),
        ({"_target_": "torch.nn.Flatten"}, "shape"),
        ({"_target_": "torch.nn.Hardtanh", "min_val": 2.0, "max_val": 1.0}, "max_val"),
        ({"_target_": "os.getcwd"}, "expected a Module"),
    ],
)
def test_an_activation_is_tried_before_anything_runs(node, says):
    with pytest.raises(ConfigError, match=says):
        coerce_group("activation", node)


def test_a_network_that_cannot_be_built_is_refused_in_one_line(space):
    config = coerce_cell(assign(space.base, "model.channels", 10**20))
    with pytest.raises(ConfigError, match=r"^model: .*Overflow[^\n]*$"):
        PartsChecker().check(config)


def test_a_long_value_is_shown_in_short():
    with pytest.raises(ConfigError) as refused:
        check_value("x" * 10_000, float, "optim.lr")
    assert len(str(refused.value)) < 250


def test_a_type_that_no_yaml_can_hold_is_refused():
    with pytest.raises(ConfigError, match="can't be set from a config"):
        validate({"_target_": "fanin.inits.Init", "scheme": 3})


def test_what_a_constructor_says_becomes_a_config_error():
    with pytest.raises(ConfigError, match="init: "):
        instantiate({"_target_": "fractions.Fraction", "numerator": 1, "denominator": 0}, "init")
