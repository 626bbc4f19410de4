"""What a run shows: a live line on a terminal, plain lines when piped, JSON lines when asked for, nothing when quiet."""

import io
import json

import pytest
from rich.console import Console

from visurf import terminal as module
from visurf.terminal import Terminal, one_line

METRICS = {
    "reward/total": 3.456,
    "label/advantage": -0.5,
    "label/share": 0.25,
    "label/smoothed": 0.5,
    "group/zero_variance": 0.125,
    "rate/tokens": 12345.6,
    "rate/mfu": 0.456,
    "loss": 9.0,
}
LINE = "reward 3.46  A_y -0.50  label 25%  smoothed 50%  flat 12%  12,346 tok/s  MFU 46%"


@pytest.fixture
def screen(monkeypatch):
    """What is written to the error stream, with a clock that is set by hand."""
    stream, clock = io.StringIO(), [0.0]
    monkeypatch.setattr(module, "Console", lambda stderr: Console(file=stream, width=160, force_terminal=stream.terminal))
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    stream.terminal, stream.clock = False, clock
    return stream


def test_a_step_in_one_line():
    assert one_line(METRICS) == LINE


def test_piped_it_writes_plain_lines_now_and_then(screen):
    with Terminal(4) as shown:
        assert shown.mode == "plain"
        for second, metrics in enumerate([METRICS, METRICS, {**METRICS, "validation/n_acc": 0.5}, METRICS], 1):
            screen.clock[0] = 2.0 * second
            shown.step("visurf", metrics)
    lines = screen.getvalue().splitlines()
    # The first and the last; in between less than ten seconds passed.
    assert lines[0] == f"visurf  1/4  {LINE}", "the first step, with all that is loaded, tells no time"
    assert lines[1].startswith("visurf  4/4  reward")
    assert "N-acc 0.500" in lines[1]  # the last validation stays
    assert len(lines) == 2
    assert "\x1b" not in screen.getvalue()


def test_the_time_left_of_a_resumed_run_goes_by_its_own_steps(screen):
    with Terminal(200) as shown:
        shown.resume(100)
        screen.clock[0] = 60.0
        shown.step("sft", {})
        screen.clock[0] = 120.0
        shown.step("sft", {})
    assert screen.getvalue().splitlines()[-1].endswith("102/200    1 h 38 min left")


def test_on_a_terminal_one_line_lives(screen):
    screen.terminal = True
    with Terminal(3) as shown:
        assert shown.mode == "live"
        shown.step("rlvr", METRICS)
        shown._bar.refresh()
    text = screen.getvalue()
    assert "rlvr" in text
    assert "1/3" in text
    assert "12,346 tok/s" in text


def test_json_lines_and_silence(screen, capsys):
    with Terminal(1, "json") as shown:
        shown.say("hello")
        shown.step("sft", {"loss": 1.0, "validation/t_acc": float("nan")})
    row = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert row == {"step": 1, "name": "sft", "loss": 1.0, "validation/t_acc": None}
    with Terminal(1, "quiet") as shown:
        shown.say("hello")
        shown.step("sft", {"loss": 1.0})
    assert screen.getvalue() == ""
    assert capsys.readouterr().out == ""


def test_text_is_never_read_as_markup(screen):
    with Terminal(1) as shown:
        shown.say("[bold]skipped[/bold] row 3")
    assert screen.getvalue() == "[bold]skipped[/bold] row 3\n"
