"""A few charts as inline SVG: no script, no fixed colours (the style sheet colours runs), tooltips as `<title>`.

Strips (dot and interval, stacked bars) keep their x positions in percent, so they stretch while their text does not.
Panels (curves, histograms) have a fixed view box. All values are plain numbers; all text is escaped here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = ["Bins", "Mark", "Panel", "Series", "Stack", "Strip", "grid", "panel", "stacks", "strips"]

_LANE = 18
"""Height of one run within a strip, pixels."""
_SHAPES = (
    "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0Z",
    "M-4.5,-4.5H4.5V4.5H-4.5Z",
    "M0,-6L6,0L0,6L-6,0Z",
    "M0,-5.5L5.5,4.5H-5.5Z",
    "M0,5.5L5.5,-4.5H-5.5Z",
    "M-6,-2H-2V-6H2V-2H6V2H2V6H-2V2H-6Z",
)
"""One marker per accent, so that runs differ without colour too."""
_WIDTH, _HEIGHT = 340, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 12, 40


@dataclass(frozen=True, slots=True)
class Mark:
    """A point with its interval.

    Attributes:
        accent: Colour and shape.
        value: In [0, `limit` of the strips].
        low: Lower bound.
        high: Upper bound.
        tip: Tooltip.
    """

    accent: int
    value: float
    low: float
    high: float
    tip: str


@dataclass(frozen=True, slots=True)
class Strip:
    """A labelled line of marks, one lane per run; None leaves its lane empty."""

    label: str
    marks: Sequence[Mark | None]
    sub: str = ""


@dataclass(frozen=True, slots=True)
class Stack:
    """A labelled bar of one run, made of shares.

    Attributes:
        label: What is measured.
        accent: Colour.
        shares: (what, share in [0, 1], tooltip) from left to right.
        sub: Second line of the label.
        bounds: Interval of the sum, None for none.
    """

    label: str
    accent: int
    shares: Sequence[tuple[str, float, str]]
    sub: str = ""
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """A curve of one run.

    Attributes:
        accent: Colour.
        points: (x, y) in data units.
        bounds: (low, high) per point, empty for none.
        tips: Tooltip per point, empty for no markers.
        line: Whether the points are joined.
    """

    accent: int
    points: Sequence[tuple[float, float]]
    bounds: Sequence[tuple[float, float]] = ()
    tips: Sequence[str] = ()
    line: bool = True


@dataclass(frozen=True, slots=True)
class Bins:
    """A histogram of one run: (low, high, share in [0, 1], tooltip) per bin."""

    accent: int
    bins: Sequence[tuple[float, float, float, str]]


@dataclass(frozen=True, slots=True)
class Panel:
    """The frame of curves and histograms.

    Attributes:
        x_label: What x is, with its unit.
        y_label: What y is, with its unit.
        x_ticks: (x, text).
        y_ticks: (y, text).
        x_limits: Smallest and largest x.
        y_limits: Smallest and largest y.
        diagonal: Whether y = x is drawn.
        title: Line above the panel.
    """

    x_label: str
    y_label: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    x_limits: tuple[float, float] = (0.0, 1.0)
    y_limits: tuple[float, float] = (0.0, 1.0)
    diagonal: bool = False
    title: str = ""

    def x(self, value: float) -> float:
        """Return the horizontal position of a value, pixels."""
        return _scale(value, self.x_limits, _LEFT, _WIDTH - _RIGHT)

    def y(self, value: float) -> float:
        """Return the vertical position of a value, pixels."""
        return _scale(value, self.y_limits, _HEIGHT - _BOTTOM, _TOP)


def _scale(value: float, limits: tuple[float, float], start: float, end: float) -> float:
    low, high = limits
    share = (value - low) / (high - low) if high > low else 0.0
    return round(start + min(max(share, 0.0), 1.0) * (end - start), 2)


def strips(rows: Sequence[Strip], *, limit: float = 1.0, unit: str = "%", what: str) -> Markup:
    """Draw dot-and-interval strips over one axis.

    Args:
        rows: From top to bottom.
        limit: Right end of the axis, in data units.
        unit: `%` prints the axis in percent, anything else after the number.
        what: Text for those who cannot see it.
    """
    drawn = [_row(row.label, row.sub, _strip(row, limit)) for row in rows]
    return Markup('<div class="strips" role="img" aria-label="{}">{}{}</div>').format(
        what, Markup("").join(drawn), _axis(limit, unit)
    )


def stacks(rows: Sequence[Stack], *, limit: float = 1.0, what: str) -> Markup:
    """Draw stacked bars of shares over one axis in percent."""
    drawn = [_row(row.label, row.sub, _stack(row, limit)) for row in rows]
    return Markup('<div class="strips" role="img" aria-label="{}">{}{}</div>').format(
        what, Markup("").join(drawn), _axis(limit, "%")
    )


def grid(panels: Sequence[Markup]) -> Markup:
    """Place panels side by side, as many as fit."""
    few = " few" if len(panels) <= 2 else ""
    return Markup('<div class="panels{}">{}</div>').format(few, Markup("").join(panels))


def panel(frame: Panel, *layers: Series | Bins) -> Markup:
    """Draw curves or histograms in a frame."""
    parts = [_frame(frame)]
    for layer in layers:
        parts.append(_curve(frame, layer) if isinstance(layer, Series) else _bars(frame, layer))
    svg = Markup('<svg class="panel" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, f"{frame.title} {frame.y_label} against {frame.x_label}".strip(), Markup("").join(parts)
    )
    title = Markup('<p class="panel-title">{}</p>').format(frame.title) if frame.title else Markup("")
    return Markup('<div class="panel-box">{}{}</div>').format(title, svg)


def _row(label: str, sub: str, svg: Markup) -> Markup:
    second = Markup(" <small>{}</small>").format(sub) if sub else Markup("")
    return Markup('<div class="strip"><div class="label">{}{}</div>{}</div>').format(label, second, svg)


def _percent(value: float, limit: float) -> str:
    return f"{_scale(value, (0.0, limit), 0.0, 100.0):g}%"


def _strip(row: Strip, limit: float) -> Markup:
    height = _LANE * len(row.marks) + 6
    parts = [_gridlines(limit)]
    for lane, mark in enumerate(row.marks):
        if mark is not None:
            parts.append(_dot(mark, limit, lane * _LANE + _LANE / 2 + 3))
    return Markup('<svg class="lane" width="100%" height="{}">{}</svg>').format(height, Markup("").join(parts))


def _dot(mark: Mark, limit: float, y: float) -> Markup:
    low, high, at = (_percent(value, limit) for value in (mark.low, mark.high, mark.value))
    return Markup(
        '<g class="r{a}"><title>{tip}</title><line class="hit" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
        '<line class="interval" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
        '<svg x="{at}" y="{y}" overflow="visible"><path class="dot" d="{shape}"/></svg></g>'
    ).format(a=mark.accent, tip=mark.tip, low=low, high=high, at=at, y=f"{y:g}", shape=_SHAPES[mark.accent])


def _stack(row: Stack, limit: float) -> Markup:
    parts, at = [_gridlines(limit)], 0.0
    for what, share, tip in row.shares:
        parts.append(
            Markup('<rect class="{} {}" x="{}" width="{}" y="5" height="14"><title>{}</title></rect>').format(
                f"r{row.accent}", what, _percent(at, limit), _percent(share, limit), tip
            )
        )
        at += share
    if row.bounds is not None:
        low, high = (_percent(bound, limit) for bound in row.bounds)
        parts.append(Markup('<line class="whisker" x1="{}" x2="{}" y1="12" y2="12"/>').format(low, high))
    return Markup('<svg class="lane" width="100%" height="24">{}</svg>').format(Markup("").join(parts))


def _gridlines(limit: float) -> Markup:
    lines = [
        Markup('<line class="grid" x1="{0}" x2="{0}" y1="0" y2="100%"/>').format(_percent(at, limit))
        for at in _ticks(limit)
    ]
    return Markup("").join(lines)


def _axis(limit: float, unit: str) -> Markup:
    texts = []
    for at in _ticks(limit):
        shown = f"{100 * at:g} %" if unit == "%" else f"{at:g}{' ' + unit if unit else ''}"
        anchor = "start" if at == 0 else "end" if at >= limit else "middle"
        texts.append(
            Markup('<text class="tick" x="{}" y="12" text-anchor="{}">{}</text>').format(
                _percent(at, limit), anchor, shown
            )
        )
    svg = Markup('<svg class="lane axis" width="100%" height="16">{}</svg>').format(Markup("").join(texts))
    return Markup('<div class="strip"><div class="label"></div>{}</div>').format(svg)


def _ticks(limit: float) -> list[float]:
    steps = 4 if limit >= 1 else 5
    return [limit * step / steps for step in range(steps + 1)]


def _frame(frame: Panel) -> Markup:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for value, text in frame.y_ticks:
        y = frame.y(value)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(_LEFT, right, y, y))
        parts.append(_text(_LEFT - 6, y + 4, text, "end"))
    parts += [_text(frame.x(value), bottom + 16, text, "middle") for value, text in frame.x_ticks]
    parts.append(Markup('<path class="base" d="M{},{}H{}"/>').format(_LEFT, bottom, right))
    if frame.diagonal:
        start, end = (frame.x(0), frame.y(0)), (frame.x(1), frame.y(1))
        parts.append(Markup('<path class="diagonal" d="M{},{}L{},{}"/>').format(*start, *end))
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 6, frame.x_label, "middle", "axis-label"))
    y_label = Markup('<text class="axis-label" text-anchor="middle" transform="translate(12,{}) rotate(-90)">{}</text>')
    return Markup("").join([*parts, y_label.format((_TOP + bottom) / 2, frame.y_label)])


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{:g}" y="{:g}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, text)


def _curve(frame: Panel, series: Series) -> Markup:
    at = [(frame.x(x), frame.y(y)) for x, y in series.points]
    path = "M" + "L".join(f"{x:g},{y:g}" for x, y in at) if at and series.line else ""
    parts = [Markup('<path class="line" d="{}"/>').format(path)] if path else []
    for (x, _), (low, high) in zip(at, series.bounds, strict=False):
        parts.append(Markup('<path class="interval" d="M{:g},{}V{}"/>').format(x, frame.y(low), frame.y(high)))
    for (x, y), tip in zip(at, series.tips, strict=False):
        parts.append(
            Markup('<g transform="translate({:g},{:g})"><title>{}</title><path class="dot" d="{}"/></g>').format(
                x, y, tip, _SHAPES[series.accent]
            )
        )
    return Markup('<g class="r{}">{}</g>').format(series.accent, Markup("").join(parts))


def _bars(frame: Panel, histogram: Bins) -> Markup:
    bottom = _HEIGHT - _BOTTOM
    bars = []
    for low, high, share, tip in histogram.bins:
        left, right, top = frame.x(low), frame.x(high), frame.y(share)
        bars.append(
            Markup('<rect class="bin" x="{:g}" y="{:g}" width="{:g}" height="{:g}"><title>{}</title></rect>').format(
                left, top, max(right - left - 1, 0.5), bottom - top, escape(tip)
            )
        )
    return Markup('<g class="r{}">{}</g>').format(histogram.accent, Markup("").join(bars))
