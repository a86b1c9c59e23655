"""Options of users: they are found, checked, and may not change other groups."""

import json

import pytest

from experiments.config.catalog import ConfigCatalog, assign, config_loader, hydra_arguments
from experiments.config.instantiate import check_value, instantiate, locate, validate
from experiments.parts_checker import PartsChecker
from experiments.schema import coerce_cell, coerce_group
from fanin.errors import ConfigError


@pytest.fixture
def user_catalog(tmp_path):
    """Return a function that writes an option to a user's folder and returns the catalog."""

    def with_option(group: str, option: str, text: str) -> ConfigCatalog:
        (tmp_path / group).mkdir(exist_ok=True)
        (tmp_path / group / f"{option}.yaml").write_text(text)
        return ConfigCatalog(config_loader(str(tmp_path)), "config")

    return with_option


def test_the_catalog_contains_options_of_the_user_and_of_conf(user_catalog):
    catalog = user_catalog("init", "narrow", "_target_: fanin.inits.Normal\nstd: 0.5\nmean: 0.0\n")
    assert "narrow" in catalog.options("init")
    assert "he_normal" in catalog.options("init")
    assert catalog.node("init", "narrow")["gain"] == 1.0


@pytest.mark.parametrize("name", ["he's half", "hälfte", "half, again"])
def test_an_option_may_have_any_file_name(user_catalog, name):
    text = "_target_: fanin.inits.Normal\nstd: 0.5\nmean: 0.0\n"
    assert user_catalog("init", name, text).node("init", name)["std"] == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# @package _global_\nseed: 3\n", "also sets seed"),
        ("defaults:\n  - override /optim: adam\n_target_: a.B\n", "override"),
        ("_target_: fanin.inits.Normal\nstd: ${optim.lr}\n", "interpolation of other keys"),
        ("_target_: fanin.inits.Normal\nstd: [1, '${optim.lr}']\n", "interpolation of other keys"),
        ("_target_: [", "my_option"),
    ],
)
def test_an_option_that_changes_another_group_is_refused(user_catalog, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        user_catalog("init", "my_option", text).node("init", "my_option")
    assert len(str(caught.value).splitlines()) <= 4


def test_an_option_may_use_environment_variables(user_catalog, monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    text = "_target_: experiments.data.Digits\nroot: ${oc.env:SCRATCH}/data\n"
    catalog = user_catalog("data", "local", text)
    assert catalog.node("data", "local")["root"] == "/scratch/me/data"


def test_a_mandatory_value_that_is_missing_is_an_error(user_catalog):
    catalog = user_catalog("init", "missing", "_target_: fanin.inits.Normal\nstd: ???\n")
    with pytest.raises(ConfigError, match=r"init\.std: must be given \(a number\)"):
        coerce_group("init", catalog.node("init", "missing"))


def test_the_error_names_a_missing_config_dir():
    with pytest.raises(ConfigError, match="--config-dir nowhere: no such folder"):
        config_loader("nowhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=1", "-m", "init=zeros"], "before all key=value arguments: -m seed=1 init=zeros"),
        (["--multi-run"], "--multi-run: no such flag"),
    ],
)
def test_a_misplaced_or_unknown_option_is_refused(monkeypatch, arguments, message):
    monkeypatch.setattr("sys.argv", ["run.py", *arguments])
    with pytest.raises(ConfigError, match=message):
        hydra_arguments()


def test_an_unknown_group_is_refused(user_catalog):
    catalog = user_catalog("colour", "red", "_target_: a.B\n")
    with pytest.raises(ConfigError, match="colour: no such group"):
        catalog.node("colour", "red")


def test_options_are_read_once(loader, monkeypatch):
    read = []
    read_option = ConfigCatalog._read_option
    monkeypatch.setattr(
        ConfigCatalog, "_read_option", lambda s, *o: read.append(o) or read_option(s, *o)
    )
    catalog = ConfigCatalog(loader, "config")
    for _ in range(3):
        catalog.node("init", "zeros")
        catalog.node("init", "he_normal")  # the default: composed already
    assert read == [("init", "zeros")]


