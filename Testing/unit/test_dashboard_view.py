"""How the dashboard shows values: sizes, times, names that somebody typed, curves."""

import datetime as dt
from xml.etree import ElementTree as ET

import pytest

from ppcmi_server.dashboard import charts, view

NBSP = "\N{NO-BREAK SPACE}"
NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (200 << 30, "200 GiB"),
        ((1 << 40) - 1, "1.0 TiB"), (5 << 60, "5120 PiB"), (None, "\N{EN DASH}"),
    ],
)  # fmt: skip
def test_sizes(count, shown):
    assert view.size(count).replace(NBSP, " ") == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.25, "0.2 s"), (59.6, "1 min 0 s"), (94, "1 min 34 s"), (3_700_000, "1,027 h 46 min")]
)
def test_durations(seconds, shown):
    assert view.duration(seconds).replace(NBSP, " ") == shown


@pytest.mark.parametrize(
    ("at", "ago"),
    [
        ("2026-11-21T11:59:31Z", "just now"),
        ("2026-11-21T11:58:59Z", "1 min ago"),
        ("2026-11-21T09:30:00Z", "2 h ago"),
        ("2026-11-20T11:00:00Z", "1 day ago"),
        ("2024-11-01T00:00:00Z", "2 years ago"),
        ("2026-11-28T12:00:00Z", "in 7 days"),
    ],
)
def test_times_are_utc_with_how_long_ago(at, ago):
    shown = view.moment(at, NOW)
    assert f'datetime="{at}"' in shown
    assert f"{at[:10]} {at[11:16]}{NBSP}UTC" in shown
    assert f">{ago}<" in shown


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("<b onclick='x'>", "&lt;b onclick=&#39;x&#39;&gt;"),
        ("A\N{RIGHT-TO-LEFT OVERRIDE}B", "A[U+202E]B"),
        ("A\N{ZERO WIDTH SPACE}\n", "A[U+200B][U+000A]"),
        ("\N{HEBREW LETTER ALEF} Köln 東京", "\N{HEBREW LETTER ALEF} Köln 東京"),
    ],
)
def test_a_name_is_text_whose_direction_stays_inside_of_it(typed, shown):
    assert str(view.name(typed)) == f'<bdi class="name">{shown}</bdi>'


def curve(*lines, epochs=4):
    return charts.Curve(epochs, tuple(charts.Line(name, tuple(points)) for name, points in lines))


def test_a_curve_is_a_picture_with_a_text_and_nothing_that_a_policy_would_refuse():
    svg = charts.learning_curve(curve(("Training", [(1, 0.8), (2, 0.4)]), ("<script>", [(1, 0.9)])))
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label").startswith("Loss by epoch: Training 0.4000 after epoch 2; <script> 0.9000")
    names = {element.tag for element in root.iter()}
    assert names == {"svg", "path", "text"}
    assert not any(name == "style" or name.startswith("on") for element in root.iter() for name in element.attrib)


def test_every_point_of_a_curve_lies_within_the_picture():
    svg = charts.learning_curve(curve(("Training", [(1, 1e9), (2, 0.0), (9, 12.3)])))
    path = next(e for e in ET.fromstring(svg).iter("path") if "line" in e.get("class"))
    points = [tuple(map(float, pair.split())) for pair in path.get("d")[1:].split("L")]
    assert len(points) == 3
    assert all(0 <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT for x, y in points)
    assert points[0][1] < points[1][1]  # a larger loss is higher up


def test_many_lines_are_left_to_the_table_and_none_is_no_picture():
    many = curve(*((f"Site {number}", [(1, 0.5)]) for number in range(40)))
    assert len(many.drawn) == charts.LINES
    assert charts.learning_curve(curve(("Training", []))) == ""
