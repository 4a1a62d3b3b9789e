"""The frame of a report: one HTML page that loads nothing."""

from string import Template

from ppl_vae.plots.charts import INK, PAPER

__all__ = ["fill"]

# Nothing but inline styles and embedded images may load: the browser itself holds the page to it.
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<link rel="icon" href="data:,">
<style>
:root {
  --paper: $paper_light; --ink: $ink_light; --ground: #f3f5f7; --line: #d7dde3; --soft: #5b6672;
  --accent: #0a5c92; --good: #1a7f37; --flag: #9a4a00; --flag-ground: #fdf0e0;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: $paper_dark; --ink: $ink_dark; --ground: #0d1117; --line: #2d343d; --soft: #98a3af;
    --accent: #6cb6ee; --good: #56c271; --flag: #f2b366; --flag-ground: #3a2a16;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
}
main, header, footer { max-width: var(--page, 1240px); margin: 0 auto;
  padding: 0 clamp(1rem, 3vw, 2.5rem); }
header { padding-top: 2.6rem; }
h1 { font-size: clamp(1.6rem, 1.2rem + 1.6vw, 2.3rem); line-height: 1.15; margin: 0 0 .4rem;
  letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 .2rem; letter-spacing: -.01em; }
p { margin: 0 0 1rem; }
.lede, .text { color: var(--soft); max-width: 70ch; }
.text { margin-bottom: 1.1rem; }
.scroll + .text { margin: 1rem 0 .3rem; }
ul.text { margin-top: 0; }
nav { margin: 1.2rem 0 0; padding: .7rem 0; border-block: 1px solid var(--line); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.3rem; margin: 0;
  padding: 0; font-size: .92rem; }
a { color: var(--accent); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
section { padding: 2.2rem 0 .3rem; scroll-margin-top: .5rem; }
.columns { display: grid; gap: 1.1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, var(--least, 25rem)), 1fr)); }
.columns.wide { grid-template-columns: minmax(0, 1fr); }
.card, figure { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; }
.card { padding: 1.1rem 1.25rem; border-top: 4px solid var(--run, var(--line)); min-width: 0; }
.card h3 { margin: 0 0 .7rem; font-size: 1.05rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .3rem 1rem; margin: 0;
  font-size: .92rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
code { font: .93em/1.45 ui-monospace, "SF Mono", "DejaVu Sans Mono", monospace; }
figure { margin: 0; padding: .8rem 1rem 1rem; min-width: 0; display: flex;
  flex-direction: column; }
figcaption { font-size: .92rem; font-weight: 600; margin-bottom: .7rem; overflow-wrap: anywhere; }
figure img { display: block; width: 100%; height: auto; margin: 0 auto; }
figure img.pixels { max-width: 640px; image-rendering: pixelated; }
figure img.chart { max-width: 680px; }
@media (prefers-color-scheme: dark) { figure img.ink { filter: invert(.9); } }
.wide figure { overflow-x: auto; }
.wide figure img.chart { max-width: none; min-width: 44rem; }
figure .under { margin: .7rem 0 0; font-size: .85rem; color: var(--soft); }
figure .missing { margin: auto; padding: 2rem 1rem; color: var(--soft); text-align: center; }
.chip { display: inline-block; width: .72em; height: .72em; border-radius: 3px;
  background: var(--run); margin-right: .5em; }
.findings { list-style: none; margin: 0; padding: 0; font-size: .95rem; }
.findings li { padding: .45rem 0 .45rem 1.5rem; position: relative; }
.findings li + li { border-top: 1px solid color-mix(in srgb, var(--line) 55%, transparent); }
.findings li::before { position: absolute; left: 0; font-weight: 700; }
.findings .good::before { content: "✓"; color: var(--good); }
.findings .note::before { content: "•"; color: var(--soft); }
.findings .problem::before { content: "!"; color: var(--flag); left: .25em; }
.findings a { font-weight: 600; margin-right: .3em; }
.findings a::first-letter { text-transform: uppercase; }
.advice { color: var(--soft); }
.scroll { overflow-x: auto; background: var(--paper); border: 1px solid var(--line);
  border-radius: 10px; }
.scroll:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
th, td { text-align: left; padding: .55rem 1rem; vertical-align: top; }
thead th { border-bottom: 2px solid var(--line); white-space: nowrap; }
tbody tr + tr > * { border-top: 1px solid color-mix(in srgb, var(--line) 55%, transparent); }
tbody th[scope=rowgroup] { padding-top: 1.3rem; color: var(--accent); font-size: .8rem;
  letter-spacing: .05em; text-transform: uppercase; }
tbody:not(:first-of-type) th[scope=rowgroup] { border-top: 1px solid var(--line); }
tbody th[scope=row] { font-weight: 500; min-width: 14rem; }
td { min-width: 13rem; }
.value { font-variant-numeric: tabular-nums; white-space: nowrap; }
.error { color: var(--soft); }
.small { display: block; font-size: .8rem; line-height: 1.35; font-weight: 400;
  color: var(--soft); max-width: 38ch; }
.flag { display: inline-block; margin-left: .5em; padding: 0 .5em; border-radius: 99px;
  font-size: .76rem; font-weight: 600; color: var(--flag); background: var(--flag-ground); }
footer { padding-block: 2.5rem; color: var(--soft); font-size: .88rem; }
@media print {
  body { background: none; } nav { display: none; }
  figure, tr, .card { break-inside: avoid; }
}
</style>
</head>
<body$wide>
<header>
<h1>$title</h1>
<p class="lede">$lede</p>
<nav aria-label="Sections"><ul>
$links
</ul></nav>
</header>
<main>
$sections
</main>
<footer>Made by ppl-vae $version. This file loads nothing: keep it, send it, open it anywhere.
</footer>
</body>
</html>
""")


def fill(runs: int, **parts: str) -> str:
    """The page with its parts, each HTML already.

    Args:
        runs: how many stand side by side, which sets the width of the page.
        parts: what stands in the template.
    """
    sizes = {1: "--page:920px", 2: ""}.get(runs, "--page:1560px;--least:20rem")
    wide = f' style="{sizes}"' if sizes else ""
    colours = {
        "paper_light": PAPER[0],
        "paper_dark": PAPER[1],
        "ink_light": INK[0],
        "ink_dark": INK[1],
    }
    return _PAGE.substitute(parts, wide=wide, **colours)
