"""The targets as a picture: how far each was reached, written as SVG."""

from collections.abc import Sequence
from html import escape
from math import log2

from bench.contests import Case
from bench.figures import Verdict, shown

_LEFT, _WIDTH, _ROW, _TOP, _RIGHT = 560, 420, 22, 64, 90
_LOWEST, _HIGHEST = 0.25, 8.0
_REACHED, _MISSED, _STRETCH, _INK, _PALE = "#2a7f62", "#c1440e", "#8a8a8a", "#222222", "#dddddd"
_STYLE = "font: 12px system-ui, sans-serif"


def svg(found: Sequence[tuple[Case, Verdict]]) -> str:
    """One bar per target; the line at 1 is the target, and twice as far is twice as good. The scale is logarithmic."""
    height = _TOP + _ROW * len(found) + 16
    width = _LEFT + _WIDTH + _RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" style="{_STYLE}">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(12, 22, "What was found, as a multiple of the target (right of 1: reached)", size=15),
    ]
    mark = _LOWEST
    while mark <= _HIGHEST:
        place = _place(mark)
        colour, thick = (_INK, 1.5) if mark == 1 else (_PALE, 1)
        parts.append(
            f'<line x1="{place:.1f}" y1="{_TOP - 6}" x2="{place:.1f}" y2="{height - 12}" stroke="{colour}" '
            f'stroke-width="{thick}"/>'
        )
        parts.append(_text(place, _TOP - 12, f"{mark:g}x", anchor="middle"))
        mark *= 2
    for index, (case, verdict) in enumerate(found):
        parts += _bar(_TOP + index * _ROW, case, verdict)
    return "\n".join([*parts, "</svg>", ""])


def _bar(top: float, case: Case, verdict: Verdict) -> list[str]:
    share = min(max(verdict.share, _LOWEST), _HIGHEST)
    if verdict.share <= 0 and verdict.reached:
        share = _HIGHEST  # less than nothing was asked for at most
    start, end = sorted((_place(1.0), _place(share)))
    colour = _REACHED if verdict.reached else _STRETCH if verdict.target.stretch else _MISSED
    label = f"{case.name}: {verdict.target.text.replace('`', '')}"
    value = f"{shown(verdict.found.median)}{verdict.target.unit}"
    return [
        _text(_LEFT - 10, top + 14, label, anchor="end"),
        f'<rect x="{start:.1f}" y="{top + 3}" width="{max(end - start, 2):.1f}" height="{_ROW - 7}" fill="{colour}"/>',
        _text(end + 6 if share >= 1 else _place(1.0) + 6, top + 14, value),
    ]


def _place(share: float) -> float:
    return _LEFT + _WIDTH * (log2(share) - log2(_LOWEST)) / (log2(_HIGHEST) - log2(_LOWEST))


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{_INK}">{escape(text)}</text>'
    )
