"""A diagnosis as one HTML file that needs nothing else: no script, no network; every text from data or model is escaped."""

from __future__ import annotations

from html import escape
from typing import Any

from visurf.doctor.findings import Diagnosis, Finding, Histogram, Picture, Section, Table
from visurf.doctor.report import embedded, named

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5b6470; --line: #d9dde3; --paper: #fff; --back: #f5f6f8;
  --error: #b42318; --warning: #8a5a00; --clear: #1a7f37; --bar: #4a7fd0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #a2abb7; --line: #3a414b; --paper: #1d2126; --back: #14171a;
  --error: #ff8a80; --warning: #f2b84b; --clear: #6fcf83; --bar: #6c9be4; } }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1000px; margin: 0 auto; padding: 24px 16px 64px }
h1 { font-size: 1.5rem; margin: 0 0 4px; overflow-wrap: anywhere } h2 { font-size: 1.1rem; margin: 0 }
header p { margin: 0; color: var(--soft); overflow-wrap: anywhere }
.conclusion { font-size: 1.2rem; font-weight: 600; margin: 12px 0 20px }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 14px 18px; margin: 0 0 14px }
.head { display: flex; gap: 12px; align-items: baseline; justify-content: space-between }
.verdict { font-weight: 600; white-space: nowrap } .error { color: var(--error) } .warning { color: var(--warning) }
.clear { color: var(--clear) } .notmade { color: var(--soft) }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 6px 18px; margin: 10px 0 0 }
dt { color: var(--soft); font-size: .85rem } dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
.finding { border-left: 3px solid currentColor; padding: 2px 0 2px 12px; margin: 12px 0 0 }
.finding p { margin: 0; color: var(--ink) }
.finding .remedy { color: var(--soft) } .finding ul { color: var(--soft); margin: 6px 0 0; padding-left: 18px; font-size: .9rem }
li { overflow-wrap: anywhere }
.wide { overflow-x: auto; margin-top: 12px } table { border-collapse: collapse; width: 100%; font-size: .9rem }
caption { text-align: left; color: var(--soft); padding-bottom: 4px }
th, td { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top }
td { font-variant-numeric: tabular-nums } td.text { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 260px }
figure { margin: 14px 0 0 } figure img { max-width: 100%; height: auto; border: 1px solid var(--line); background: #fff }
figcaption { color: var(--soft); font-size: .9rem; overflow-wrap: anywhere } svg { margin-top: 12px; max-width: 100%; height: auto }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif } svg rect { fill: var(--bar) }
.unmade { color: var(--soft); margin: 10px 0 0 }
@media print { body { background: #fff } section { break-inside: avoid } }
"""
WORDS = {"error": "error", "warning": "warning", "clear": "clear", "not made": "not checked"}
# Characters from which on a cell is a text and may wrap.
TEXT = 40


def page(diagnosis: Diagnosis) -> str:
    """The whole file."""
    about = " · ".join(f"{escape(k)}: {escape(str(v))}" for k, v in diagnosis.about.items())
    level = "error" if diagnosis.count("error") else ("warning" if diagnosis.count("warning") else "clear")
    body = "\n".join(_section(section) for section in diagnosis.sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>visurf check {escape(diagnosis.recipe)}</title><style>{STYLE}</style></head><body><main>"
        f"<header><h1>visurf check {escape(diagnosis.recipe)}</h1><p>{about}</p></header>"
        f'<p class="conclusion {level}">{escape(diagnosis.conclusion)}</p>{body}</main></body></html>\n'
    )


def _section(section: Section) -> str:
    parts = [
        f'<section id="{escape(section.name)}"><div class="head"><h2>{escape(section.title)}</h2>'
        f'<span class="verdict {section.verdict.replace(" ", "")}">{WORDS[section.verdict]}</span></div>'
    ]
    if section.facts:
        parts.append(f"<dl>{''.join(_fact(k, v) for k, v in section.facts.items())}</dl>")
    parts += [_finding(finding) for finding in section.findings]
    parts += [_histogram(histogram) for histogram in section.histograms if histogram.values]
    parts += [_table(table) for table in section.tables]
    parts += [_figure(picture) for picture in section.pictures]
    parts += [f'<p class="unmade">Not checked: {escape(reason)}</p>' for reason in section.not_made]
    return "".join(parts) + "</section>"


def _figure(picture: Picture) -> str:
    said = escape(picture.caption, quote=True)
    return f'<figure><img alt="{said}" src="{embedded(picture.png)}"><figcaption>{said}</figcaption></figure>'


def _fact(name: str, value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>"


def _finding(finding: Finding) -> str:
    shown, more = named(finding)
    items = "".join(f"<li>{escape(name[:600])}</li>" for name in shown) + (f"<li>and {more:,} more</li>" if more else "")
    remedy = f'<p class="remedy">{escape(finding.remedy)}</p>' if finding.remedy else ""
    listed = f"<ul>{items}</ul>" if items else ""
    said = f"<p><strong>{finding.level}</strong>: {escape(finding.message)}</p>"
    return f'<div class="finding {finding.level}">{said}{remedy}{listed}</div>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.head)
    rows = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in table.rows)
    title = f"<caption>{escape(table.title)}</caption>"
    return f'<div class="wide"><table>{title}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(text: str) -> str:
    return f'<td class="text">{escape(text)}</td>' if len(text) > TEXT else f"<td>{escape(text)}</td>"


def _histogram(histogram: Histogram) -> str:
    """Bars as an SVG picture, with a title for those who do not see it."""
    bins = histogram.bins()
    most = max(count for *_, count in bins)
    bars = "".join(_bar(i, *one, most) for i, one in enumerate(bins))
    limit = "" if histogram.limit is None else f", limit {histogram.limit:,.0f}"
    title = escape(f"{histogram.title}{limit}")
    height = 20 * len(bins) + 26
    return (
        f'<svg width="640" height="{height}" viewBox="0 0 640 {height}" role="img" aria-label="{title}">'
        f'<text x="0" y="14">{title}</text>{bars}</svg>'
    )


def _bar(index: int, low: float, high: float, count: int, most: int) -> str:
    y = 26 + 20 * index
    edge = f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
    width = max(round(380 * count / most), 1 if count else 0)
    return (
        f'<text x="150" y="{y + 12}" text-anchor="end">{edge}</text><rect x="158" y="{y}" width="{width}" height="15"/>'
        f'<text x="{164 + width}" y="{y + 12}">{count:,}</text>'
    )