@pytest.mark.parametrize("config_name", ["config", "plan"])
def test_an_option_read_from_its_file_equals_what_hydra_composes(loader, config_name):
    catalog = ConfigCatalog(loader, config_name)
    options = [(group, option) for group in catalog.defaults for option in catalog.options(group)]
    assert len(options) > 50
    for group, option in options:
        read = catalog._read_option(group, option)
        assert json.dumps(read) == json.dumps(catalog._compose_option(group, option)), option


@pytest.mark.parametrize(
    "text",
    [
        "gain: 2.0\n",  # also in config.yaml
        "defaults:\n  - normal\nstd: 0.5\n",
        "# @package init\nstd: 0.5\n",
    ],
)
def test_hydra_composes_an_option_that_its_file_alone_does_not_determine(user_catalog, text):
    catalog = user_catalog("init", "mine", f"{text}_target_: fanin.inits.Normal\nmean: 0.0\n")
    assert catalog._read_option("init", "mine") is None
    assert catalog.node("init", "mine") == catalog._compose_option("init", "mine")


def test_assign_does_not_modify_the_original():
    node = {"a": {"b": 1}}
    assert assign(node, "a.c", {"d": 2}) == {"a": {"b": 1, "c": {"d": 2}}}
    assert node == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("math.pi", "not a class or function"),
        ("no_such_package.Thing", "No module named"),
        ("fanin.inits.HeNorml", "did you mean HeNormal"),
        ("HeNormal", "expected package.module.Name"),
        (".HeNormal", "expected package.module.Name"),
        ("a..b", "expected package.module.Name"),
        (3, "expected package.module.Name"),
        (None, "expected package.module.Name"),
        ("???", r"must be given: .*_target_=package\.module\.Name"),
    ],
)
def test_the_error_names_a_target_that_cannot_be_imported(target, message):
    with pytest.raises(ConfigError, match=message):
        locate({"_target_": target}, "init")


@pytest.mark.parametrize(
    "group", ["data", "scaling", "clip", "model", "optim", "schedule", "probe"]
)
def test_a_target_of_the_wrong_type_is_refused(group):
    node = {"_target_": "fractions.Fraction"}
    with pytest.raises(ConfigError, match=rf"{group}\._target_=fractions.Fraction: expected a"):
        coerce_group(group, node)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "torch.nn.GELU", "approximate": "exactly"}, "approximate"),
        ({"_target_": "torch.nn.Flatten"}, "shape"),
        ({"_target_": "torch.nn.Hardtanh", "min_val": 2.0, "max_val": 1.0}, "max_val"),
        ({"_target_": "os.getcwd"}, "expected a torch.nn.Module class"),
    ],
)
def test_an_activation_is_called_before_the_sweep_runs(node, message):
    with pytest.raises(ConfigError, match=message):
        coerce_group("activation", node)


def test_a_network_that_cannot_be_built_is_refused_in_one_line(catalog):
    config = coerce_cell(assign(catalog.base, "model.channels", 10**20))
    with pytest.raises(ConfigError, match=r"^model: .*Overflow[^\n]*$"):
        PartsChecker().check(config)


def test_a_long_value_is_shortened_in_the_error():
    with pytest.raises(ConfigError) as caught:
        check_value("x" * 10_000, float, "optim.lr")
    assert len(str(caught.value)) < 250


def test_an_argument_type_that_yaml_cannot_represent_is_refused():
    with pytest.raises(ConfigError, match="can't be set from a config"):
        validate({"_target_": "fanin.inits.Init", "scheme": 3})


def test_an_error_of_a_constructor_becomes_a_config_error():
    with pytest.raises(ConfigError, match="init: "):
        instantiate({"_target_": "fractions.Fraction", "numerator": 1, "denominator": 0}, "init")
