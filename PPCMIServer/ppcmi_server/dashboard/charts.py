"""Learning curves as SVG, drawn by the server: no script and no style in it, only classes that the style sheet knows.

Lines differ by color, dashes and the shape of their marks; the page has the same numbers as a table beside the chart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 520, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40
LINES = 8
"""So many lines are drawn; further sites are in the table only."""
MARKS_UP_TO = 30
"""Points of a line that get marks each; of a longer one only the last."""
_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Line:
    """A line: its name and (epoch, loss) in the order of epochs."""

    name: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Curve:
    """A training's losses.

    :param epochs: how many there will be.
    :param lines: the training's loss first, then that of the held-out cases, then each site's.
    """

    epochs: int
    lines: tuple[Line, ...]

    @property
    def drawn(self) -> tuple[Line, ...]:
        """The lines that have points and room."""
        return tuple(line for line in self.lines if line.points)[:LINES]


def learning_curve(curve: Curve) -> Markup:
    """The chart; empty without a point."""
    lines = curve.drawn
    if not lines:
        return Markup("")
    top = _nice_at_least(max(loss for line in lines for _, loss in line.points))
    last = max(2, curve.epochs, *(epoch for line in lines for epoch, _ in line.points))
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            WIDTH, HEIGHT, _described(lines)
        ),
        *_grid(top, last),
    ]
    for number, line in enumerate(lines):
        parts += _drawn(line, number, top, last)
    return Markup("").join([*parts, Markup("</svg>")])


def swatch(number: int) -> Markup:
    """A piece of a line, for the legend."""
    return Markup(
        '<svg class="swatch" viewBox="0 0 36 12" aria-hidden="true">'
        '<path class="line series-{0}" d="M0 6H36"/>{1}</svg>'
    ).format(number, _mark(number, 18, 6))


def _described(lines: Sequence[Line]) -> str:
    ends = (f"{line.name} {line.points[-1][1]:.4f} after epoch {line.points[-1][0]}" for line in lines)
    return f"Loss by epoch: {'; '.join(ends)}. The table below has every number."


def _grid(top: float, last: int) -> Iterator[Markup]:
    for tick in _ticks(top):
        y = _y(tick, top)
        yield Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, y, WIDTH - RIGHT)
        yield Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{:g}</text>').format(LEFT - 6, y + 4, tick)
    step = max(1, math.ceil((last - 1) / 8))
    for epoch in range(1, last + 1, step):
        yield Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            _x(epoch, last), HEIGHT - BOTTOM + 16, epoch
        )
    yield Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">Epoch</text>').format(
        (LEFT + WIDTH - RIGHT) // 2, HEIGHT - 6
    )


def _drawn(line: Line, number: int, top: float, last: int) -> Iterator[Markup]:
    places = [(_x(epoch, last), _y(loss, top)) for epoch, loss in line.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    yield Markup('<path class="line series-{}" d="{}"/>').format(number, path)
    for x, y in places if len(places) <= MARKS_UP_TO else places[-1:]:
        yield _mark(number, x, y)


def _mark(number: int, x: float, y: float) -> Markup:
    """Circle, square, triangle or diamond by the line's number."""
    shapes = (
        "M{l:.1f} {y:.1f}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
        "M{l:.1f} {t:.1f}h6v6h-6z",
        "M{x:.1f} {t:.1f}l3.5 6h-7z",
        "M{x:.1f} {t:.1f}l3.5 3.5l-3.5 3.5l-3.5 -3.5z",
    )
    shape = shapes[number % len(shapes)].format(x=x, y=y, l=x - 3, t=y - 3)
    return Markup('<path class="mark series-{}" d="{}"/>').format(number, shape)


def _x(epoch: int, last: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (epoch - 1) / (last - 1)


def _y(loss: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(1.0, max(0.0, loss / top))


def _nice_at_least(value: float) -> float:
    """The next larger of 1, 2, 2.5, 5 times a power of ten."""
    if not value > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * nice for nice in _NICE if power * nice >= value * 0.999)


def _ticks(top: float) -> list[float]:
    return [round(top * part / 4, 10) for part in range(5)]
