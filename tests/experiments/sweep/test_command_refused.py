"""Invalid command lines: each is an error that says what to type."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.config.identity import flatten
from experiments.sweep.cli import check_command, run_command
from experiments.sweep.expand import expand
from experiments.sweep.overrides import parse_arguments
from experiments.sweep.request import parse_request
from fanin.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep=he_vs_glorot"], "a grid needs -m: .*-m sweep=he_vs_glorot"),
        (["init=he_normal,zeros"], "a grid needs -m"),
        (["seed=range(3)"], "a grid needs -m"),
        (["init=glob(he*)"], "a grid needs -m"),
    ],
)
def test_grid_without_multirun_is_refused(loader, arguments, message):
    with pytest.raises(ConfigError, match=message):
        check_command(loader, "config", arguments, multirun=False)


REFUSED = [
    ("sweep=he_vs_glorot,he_vs_glorot", "sweep can't have several values"),
    ("sweep=he_vs_glorto", "did you mean he_vs_glorot"),
    ("sweep.name=a,b", "sweep.name can't have several values"),
    ("sweep.name=../x", "without slashes"),
    ("sweep.name=", "without slashes"),
    ("sweep.retry=[foo]", "error.*oom.*timeout"),
    ("sweep.foo=1", "valid: mode, name, pilot, results, retry"),
    ("runner=slum", "runner=slum: no such option"),
    ("runner.workers=0", "runner.workers: .*greater than 0"),
    ("runner.workers=1,2", "runner.workers can't have several values"),
    ("init=he_norml,relu", "init=he_norml: .*did you mean he_normal"),
    ("intt=zeros", "intt: .*did you mean init"),
    ("optim.lrr=.1,.2", "optim.lrr: .*did you mean lr"),
    ("optim.lr=abc,0.1", "optim.lr: .*'abc'"),
    ("optim.lr=1e-3,0.001", "same cell twice:\n  optim.lr=0.001\n  optim.lr=0.001"),
    ("init=zeros,zeros", "same cell twice"),
    ("~clip", "~clip: keys of a cell can't be deleted.*clip=.*none, norm, value"),
    ("~optim.lr", "can't be deleted"),
    ("optim=adam optim.momentum=0.9", "optim=adam has no such key; options with this key: sgd;"),
    ("optim=sgd,adam optim.momentum=0.9", "optim=adam has no such key; options with this key"),
    ("seed=range(3),range(2)", "can't be combined with commas"),
    ("seed=range(0)", "no value matches"),
    ("seed=interval(0,1)", "interval"),
    ("init=glob(zzz*)", "no value matches"),
    ("+foo=3", "foo: no such key"),
    ("++foo.bar=3", "foo.bar: no such key"),
    ("+optim.foo=3", "optim=sgd has no such key"),
    ("+init=zeros", "remove the [+]"),
    ("optim.lr=1 optim.lr=2", "given twice: optim.lr=1 and optim.lr=2"),
    ("optim@x=sgd", "packages"),
    ("optim/lr=3", "with dots: optim.lr"),
    ("optim.lr=${seed}", "interpolation"),
    ("data.root=${oc.env:HOME}", "interpolation"),
    ("hydra/sweeper=basic", "can't be replaced"),
    ("hydra/launcher=joblib", "can't be replaced"),
    ("hydra.x=1", "hydra.x"),
    ("hydra=3", "can't be replaced"),
    ("+hydra=[0]", "can't be replaced"),
    ("hydrax=3", "hydrax: no such key"),
    ("init=", "init=: no such option"),
    ("=3", "no key before the ="),
    ("init.=3", "invalid override"),
    (".lr=3", "invalid override"),
    ("optim", "invalid override"),
    ("optim.lr=0.1=3", "optim.lr=0.1=3': invalid override"),
    ("seed=é", "invalid override"),
    ("data=null", "data is a config group"),
    ("init=[zeros,he_normal]", "init is a config group"),
    ("seed=null", "seed: .*null"),
    ("seed=1.5", "seed: expected a whole number"),
    ("seed=true", "seed: expected a whole number, got True"),
    ("seed=-1", "seed: .*greater than or equal to 0"),
    ("seed=99999999999999999999", "seed: .*less than"),
    ("optim.lr={a:1}", "optim.lr: .*expected a number"),
    ("optim.lr.x=3", "optim.lr.x: .*did you mean lr"),
    ("optim.lr=nan", "optim.lr: .*finite"),
    ("train=null", "train: expected an option"),
    ("train={stps:3}", "train.stps: no such key; did you mean steps"),
    ("train.dtype=float8", "did you mean float64"),
    ("data.side=3", "data.side: "),
    ("data.corrupt={shar:1}", "did you mean share"),
    ("data.n_train=100000", "there are only 1437 images"),
    ("init.layers=3", "init.layers: "),
    ("init.layers.conv1=3", "init.layers.conv1: "),
    ("init.layers.conv1.gian=3", "did you mean gain"),
    ("init.layers.conv9.gain=3", "conv9: no such layer; did you mean conv1"),
    ("clip.factors.conv9=3", "conv9: no such layer"),
    ("probe.images=[0,99]", "index 99 in probe.images, but the probe has images 0 to 31"),
    ("head=softmax loss=bce", "softmax"),
    ("model=alexnet data.side=7", "set data.side to 15 or more"),
    ("init=custom", r"init: must be given: init\._target_=package\.module\.Name"),
    ("init=custom init._target_=my_pkg.mod.MyInit", "No module named 'my_pkg'"),
]


@pytest.mark.parametrize(("line", "message"), REFUSED, ids=[line for line, _ in REFUSED])
def test_invalid_override_is_refused(plan_of, capsys, line, message):
    try:
        status = plan_of(line.split(" "))
        text = capsys.readouterr().err
    except ConfigError as error:
        status, text = 2, f"{error}\n"
    assert status == 2
    assert len(text.splitlines()) <= 4
    assert re.search(message, text, re.DOTALL), text


NUMBERS = ("optim.lr", "optim.momentum", "scaling.scale", "init.gain", "train.loss_bound")
COUNTS = ("model.channels", "train.batch_size", "probe.draws", "probe.size", "seed", "data.seed")
OPTIONS = ("data", "model", "activation", "init", "head", "loss", "optim", "clip", "schedule")
letters = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=8)


@st.composite
def typo(draw, word: str) -> str:
    """Insert a letter into a word."""
    at = draw(st.integers(1, len(word)))
    return word[:at] + draw(st.sampled_from("qxz")) + word[at:]


@st.composite
def invalid_override(draw, catalog) -> tuple[str, str]:
    """Draw an invalid override, and the text that its error must contain."""
    kind = draw(st.sampled_from(["group", "option", "key", "type", "range", "layer", "new"]))
    if kind == "group":
        key = draw(typo(draw(st.sampled_from(OPTIONS))))
        return f"{key}=zeros", key
    if kind == "option":
        group = draw(st.sampled_from(OPTIONS))
        option = draw(typo(draw(st.sampled_from(catalog.options(group)))))
        return f"{group}={option}", option
    if kind == "key":
        leaves = [k for k, _ in flatten(catalog.base) if "." in k and not k.endswith("_target_")]
        key = draw(typo(draw(st.sampled_from(leaves))))
        return f"{key}=1", key
    if kind == "type":
        key = draw(st.sampled_from(NUMBERS + COUNTS))
        value = draw(
            st.sampled_from(["[1]", "{a:1}", "true", "null", "''"]) | letters.map("x{}".format)
        )
        return f"{key}={value}", key
    if kind == "range":
        key = draw(st.sampled_from(COUNTS[:-1]))
        return f"{key}={draw(st.integers(-(10**25), -1))}", key
    if kind == "layer":
        layer = "q" + draw(letters)
        return f"init.layers.{layer}.gain=1", layer
    key = "q" + draw(letters)
    return f"+{draw(st.sampled_from(OPTIONS))}.{key}=1", key


def cells(loader, catalog, arguments):
    checked = check_command(loader, "config", arguments, multirun=True)
    return expand(catalog, parse_request(catalog, parse_arguments(loader, checked)).grids)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    text=st.text(max_size=30)
    | st.builds(
        "{}{}={}".format,
        st.sampled_from(["", "+", "~", "++"]),
        st.sampled_from([*NUMBERS, *COUNTS, *OPTIONS, "hydra", "sweep.retry", "init.layers.conv1"]),
        st.text(max_size=12) | st.recursive(st.integers() | letters, st.lists).map(json.dumps),
    )
)
def test_any_text_is_a_cell_or_a_config_error(loader, catalog, text):
    output = ""
    try:
        cells(loader, catalog, [text])
    except ConfigError as error:
        output = str(error)
    assert len(output.splitlines()) <= 4


def test_long_values_give_short_errors(loader, catalog):
    for text in ("optim.lr=" + "x" * 9999, "optim.lr=" + "9" * 9999, "[" * 500):
        with pytest.raises(ConfigError) as refused:
            cells(loader, catalog, [text])
        assert len(str(refused.value)) < 400


def test_errors_go_to_standard_error(loader, capsys):
    assert run_command(loader, "config", ["optim.lr=fast"]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.width=64"], None),  # a key of the sweep's model, not of the default one
        (["model.widht=64"], "model.widht: .*did you mean width"),
        (["model.channels=8"], "model.channels: model=mlp has no such key"),
        (["model=two_layer", "model.width=8"], "model.width: model=two_layer has no such key"),
        (["optim.lrr=1"], "optim.lrr: .*did you mean lr"),
    ],
)
def test_keys_follow_the_options_of_a_named_sweep(loader, capsys, tmp_path, arguments, message):
    overrides = ["sweep=poole2016", "sweep.mode=plan", f"sweep.results={tmp_path}", *arguments]
    try:
        status = run_command(loader, "config", check_command(loader, "config", overrides, True))
        output = capsys.readouterr().err
    except ConfigError as error:
        status, output = 2, str(error)
    assert status == (0 if message is None else 2), output
    assert message is None or re.search(message, output, re.DOTALL), output
