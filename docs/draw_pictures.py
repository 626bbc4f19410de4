"""Draw the pictures of docs/method.md, each for light and for dark pages: ``python docs/draw_pictures.py``.

What has numbers in it is computed by the library: rewards are made up, advantages are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from visurf.advantages import group_advantages
from visurf.control import smooth

OUT = Path(__file__).with_name("pictures")


@dataclass(frozen=True)
class Look:
    """Colours of one scheme."""

    name: str
    ink: str
    faint: str
    card: str
    policy: str
    label: str
    good: str
    bad: str


LOOKS = (
    Look("light", "#1f2430", "#8a93a5", "#f3f5fa", "#3f51b5", "#e8590c", "#2b8a3e", "#c92a2a"),
    Look("dark", "#e6e9f0", "#7d879b", "#2b3040", "#8c9eff", "#ff9e5e", "#69db7c", "#ff8787"),
)
ROLLOUTS = (("a box, nearly right", 5.0), ("a box, shifted", 4.0), ("the wrong shape", 4.0), ("cannot be read", 1.0))


def canvas(width: float, height: float) -> tuple[Any, Any]:
    """A figure whose unit is a tenth of an inch."""
    figure = plt.figure(figsize=(width / 10, height / 10))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.axis("off")
    return figure, axes


def card(axes: Any, look: Look, x: float, y: float, w: float, h: float, edge: str | None = None) -> None:
    style = "round,pad=0,rounding_size=1.1"
    axes.add_patch(FancyBboxPatch((x, y), w, h, boxstyle=style, fc=look.card, ec=edge or "none", lw=1.4))


def arrow(axes: Any, look: Look, start: tuple[float, float], end: tuple[float, float], colour: str | None = None) -> None:
    kind = "-|>,head_length=4,head_width=2.4"
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle=kind, color=colour or look.faint, lw=1.4, shrinkA=0, shrinkB=0))


def text(axes: Any, look: Look, x: float, y: float, words: str, size: float = 9, **how: Any) -> None:
    how = {"color": look.ink, "va": "center", "ha": "left", **how}
    axes.text(x, y, words, fontsize=size, **how)


def scene(axes: Any, look: Look, x: float, y: float, side: float) -> None:
    """A small picture: a square, a triangle, a circle."""
    axes.add_patch(Rectangle((x, y), side, side, fc="#dfe3ec", ec="none"))
    axes.add_patch(Rectangle((x + 0.13 * side, y + 0.55 * side), 0.25 * side, 0.25 * side, fc="#f2b705"))
    axes.add_patch(plt.Circle((x + 0.7 * side, y + 0.66 * side), 0.14 * side, fc="#3c78d8"))
    corners = ((0.45, 0.12), (0.78, 0.12), (0.61, 0.42))
    axes.add_patch(plt.Polygon([(x + a * side, y + b * side) for a, b in corners], fc="#2b8a3e"))


def draw_group(look: Look) -> Any:
    """One prompt, its rollouts, the label, rewards, advantages, one step."""
    figure, axes = canvas(92, 42)
    card(axes, look, 1, 10, 17, 24)
    scene(axes, look, 3.5, 18, 12)
    text(axes, look, 9.5, 15.2, "“the green triangle”", 8.5, ha="center")
    text(axes, look, 9.5, 12.4, "prompt", 8, ha="center", color=look.faint)
    rewards = [r for _, r in ROLLOUTS] + [6.0]
    advantages = group_advantages(rewards)
    rows = [(name, r, a, look.policy) for (name, r), a in zip(ROLLOUTS, advantages, strict=False)]
    rows.append(("the label, no thoughts", rewards[-1], advantages[-1], look.label))
    for place, name in ((25.5, "answers"), (52.5, "reward"), (68.5, "advantage")):
        text(axes, look, place, 39.5, name, 8.5, color=look.faint)
    for number, (name, reward, advantage, colour) in enumerate(rows):
        y = 32.5 - 7 * number
        arrow(axes, look, (18.6, 22), (24.4, y + 2.4), colour)
        card(axes, look, 25, y, 24, 5, colour)
        text(axes, look, 26.4, y + 2.5, name, 9)
        axes.add_patch(Rectangle((52.5, y + 1.3), reward * 1.5, 2.4, fc=colour, alpha=0.85))
        text(axes, look, 53 + reward * 1.5, y + 2.5, f"{reward:g}", 8.5)
        tint = look.good if advantage > 0 else look.bad
        axes.add_patch(Rectangle((73, y + 1.3), advantage * 3.0, 2.4, fc=tint, alpha=0.85))
        text(axes, look, 77.5, y + 2.5, f"{advantage:+.2f}".replace("-", "\N{MINUS SIGN}").replace("+0.00", "0"), 8.5)
    axes.plot([73, 73], [4.5, 37.5], color=look.faint, lw=0.8)
    arrow(axes, look, (82.0, 22), (83.9, 22))
    card(axes, look, 84.5, 10, 6.5, 24, look.faint)
    text(axes, look, 87.8, 22, "one clipped step", 9, ha="center", rotation=90)
    return figure


def draw_controls(look: Look) -> Any:
    """What each control does to the label."""
    figure, axes = canvas(92, 40)
    parts = (
        (
            "align",
            "Write it as the policy would.",
            '[{"bbox": [61,276,358,379]}]',
            '<answer>[{"bbox_2d":\n [48,301,281,413]}]</answer>',
            "same keys, spaces, tags and frame:\na text that the policy can learn to write",
        ),
        (
            "eliminate",
            "It has no thoughts: no pay for them.",
            "format of thinking  + 1",
            "format of thinking  + 0",
            "else the label would teach\nthat thoughts may be left out",
        ),
        (
            "smooth",
            "Step back where it is not needed.",
            "best rollout ≥ label",
            "reward := mean of rollouts",
            "its advantage is then exactly 0:\nthe supervision switches itself off",
        ),
    )
    for number, (name, about, before, after, why) in enumerate(parts):
        x = 1 + 30.5 * number
        card(axes, look, x, 1, 29, 38)
        text(axes, look, x + 2, 35.5, name, 13, color=look.label, weight="bold")
        text(axes, look, x + 2, 31.5, about, 9.6)
        for y, words, colour in ((22.5, before, look.faint), (12.0, after, look.label)):
            axes.add_patch(
                FancyBboxPatch((x + 2, y), 25, 6, boxstyle="round,pad=0,rounding_size=0.8", fc="none", ec=colour, lw=1.2)
            )
            text(axes, look, x + 3, y + 3, words, 8.6, family="monospace")
        arrow(axes, look, (x + 14.5, 22), (x + 14.5, 18.6), look.label)
        text(axes, look, x + 2, 6.3, why, 8.8, color=look.faint)
    return figure


def draw_smoothing(look: Look) -> Any:
    """The label's advantage against the number of rollouts that already answer right."""
    size, label = 8, 6.0
    cases = {"rollouts reason and miss: reward 4": (4.0, 7.0), "rollouts cannot be read: reward 1": (1.0, 7.0)}
    figure, axes = plt.subplots(figsize=(8.2, 3.4))
    figure.subplots_adjust(left=0.09, right=0.98, bottom=0.17, top=0.95)
    for (name, (wrong, right)), colour in zip(cases.items(), (look.policy, look.label), strict=True):
        found, off = [], []
        for count in range(size + 1):
            rollouts = [right] * count + [wrong] * (size - count)
            paid, _ = smooth(rollouts, label)
            found.append(group_advantages([*rollouts, paid])[-1])
            off.append(group_advantages([*rollouts, label])[-1])
        axes.plot(range(size + 1), found, "o-", color=colour, lw=2, label=name)
        axes.plot(range(size + 1), off, ":", color=colour, lw=1.4)
    axes.plot([], [], ":", color=look.faint, lw=1.4, label="without smoothing")
    axes.axhline(0, color=look.faint, lw=0.8)
    axes.set_xlabel("rollouts that are right and reason (reward 7), of 8")
    axes.set_ylabel("the label's advantage")
    for where in ("top", "right"):
        axes.spines[where].set_visible(False)
    axes.legend(frameon=False, fontsize=8.5)
    return figure


