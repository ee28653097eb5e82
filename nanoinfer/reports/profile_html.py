"""A profile as one self-contained web page: its tables, the roofline, and a typical run as a timeline.

Pictures are inline SVG and a little JavaScript moves them, so the page loads nothing from anywhere.
"""

from __future__ import annotations

import math
from html import escape

from .profile import Profile, Row
from .report import Table

COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#b6992d", "#af7aa1", "#9c755f", "#ff9da7", "#79706e")
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 900, 460, 60, 20, 20, 45  # of the roofline, and its margins
LANE, GAP = 34, 6  # height of a thread's lane in the timeline

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1500px; padding: 0 1em; color: #222 }}
h1 {{ font-size: 1.4em }} h2 {{ font-size: 1.1em; margin-top: 2em }}
.scroll {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap }}
th, td {{ padding: 2px 9px; text-align: left }} th {{ border-bottom: 1px solid #888; cursor: pointer }}
tr:nth-child(even) {{ background: #f4f4f4 }} .right {{ text-align: right }}
svg text {{ font: 11px system-ui, sans-serif; fill: #444 }}
.lanes {{ display: flex }} .lanes div {{ height: {lane}px; margin-bottom: {gap}px; line-height: {lane}px; width: 6em }}
#timeline {{ flex: 1; cursor: grab; background: #fafafa }} #detail {{ min-height: 1.5em; color: #444 }}
.key span {{ margin-right: 1.2em; white-space: nowrap }} .key i {{ display: inline-block; width: .8em; height: .8em }}
</style></head><body>
<h1>{title}</h1>
<p>{footing}</p>
<p class="key">{key}</p>
<h2>Timeline of a typical run</h2>
<p>Grey is waiting for the other threads. Wheel: zoom; drag: move; double click: the whole run.</p>
<div class="lanes"><section>{threads}</section>{timeline}</div>
<p id="detail">&nbsp;</p>
<h2>Roofline</h2>
<p>A step is a disc, its area the share of the run. Above it stands what the machine allows.</p>
{roofline}
{tables}
<script>
const detail = document.getElementById("detail"), run = document.getElementById("timeline");
for (const mark of document.querySelectorAll("rect[data-text], circle[data-text]"))
  mark.onpointerenter = () => detail.textContent = mark.dataset.text;
const box = run.viewBox.baseVal, whole = box.width;
const show = (x, width) => {{
  box.width = Math.min(whole, Math.max(width, whole / 2000));
  box.x = Math.min(Math.max(x, 0), whole - box.width);
}};
const at = event => box.x + event.offsetX / run.clientWidth * box.width;
run.addEventListener("wheel", event => {{
  event.preventDefault();
  const factor = event.deltaY > 0 ? 1.25 : 0.8, x = at(event);
  show(x - (x - box.x) * factor, box.width * factor);
}}, {{passive: false}});
run.onpointermove = event => {{
  if (event.buttons) show(box.x - event.movementX / run.clientWidth * box.width, box.width);
}};
run.ondblclick = () => show(0, whole);
for (const head of document.querySelectorAll("th")) head.onclick = () => {{
  const body = head.closest("table").tBodies[0], column = head.cellIndex, up = head.dataset.up !== "1";
  const value = row => row.cells[column].textContent, number = text => parseFloat(text);
  const order = (a, b) => isNaN(number(a)) || isNaN(number(b)) ? a.localeCompare(b) : number(a) - number(b);
  head.dataset.up = up ? "1" : "0";
  body.append(...[...body.rows].sort((a, b) => order(value(a), value(b)) * (up ? 1 : -1)));
}};
</script></body></html>
"""


def page(profile: Profile) -> str:
    """The whole page as HTML text."""
    colours = {group.kind: COLOURS[index % len(COLOURS)] for index, group in enumerate(profile.kinds)}
    return PAGE.format(
        title=escape(profile.heading()[0]),
        footing="<br>".join(map(escape, profile.footing())),
        key="".join(f'<span><i style="background:{c}"></i> {escape(kind)}</span>' for kind, c in colours.items()),
        threads="".join(f"<div>thread {thread}</div>" for thread in range(profile.threads)),
        timeline=_timeline(profile, colours),
        roofline=_roofline(profile, colours),
        tables="\n".join(map(_table, profile.tables())),
        lane=LANE,
        gap=GAP,
    )


def _text(row: Row) -> str:
    return escape(
        f"step {row.step}: {row.kernel}, {row.layer}, {row.shapes}: {row.microseconds:.1f} us, "
        f"{row.gflops:.1f} GFLOP/s, {row.gbs:.1f} GB/s, {row.percent:.0f}% of the {row.bound} limit"
    )


def _table(table: Table) -> str:
    marks = [' class="right"' if column.right else "" for column in table.shown]
    heads = "".join(f"<th{m}>{escape(c.title)}</th>" for m, c in zip(marks, table.shown, strict=True))
    rows = ("".join(f"<td{m}>{escape(c)}</td>" for m, c in zip(marks, row, strict=True)) for row in table.cells())
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<h2>{escape(table.title)}</h2><div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _timeline(profile: Profile, colours: dict[str, str]) -> str:
    """A lane per thread. A microsecond is one unit of the picture's width, which the browser stretches to the page."""
    height, end, parts = profile.threads * (LANE + GAP), float(profile.timeline.max()), []
    for thread, steps in enumerate(profile.timeline.tolist()):
        for row, (start, done, met) in zip(profile.rows, steps, strict=True):
            for first, last, colour in ((start, done, colours[row.kind]), (done, met, "#ccc")):
                parts.append(
                    f'<rect x="{first:.3f}" y="{thread * (LANE + GAP)}" width="{last - first:.3f}" height="{LANE}" '
                    f'fill="{colour}" data-text="{_text(row)}"/>'
                )
    return (
        f'<svg id="timeline" viewBox="0 0 {end:.3f} {height}" height="{height}" preserveAspectRatio="none">'
        f"{''.join(parts)}</svg>"
    )


def _roofline(profile: Profile, colours: dict[str, str]) -> str:
    """GFLOP/s over FLOP per byte, both logarithmic, by powers of ten."""
    peak, bandwidths = profile.roofs
    intensities = [row.flops / row.bytes for row in profile.rows] + [peak / rate for _, rate in bandwidths]
    x0, x1 = math.floor(math.log10(min(intensities))), math.ceil(math.log10(max(intensities)))
    lowest = min(row.gflops for row in profile.rows)
    y0, y1 = math.floor(math.log10(lowest)), math.ceil(math.log10(peak))

    def x(value: float) -> float:
        return LEFT + (math.log10(value) - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (math.log10(value) - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    def line(xa: float, ya: float, xb: float, yb: float, colour: str) -> str:
        return f'<line x1="{x(xa):.1f}" y1="{y(ya):.1f}" x2="{x(xb):.1f}" y2="{y(yb):.1f}" stroke="{colour}"/>'

    def label(px: float, py: float, text: str, anchor: str = "start") -> str:
        return f'<text x="{px:.1f}" y="{py:.1f}" text-anchor="{anchor}">{escape(text)}</text>'

    parts = []
    for power in range(x0, x1 + 1):
        parts += [line(10**power, 10**y0, 10**power, 10**y1, "#e4e4e4"),
                  label(x(10**power), HEIGHT - BOTTOM + 15, f"{10.0**power:g}", "middle")]  # fmt: skip
    for power in range(y0, y1 + 1):
        parts += [line(10**x0, 10**power, 10**x1, 10**power, "#e4e4e4"),
                  label(LEFT - 6, y(10**power) + 4, f"{10.0**power:g}", "end")]  # fmt: skip
    for (name, rate), drop in zip(bandwidths, (-8, 16, 16), strict=True):  # L2 and L3 lie close: labels on either side
        start = max(10**x0, 10**y0 / rate)
        parts += [line(start, start * rate, peak / rate, peak, "#888"),
                  label(x(start) + 4, y(start * rate) + drop, f"{name} {rate:.0f} GB/s")]  # fmt: skip
    parts.append(line(peak / max(rate for _, rate in bandwidths), peak, 10**x1, peak, "#000"))
    parts.append(label(WIDTH - RIGHT, y(peak) - 6, f"{peak:.0f} GFLOP/s", "end"))
    parts.append(label(WIDTH / 2, HEIGHT - 8, "FLOP per byte", "middle"))
    parts.append(label(4, 12, "GFLOP/s"))
    for row in sorted(profile.rows, key=lambda row: -row.share):  # small discs lie on top
        text = _text(row)
        parts.append(
            f'<circle cx="{x(row.flops / row.bytes):.1f}" cy="{y(row.gflops):.1f}" r="{3 + 50 * row.share**0.5:.1f}" '
            f'fill="{colours[row.kind]}" fill-opacity="0.55" data-text="{text}"><title>{text}</title></circle>'
        )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">{"".join(parts)}</svg>'
