"""How a report looks: one sheet for screen, dark screen and paper."""

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1a1a1a; --soft: #5a5f66; --line: #d9dce0; --card: #f7f8f9;
  --c0: #0072B2; --c1: #D55E00; --c2: #009E73; --c3: #CC79A7; --c4: #E69F00; --c5: #56B4E9; --c6: #555555;
  --heat: #0072B2; }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #14171a; --ink: #e6e8ea; --soft: #a0a7ae; --line: #3a4047; --card: #1c2024;
    --c0: #3d9bd9; --c1: #f07f2e; --c2: #24b892; --c3: #de94bd; --c4: #f0b030; --c5: #8accf2; --c6: #b0b0b0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1rem 4rem; max-width: 1180px; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; font-weight: 650; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .4rem; padding-top: .8rem; border-top: 1px solid var(--line);
  font-weight: 650; }
h3 { font-size: .95rem; margin: 1.4rem 0 .4rem; font-weight: 650; }
p { margin: .3rem 0 .8rem; max-width: 46rem; } .soft, figcaption, th, small { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(145px, 1fr)); gap: .8rem; margin: 1.2rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.45rem; font-weight: 620; font-variant-numeric: tabular-nums; line-height: 1.25; }
.tile span { font-size: .82rem; color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); gap: 1.2rem 1.6rem; }
figure { margin: 0; min-width: 0; max-width: 440px; } figure svg { width: 100%; height: auto; display: block; }
figure.wide { max-width: 760px; } figcaption { font-size: .84rem; line-height: 1.4; margin-top: .2rem; }
.scroll { overflow-x: auto; max-width: 100%; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-size: .86rem; }
th, td { text-align: left; padding: .22rem .9rem .22rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: break-word; }
th { font-weight: 550; white-space: nowrap; overflow-wrap: normal; }
td:first-child { white-space: nowrap; overflow-wrap: normal; } td.n, th.n { text-align: right;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.dreams td, .dreams th { padding: .3rem .9rem .3rem 0; } .dreams img { display: block; }
.dreams img, .pairs img { image-rendering: pixelated; height: 40px; width: auto; max-width: none; border-radius: 2px; }
.pairs { display: flex; flex-wrap: wrap; gap: .8rem 1.1rem; } .pairs span { display: inline-block; font-size: .78rem;
  color: var(--soft); } .pairs span img { display: inline-block; margin-right: 2px; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .7rem .9rem; margin: .4rem 0;
  font: .8rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap; }
code { font: .86em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
details { margin: .5rem 0; } summary { cursor: pointer; font-weight: 550; } .note { border-left: 3px solid var(--c1);
  padding-left: .8rem; }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; }
  .tiles { grid-template-columns: repeat(5, 1fr); } h2, h3, summary { break-after: avoid; }
  figure, .tile, tr { break-inside: avoid; } .charts { grid-template-columns: repeat(2, 1fr); }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; } .scroll { overflow: visible; }
  table { font-size: 7.5pt; } th { white-space: normal; } .dreams img { height: 30px; }
  td, th { padding-right: .6rem; } }
"""
