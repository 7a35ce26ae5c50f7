"""Everything about some runs as one HTML file that needs nothing else, no network either."""

import dataclasses
import datetime
import html
import json
import pathlib
from typing import Any

from plotly.offline import get_plotlyjs

from lm.results import tables, views
from lm.results.curves import Chosen, Curve, choose, finite_parts, is_wide, thinned
from lm.results.groups import mode_of
from lm.results.reading import Found
from lm.results.views import Choice
from lm.system import atomic_files, safe_text

# What a browser draws at ease, in each plot.
_MOST_POINTS, _MOST_POINTS_OF_CURVE, _FEWEST_POINTS_OF_CURVE = 60_000, 500, 30
_COLORS = (  # matplotlib's tab10, so that PNG and page agree.
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd"),
    *("#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"),
)
_GREY = "#cccccc"
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 76em; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.1em; margin-top: 2em; }
.wide { overflow-x: auto; } pre { overflow-x: auto; background: #f6f6f6; padding: 0.8em; }
table { border-collapse: collapse; font-size: 13px; }
th, td { text-align: left; padding: 0.2em 0.9em 0.2em 0; border-bottom: 1px solid #e4e4e4; }
td { white-space: nowrap; } .number { text-align: right; font-variant-numeric: tabular-nums; }
"""


def save(folder: pathlib.Path, found: Found, choice: Choice, path: pathlib.Path) -> None:
    """Writes the page of the runs in a folder: what is best, plots, tables, and what was odd."""
    time = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [f"<h1>{_html(str(folder))}</h1>\n<p>As of {time}.</p>"]
    if choice.metrics and mode_of(choice.metrics[0], choice.mode):
        text, _ = views.best(found.runs, dataclasses.replace(choice, metrics=choice.metrics[:1]))
        parts.append(f"<h2>Best</h2>\n<pre>{_html(text)}</pre>")
    chosen = choose(found.runs, choice)
    plots = [_plot(chosen, metric, choice.with_unfinished) for metric in choice.metrics]
    for i, metric in enumerate(choice.metrics):
        parts.append(f"<h2>{_html(metric)}</h2>\n<div id=plot{i}></div>")
    parts.append(tables.page(views.results(found.runs, choice)[0]))
    parts.append(tables.page(views.status(found.runs, choice)[0]))
    if found.warnings:
        items = "\n".join(f"<li>{_html(line)}</li>" for line in found.warnings)
        parts.append(f"<h2>Notes</h2>\n<ul>\n{items}\n</ul>")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.write(path, _page(str(folder), "\n".join(parts), plots))


def _html(text: str) -> str:
    return html.escape(safe_text.shown(text))


def _page(title: str, body: str, plots: list[dict[str, Any]]) -> str:
    # "</script" would end the script also inside a string, and "<!--<script>" keep it from ending.
    data = json.dumps(plots, allow_nan=False).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{_html(title)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
<script>{get_plotlyjs()}</script>
</head>
<body>
{body}
<script>
const plots = {data};
plots.forEach((plot, i) => Plotly.newPlot(
  "plot" + i, plot.data, plot.layout, {{displaylogo: false, responsive: true}}));
</script>
</body>
</html>
"""


def _plot(chosen: Chosen, metric: str, with_unfinished: bool) -> dict[str, Any]:
    """Makes Plotly's data and layout; a click on a name hides a curve with its band."""
    drawn = chosen.curves(metric, with_unfinished)
    curves = [curve for curve, _ in drawn]
    num_grey = sum(config is None for _, config in drawn)
    share = _MOST_POINTS // max(len(curves), 1)
    most = min(max(share, _FEWEST_POINTS_OF_CURVE), _MOST_POINTS_OF_CURVE)
    data = []
    for i, (curve, config) in enumerate(drawn):
        curve, text = thinned(curve, most), safe_text.shown(curve.label)
        if config is None:
            name = chosen.other_names(metric)
            line = _line(curve, _GREY, text, "others")
            data.append(line | {"name": name, "showlegend": i == 0})
            continue
        group = f"curve{i - num_grey}"
        if curve.error_T is not None:  # Before its line, so that it lies below.
            data.append(_band(curve, _COLORS[config], group))
        data.append(_line(curve, _COLORS[config], text, group))
    layout = _layout(metric, curves, num_names=len(curves) - num_grey + bool(num_grey))
    if any(len(curve.steps_T) > most for curve in curves):
        layout["xaxis"]["title"]["text"] += f" (at most {most} points of each curve are drawn)"
    return {"data": data, "layout": layout}


def _line(curve: Curve, color: str, text: str, group: str) -> dict[str, Any]:
    return {
        "x": curve.steps_T.tolist(),
        "y": [None if y != y else y for y in curve.mean_T.tolist()],  # NaN is no JSON, but a gap.
        "name": text,
        "text": text,
        "hovertemplate": "%{y:.5g} at step %{x}<br>%{text}<extra></extra>",
        "mode": "lines" if len(curve.steps_T) > 1 else "markers",
        "line": {"color": color, "width": 2, "dash": "solid" if curve.is_finished else "dash"},
        "legendgroup": group,
        "showlegend": True,
    }


def _band(curve: Curve, color: str, group: str) -> dict[str, Any]:
    """Draws mean ± standard error as a closed shape for each stretch without NaN."""
    low_T, high_T = curve.mean_T - curve.error_T, curve.mean_T + curve.error_T
    x, y = [], []
    for part in finite_parts(curve):
        steps_T = curve.steps_T[part]
        x += [*steps_T.tolist(), *steps_T[::-1].tolist(), None]
        y += [*high_T[part].tolist(), *low_T[part][::-1].tolist(), None]
    return {
        "x": x,
        "y": y,
        "fill": "toself",
        "fillcolor": color,
        "opacity": 0.2,
        "mode": "none",
        "hoverinfo": "skip",
        "legendgroup": group,
        "showlegend": False,
    }


def _layout(metric: str, curves: list[Curve], num_names: int) -> dict[str, Any]:
    scale = "log" if is_wide(curves) else "linear"
    has_band = any(curve.error_T is not None for curve in curves)
    y_title = f"{safe_text.shown(metric)}{', mean ± standard error' if has_band else ''}"
    grid = {"gridcolor": "#eeeeee", "zeroline": False}
    buttons = [
        {"label": f"{kind} axis", "method": "relayout", "args": [{"yaxis.type": kind}]}
        for kind in ("linear", "log")
    ]
    return {
        "height": 460 + 20 * num_names,  # A line of the legend takes 19.
        "margin": {"t": 60, "l": 70, "r": 20},
        "template": {"layout": {"colorway": _COLORS}},
        "xaxis": {"title": {"text": "step"}, **grid},
        "yaxis": {"title": {"text": y_title}, "type": scale, **grid},
        "plot_bgcolor": "white",
        "legend": {"x": 0, "y": -0.15, "yanchor": "top", "tracegroupgap": 0},
        "showlegend": True,
        "hovermode": "closest",
        "updatemenus": [
            {
                "type": "buttons",
                "direction": "left",
                "buttons": buttons,
                "active": int(scale == "log"),
                # On the left: Plotly's own tool bar is on the right.
                **{"x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
            }
        ],
    }
