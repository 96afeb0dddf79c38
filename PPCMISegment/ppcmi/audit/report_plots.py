"""Plots of the report as SVG text: readable on paper, without color, and by a screen reader; no library, no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 116, 14, 44
ROW, NAMES = 24, 316
LONGEST_NAME = 54
LEAST_SPAN = 0.05
LABEL_GAP = 15


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TradeOff:
    """A point of :func:`trade_off_plot`."""

    name: str
    ssim: Interval
    dice: Interval


@dataclass(frozen=True)
class Bar:
    """A row of :func:`interval_plot`; ``chance`` is drawn as a tick of its own."""

    name: str
    found: Interval
    chance: float


def trade_off_plot(points: Sequence[TradeOff], guess: float) -> str:
    """Dice over the best attack's SSIM, a point a profile; up and to the left is better.

    :param guess: SSIM of the mean slice, a dashed line.
    """
    known = [point for point in points if math.isfinite(point.dice.value)]
    if not known:
        return ""
    across = _Axis.around([x for p in known for x in (p.ssim.low, p.ssim.high)] + [guess], LEFT, WIDTH - RIGHT)
    up = _Axis.around([y for p in known for y in (p.dice.low, p.dice.high)], HEIGHT - BOTTOM, TOP)
    parts = [*_grid(across, up), *_guess_line(across.at(guess))]
    labels = _spread([(up.at(point.dice.value), point) for point in known])
    for y, point in labels:
        x, middle = across.at(point.ssim.value), up.at(point.dice.value)
        parts += [
            _line(across.at(point.ssim.low), middle, across.at(point.ssim.high), middle, "whisker"),
            _line(x, up.at(point.dice.low), x, up.at(point.dice.high), "whisker"),
            f'<circle class="dot" cx="{x:.1f}" cy="{middle:.1f}" r="5"/>',
            _line(x, middle, x + 10, y - 9, "leader"),
            _text(x + 12, y - 7, point.name, "start", "name"),
        ]
    parts += [
        _text(
            (LEFT + WIDTH - RIGHT) / 2,
            HEIGHT - 6,
            "best of these attacks, without the inner key: SSIM",
            "middle",
            "title",
        ),
        f'<text class="title" text-anchor="middle" transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) '
        f'rotate(-90)">Dice</text>',
    ]
    said = "; ".join(f"{p.name}: Dice {p.dice.value:.2f}, SSIM {p.ssim.value:.2f}" for p in known)
    return _svg(
        WIDTH, HEIGHT, f"Dice against the best of these attacks' SSIM. {said}. The mean slice: {guess:.2f}.", parts
    )


def interval_plot(bars: Sequence[Bar], title: str) -> str:
    """A row for each bar on a scale from 0 to 1: interval, value, and what guessing gives."""
    if not bars:
        return ""
    height = TOP + ROW * len(bars) + BOTTOM
    across = _Axis(0.0, 1.0, NAMES, WIDTH - 24)
    bottom = TOP + ROW * len(bars)
    parts = []
    for tick in range(0, 11, 2):
        x = across.at(tick / 10)
        parts += [_line(x, TOP, x, bottom, "grid"), _text(x, bottom + 16, f"{tick / 10:.1f}", "middle", "tick")]
    for number, bar in enumerate(bars):
        y = TOP + ROW * (number + 0.5)
        chance = across.at(bar.chance)
        parts += [
            _text(NAMES - 10, y + 4, _shortened(bar.name), "end", "row"),
            _line(across.at(bar.found.low), y, across.at(bar.found.high), y, "whisker"),
            _line(chance, y - 8, chance, y + 8, "guess"),
            f'<circle class="dot" cx="{across.at(bar.found.value):.1f}" cy="{y:.1f}" r="5"/>',
        ]
    parts.append(_text((NAMES + WIDTH - 24) / 2, height - 6, title, "middle", "title"))
    said = "; ".join(f"{bar.name}: {bar.found.value:.2f}, guess {bar.chance:.2f}" for bar in bars)
    return _svg(WIDTH, height, f"{title}. {said}.", parts)


@dataclass(frozen=True)
class _Axis:
    """Values from ``first`` to ``last`` at positions from ``start`` to ``end``."""

    first: float
    last: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> _Axis:
        """An axis that shows all values and some room, within 0 to 1."""
        finite = [value for value in values if math.isfinite(value)]
        low, high = min(finite), max(finite)
        room = max(0.12 * (high - low), (LEAST_SPAN - (high - low)) / 2)
        return cls(max(0.0, low - room), min(1.0, high + room), start, end)

    def at(self, value: float) -> float:
        """Where a value is drawn; outside the axis at its end."""
        share = (value - self.first) / (self.last - self.first) if math.isfinite(value) else 0.0
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values on the axis, about five."""
        step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (self.last - self.first) / s <= 6)
        first = math.ceil(self.first / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.last / step + 1e-9) + 1)]


def _grid(across: _Axis, up: _Axis) -> list[str]:
    parts = []
    for tick in across.ticks():
        x = across.at(tick)
        parts += [_line(x, TOP, x, HEIGHT - BOTTOM, "grid")]
        parts += [_text(x, HEIGHT - BOTTOM + 16, f"{tick:.2f}", "middle", "tick")]
    for tick in up.ticks():
        y = up.at(tick)
        parts += [_line(LEFT, y, WIDTH - RIGHT, y, "grid"), _text(LEFT - 6, y + 4, f"{tick:.2f}", "end", "tick")]
    return parts


def _guess_line(x: float) -> list[str]:
    return [
        _line(x, TOP, x, HEIGHT - BOTTOM, "guess"),
        _text(x + 4, HEIGHT - BOTTOM - 6, "guess: mean slice", "start", "tick"),
    ]


def _spread(points: Sequence[tuple[float, TradeOff]]) -> list[tuple[float, TradeOff]]:
    """Heights of labels, moved apart where they would lie on each other."""
    placed: list[tuple[float, TradeOff]] = []
    for y, point in sorted(points, key=lambda pair: pair[0]):
        placed.append((max(y, placed[-1][0] + LABEL_GAP) if placed else y, point))
    return placed


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: float, height: float, said: str, parts: Sequence[str]) -> str:
    inner = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(said)}" '
        f'xmlns="http://www.w3.org/2000/svg">\n{inner}\n</svg>'
    )
