"""Expected time and progress on stderr."""

import io
import sys
import threading

import pytest
import torch
from torch import nn

from fanin import certify
from fanin import progress as module
from fanin.inits import HeNormal, Init, Uniform
from fanin.progress import Phase, _State, set_part, set_phase, show_progress
from fanin.theory import cost
from fanin.theory.moments import declared_moments


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wait_for(stream: io.StringIO, text: str) -> None:
    for _ in range(3000):
        if text in stream.getvalue():
            return
        threading.Event().wait(0.01)
    pytest.fail(f"{text!r} is not in {stream.getvalue()!r}")


def test_the_expected_time_is_printed_first(capsys):
    with show_progress("certify", [Phase("a", 8), Phase("b", 15)], details="2 images"):
        assert capsys.readouterr().err == "certify: 2 images; expected time: about 20 s\n"
    assert capsys.readouterr().err == ""  # no bar without a terminal


@pytest.mark.parametrize(("seconds", "quiet"), [(1.9, False), (1000.0, True)])
def test_nothing_is_printed_for_short_or_quiet_operations(capsys, seconds, quiet):
    with show_progress("certify", [Phase("a", seconds)], quiet=quiet):
        set_phase("a")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_a_bar_with_the_phase(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(module, "DELAY", 0.0)
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    with show_progress("certify", [Phase("theory field", 3.0)], details="2 images"):
        set_phase("theory field")
        wait_for(terminal, "theory field")
    output = terminal.getvalue()
    assert output.startswith("certify: 2 images; expected time: about 3 s\n")
    assert "certify: theory field" in output
    assert not any(thread.name == "_display" for thread in threading.enumerate())


def test_lines_report_progress_without_a_terminal(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(module, "FIRST_LINE", 0.01)
    monkeypatch.setattr(module, "LAST_INTERVAL", 0.01)
    with show_progress("certify"):
        set_phase("theory field")
        set_part("image", 1, 4, is_share=True)
        set_part("layer", 2, 8)
        wait_for(stream, "certify: 0 s so far; theory field, image 2 of 4, layer 3 of 8\n")
        set_phase("theory finite_width")
        wait_for(stream, "s so far; theory finite_width\n")
    assert not any(thread.name == "_print_lines" for thread in threading.enumerate())


def test_an_operation_within_another_shows_no_bar_of_its_own(capsys):
    with show_progress("outer"), show_progress("inner", [Phase("a", 100.0)]):
        assert capsys.readouterr().err == ""


def test_completed_time_counts_finished_phases_and_parts():
    state = _State([Phase("a", 10.0), Phase("draw", 4.0), Phase("a", 6.0)])
    state.enter("a", 0, 0)
    assert 0 <= state.completed < 9.5
    state.enter("draw", 1, 4)
    assert state.text == "draw 2 of 4"
    assert state.completed == 11.0
    state.enter("draw", 2, 4)
    assert state.completed == 12.0
    state.enter("a", 0, 0)  # the second phase of that name
    assert 14.0 <= state.completed < 20.0
    assert _State([]).completed == 0.0


def test_a_phase_that_takes_longer_than_expected_does_not_count_as_finished():
    state = _State([Phase("a", 1.0), Phase("b", 1.0)])
    state.enter("a", 0, 0)
    state.started -= 100.0
    assert state.completed == module.MAX_SHARE


def test_the_expected_time_grows_with_images_and_draws():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))

    def seconds(images: int, draws: int) -> float:
        theories = ("he", "mean_field", "field", "finite_width")
        phases, details = cost.expected_phases(
            net, torch.zeros(images, 1, 8, 8), theories, draws=draws
        )
        assert details.startswith(f"{images} images, 2 layers")
        return sum(phase.seconds for phase in phases)

    assert seconds(2, 0) < seconds(8, 0) < seconds(8, 16)


def test_networks_without_a_first_order_law_have_an_expected_time_that_grows_with_their_work():
    """With weights of non-zero mean, channels are sampled; with 4 channels, networks are drawn."""

    def seconds(side: int, scheme, channels: int = 32) -> float:
        net = nn.Sequential(
            *(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(channels * side**2, 10)),
        )
        phases, _ = cost.expected_phases(
            *(net, torch.zeros(2, 1, side, side), ("finite_width",)),
            moments=declared_moments(net, Init(scheme)),
        )
        return phases[0].seconds

    assert 0 < seconds(8, Uniform(0, 1)) < seconds(16, Uniform(0, 1))
    assert 0 < seconds(8, Uniform(0, 1), channels=4) < seconds(16, Uniform(0, 1), channels=4)
    assert seconds(8, Uniform(0, 1), channels=4) != seconds(8, Uniform(0, 1), channels=8)
    assert seconds(8, HeNormal()) != seconds(8, Uniform(0, 1))


def test_a_network_without_a_formula_has_no_expected_time():
    net = nn.Sequential(nn.Flatten(), nn.TransformerEncoderLayer(16, 1))
    assert cost.expected_phases(net, torch.zeros(2, 1, 4, 4), ("he",))[0] == []


def test_certify_prints_its_expected_time_unless_quiet(capsys, monkeypatch):
    monkeypatch.setattr(module, "DELAY", 0.0)
    monkeypatch.setattr(module, "FIRST_LINE", 1e6)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 2))
    images = torch.ones(1, 1, 4, 4)
    certify(net, images, init="he_normal", measure=2)
    expected = "certify: 1 image, 2 layers, 2 measured draws; expected time: below 1 s\n"
    assert capsys.readouterr().err == expected
    certify(net, images, init="he_normal", quiet=True)
    assert capsys.readouterr().err == ""
