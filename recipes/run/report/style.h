// The style sheet of reports: one set of names for colours, given twice, for light and dark; print
// takes the light ones.
#pragma once

namespace qat::report {

inline constexpr char kStyle[] = R"css(
:root {
  --page: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --raised: #f6f8fa;
  --accent: #0b57d0; --mark: #8c959f;
  --c0: #0b57d0; --c1: #b3400e; --c2: #1a7f37; --c3: #8250df; --c4: #9a6700; --c5: #bf3989;
  --h0: #fbe3e0; --h1: #fbeed3; --h2: #f3f3cf; --h3: #dcefd3; --h4: #c1e6cd;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1317; --ink: #e6e9ec; --soft: #9ba6b2; --line: #30363d; --raised: #171c22;
    --accent: #7cb0ff; --mark: #6e7681;
    --c0: #7cb0ff; --c1: #ff9e64; --c2: #56d364; --c3: #c8a2ff; --c4: #e3b341; --c5: #ff8fc7;
    --h0: #4a1f1c; --h1: #47340f; --h2: #3c3d12; --h3: #23401f; --h4: #14442a;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 64rem; background: var(--page);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif;
  overflow-wrap: break-word; }
header { border-bottom: 1px solid var(--line); padding-bottom: 1.25rem; }
.kind { margin: 0; color: var(--soft); font-size: .875rem; }
h1 { margin: .1rem 0 .75rem; font-size: 2rem; line-height: 1.2; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.3rem; }
h3 { margin: 1.5rem 0 .5rem; font-size: 1rem; }
h4 { margin: 0 0 .35rem; font-size: .8125rem; color: var(--soft); font-weight: 600; }
.verdict { margin: 0 0 1.25rem; font-size: 1.15rem; border-left: 4px solid var(--accent);
  padding-left: .85rem; }
.verdicts { padding-left: 1.2rem; } .verdicts li { margin: .4rem 0; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem 2rem; margin: 0; }
.facts dt { color: var(--soft); font-size: .8125rem; } .facts dd { margin: 0; }
.scroll { overflow-x: auto; margin: 0 0 1rem; }
.scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: .875rem; padding-bottom: .5rem; }
th, td { padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: baseline; }
th:first-child, td:first-child { text-align: left; }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--soft); font-weight: 600; font-size: .8125rem; vertical-align: bottom; }
tbody th { font-weight: 500; }
.interval { display: block; color: var(--soft); font-size: .8125rem; white-space: nowrap; }
td { min-width: 5.5rem; }
.heat { text-align: center; } .none { text-align: center; color: var(--soft); }
.h0 { background: var(--h0); } .h1 { background: var(--h1); } .h2 { background: var(--h2); }
.h3 { background: var(--h3); } .h4 { background: var(--h4); }
figure { margin: 1rem 0 1.75rem; }
figcaption { font-size: .875rem; color: var(--soft); margin-bottom: .35rem; }
figcaption strong, caption strong { color: var(--ink); }
figure > svg { display: block; width: 100%; height: auto; }
.axis { fill: var(--soft); font-size: 12px; } .marklabel { fill: var(--soft); font-size: 11px; }
.grid { stroke: var(--line); stroke-width: 1; }
.mark { stroke: var(--mark); stroke-width: 1; stroke-dasharray: 3 3; }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); stroke-dasharray: 7 3; }
.c2 { stroke: var(--c2); stroke-dasharray: 2 3; } .c3 { stroke: var(--c3); stroke-dasharray: 9 3 2 3; }
.c4 { stroke: var(--c4); stroke-dasharray: 12 4; } .c5 { stroke: var(--c5); stroke-dasharray: 4 4; }
.bar { fill: var(--c0); }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; margin: 0 0 .35rem;
  padding: 0; font-size: .875rem; }
.swatch { width: 28px; height: 8px; margin-right: .4rem; vertical-align: middle; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1rem; }
article { background: var(--raised); border: 1px solid var(--line); border-radius: 6px;
  padding: .75rem .9rem; min-width: 0; }
.sample { margin: 0; white-space: pre-wrap; font-size: .9375rem; }
.prompt { color: var(--soft); }
pre { background: var(--raised); border: 1px solid var(--line); border-radius: 6px; padding: .75rem;
  font: .8125rem/1.5 ui-monospace, "SF Mono", "DejaVu Sans Mono", monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
summary { cursor: pointer; padding: .35rem 0; }
@media print {
  :root { --page: #ffffff; --ink: #000000; --soft: #444444; --line: #bbbbbb; --raised: #ffffff;
    --accent: #0b57d0; --mark: #777777; --c0: #0b57d0; --c1: #b3400e; --c2: #1a7f37; --c3: #8250df;
    --c4: #9a6700; --c5: #bf3989; --h0: #fbe3e0; --h1: #fbeed3; --h2: #f3f3cf; --h3: #dcefd3;
    --h4: #c1e6cd; }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  h2, h3 { break-after: avoid; } figure, article, tr { break-inside: avoid; }
  .scroll { overflow: visible; }
  details > *:not(summary) { display: block; }
}
)css";

}  // namespace qat::report