def draw_packing(look: Look) -> Any:
    """Padded rows of a group against one packed row."""
    figure, axes = canvas(92, 33)
    prompt, lengths = 26, (9, 6, 11, 5)
    text(axes, look, 1, 31, "padded: the prompt and its picture once per answer", 9)
    for number, length in enumerate(lengths):
        y = 25.5 - 3.6 * number
        colour = look.label if number == 3 else look.policy
        axes.add_patch(Rectangle((1, y), prompt, 2.6, fc=look.faint, alpha=0.55))
        axes.add_patch(Rectangle((1 + prompt, y), length, 2.6, fc=colour))
        empty = {"fc": "none", "ec": look.faint, "lw": 0.8, "hatch": "////"}
        axes.add_patch(Rectangle((1 + prompt + length, y), max(lengths) - length, 2.6, **empty))
    padded = len(lengths) * (prompt + max(lengths))
    text(axes, look, 40.5, 20.5, f"{padded} tokens in this drawing", 8.5, color=look.faint)
    text(axes, look, 1, 9.5, "packed: once, and every answer sees the prompt and itself only", 9)
    axes.add_patch(Rectangle((1, 3.5), prompt, 3.2, fc=look.faint, alpha=0.55))
    start = 1 + prompt
    for number, length in enumerate(lengths):
        axes.add_patch(Rectangle((start + 0.25, 3.5), length - 0.25, 3.2, fc=look.label if number == 3 else look.policy))
        start += length
    text(axes, look, start + 2, 5.1, f"{prompt + sum(lengths)} tokens", 8.5, color=look.faint)
    for x, words, colour in ((1, "prompt and picture", look.faint), (19, "rollouts", look.policy), (30, "label", look.label)):
        axes.add_patch(Rectangle((x, 0.6), 1.4, 1.4, fc=colour))
        text(axes, look, x + 2, 1.3, words, 8, color=look.faint)
    return figure


DRAWN = {"group": draw_group, "controls": draw_controls, "smoothing": draw_smoothing, "packing": draw_packing}


def main() -> None:
    """Draw all."""
    OUT.mkdir(exist_ok=True)
    for look in LOOKS:
        inks = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), look.ink)
        clear = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none")
        with mpl.rc_context({"svg.hashsalt": "visurf", "axes.edgecolor": look.faint, **inks, **clear}):
            for name, draw in DRAWN.items():
                figure = draw(look)
                figure.savefig(OUT / f"{name}-{look.name}.svg", metadata={"Date": None}, transparent=True)
                plt.close(figure)


if __name__ == "__main__":
    main()
