"""Pages about single results on depth: ``settle``, ``depth`` and ``exits``."""

from typing import Any

import altair as alt
import pandas as pd

from iterconv.figures.exits import NAMES
from iterconv.report.charts import QUIET, colour_by, counting, data, finish, interval_chart, rate_axis, tooltip
from iterconv.report.page import Control, Page, Plot, Section, Table, rows_of
from iterconv.report.single import page_of, state_facts
from iterconv.settling.depth import Depth
from iterconv.settling.exit_frontier import Exits
from iterconv.settling.settled import Settling


@page_of.register
def _(result: Settling, title: str) -> Page:
    steps = result.steps
    rates = {"error": steps["error"], "disagreement with step 0": 1 - steps["agreement"]}
    if (steps["finite"] < 1).any():
        rates["states not finite"] = 1 - steps["finite"]
    verdicts = result.verdicts.rename_axis("verdict").reset_index()
    counted = verdicts.melt("verdict", var_name="at the end", value_name="examples")
    shares = {name: f"{share:.1%}" for name, share in result.shares().items()}
    start, end = result.options["span"]
    one, stage = end - start == 1, result.options["stage"] + 1
    what = f"block {start + 1}" if one else f"blocks {start + 1} to {end}"
    return Page(
        title=title,
        lead=f"In stage {stage}, {what} {'was' if one else 'were'} applied again and again, beyond the ordinary pass. "
        "Residuals, angles (in degrees) and growth rates are medians over the examples whose state is finite; bands "
        "are quartiles.",
        facts={
            **shares,
            **state_facts({**result.options, "stage": stage, "span": what}),
        },
        sections=[
            Section(
                name="steps",
                title="Settling",
                plots=_settling_plots(list(rates), list(verdicts["verdict"]), result.options["growth"]),
                tables=[
                    Table(name="verdicts", title="Verdicts", frame=verdicts),
                    Table(name="steps", title="Read-outs", frame=steps, folded=True),
                ],
            )
        ],
        data={"rates": _stack(steps["step"], rates), "steps": rows_of(steps), "verdicts": rows_of(counted)},
    )


def _settling_plots(rates: list[str], verdicts: list[str], growth: bool) -> list[Plot]:
    """Make the plots about settling, of the names of the rates and verdicts that there are."""
    errors = interval_chart("rates", _steps(), "of", rates)
    return [
        Plot(name="rates", title="Does it stay right?", chart=errors),
        Plot(name="residual", title="Does it settle?", chart=_draw_residuals()),
        *([Plot(name="growth", title="Does it converge?", chart=_draw_growth())] if growth else []),
        Plot(name="verdicts", title="Verdicts on the examples", chart=_draw_verdicts(verdicts)),
    ]


def _steps() -> alt.X:
    """Make an axis of applications, which grow by factors and begin at 0."""
    axis = alt.Axis(values=[0, 1, 10, 100, 1000, 10_000], format="d")
    return alt.X("step:Q", title="further applications", scale=alt.Scale(type="symlog", nice=False), axis=axis)


def _stack(x: "pd.Series[Any]", columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Turn columns into rows of a line chart: the name of the column in ``of``, its number in ``value``."""
    return [row for name, values in columns.items() for row in rows_of(x.to_frame().assign(of=name, value=values))]


def _draw_residuals() -> Any:
    chart = alt.Chart(data("steps")).transform_filter("datum.residual > 0 && datum.residual_low > 0")
    words = "datum.value < 0.001 ? format(datum.value, '.0e') : format(datum.value, '~g')"
    axis = alt.Axis(title="relative residual", labelExpr=words, tickCount=5)
    y = alt.Y("residual:Q", scale=alt.Scale(type="log"), axis=axis)
    tips = tooltip(
        step="step:Q", residual="residual:Q|.3~e", lower_quartile="residual_low:Q|.3~e", upper="residual_high:Q|.3~e"
    )
    blue = alt.value("var(--c0)")
    band = chart.mark_area(opacity=0.16).encode(
        x=_steps(), y=alt.Y("residual_low:Q", scale=alt.Scale(type="log"), axis=axis), y2="residual_high:Q", color=blue
    )
    line = chart.mark_line(strokeWidth=2).encode(x=_steps(), y=y, color=blue)
    return finish(
        band + line + chart.mark_point(filled=True, size=44).encode(x=_steps(), y=y, color=blue, tooltip=tips)
    )


def _draw_growth() -> Any:
    chart = alt.Chart(data("steps")).transform_filter("isValid(datum.growth)")
    y = alt.Y("growth:Q", axis=rate_axis("false", "spectral radius"))
    one = chart.transform_aggregate(n="count()").mark_rule(strokeDash=[2, 3], color=QUIET).encode(y=alt.datum(1))
    line = chart.mark_line(strokeWidth=2).encode(x=_steps(), y=y, color=alt.value("var(--c0)"))
    dots = chart.mark_point(filled=True, size=44).encode(
        x=_steps(), y=y, color=alt.value("var(--c0)"), tooltip=tooltip(step="step:Q", growth="growth:Q|.4~g")
    )
    return finish(one + line + dots)


def _draw_verdicts(verdicts: list[str]) -> Any:
    colour = colour_by("at the end", ["right", "wrong"])["color"]
    tips = tooltip(verdict="verdict:N", at_the_end="at the end:N", examples="examples:Q")
    bars = alt.Chart(data("verdicts")).mark_bar()
    x = alt.X("examples:Q", axis=alt.Axis(format="d", tickCount=4))
    return finish(bars.encode(x=x, y=alt.Y("verdict:N", sort=verdicts, title=None), color=colour, tooltip=tips))


@page_of.register
def _(result: Depth, title: str) -> Page:
    curve, trained = result.curve, result.options["trained"]
    rates = {"error": curve["error"], "disagreement with the trained depth": 1 - curve["agreement"]}
    depths = pd.Series(range(1, trained + 1), name="depth")
    decided = {}
    for right, name in ((True, "right at the trained depth"), (False, "wrong")):
        own = result.examples[result.examples["right"] == right]["settling_depth"].to_numpy(dtype=float)
        if len(own):
            decided[f"{name} (n = {len(own)})"] = [float((own <= depth).mean()) for depth in depths]
    x = counting("depth", "executed blocks")
    plots = [
        Plot(name="curve", title="Error after each block", chart=interval_chart("rates", x, "of", list(rates))),
        Plot(
            name="decided", title="Examples that are decided", chart=interval_chart("decided", x, "of", list(decided))
        ),
    ]
    shown = curve.assign(stage=curve["stage"] + 1, block=curve["block"] + 1)
    worse = result.overthinking
    facts = {"best depth": str(result.best), "worse for good from": str(worse) if worse else "no depth on"}
    return Page(
        title=title,
        lead=f"The model was read out after each of its {trained} blocks, and after further evaluations of the last "
        "one. An example is decided at the depth from which on its prediction stays that of the ordinary pass. Stages "
        "and blocks count from 1.",
        facts={**facts, **state_facts(result.options)},
        sections=[
            Section(
                name="depth",
                title="Depth",
                plots=plots,
                tables=[Table(name="curve", title="Read-outs", frame=shown)],
            )
        ],
        data={"rates": _stack(curve["depth"], rates), "decided": _stack(depths, decided)},
    )


@page_of.register
def _(result: Exits, title: str) -> Page:
    frontier = result.frontier.assign(value=result.frontier["error"], of=result.frontier["rule"].replace(NAMES))
    rules = list(dict.fromkeys(frontier["of"]))
    x = alt.X("blocks:Q", title=f"mean blocks executed (all: {result.options['blocks']})", scale=alt.Scale(zero=False))
    chart = interval_chart("frontier", x, "of", rules, where="chosen_rule === '' || datum.of === chosen_rule")
    control = Control(name="rule", label="Rule", options={"": "all rules"} | {rule: rule for rule in rules})
    table = result.frontier.assign(rule=frontier["of"])
    return Page(
        title=title,
        lead="Each example stops as soon as a rule allows it. Thresholds were chosen on one half of the batches, and "
        "errors and blocks are those of the other half, with intervals from the bootstrap over its examples.",
        facts=state_facts({**result.options, "rules": ", ".join(rules)}),
        sections=[
            Section(
                name="frontier",
                title="Frontier",
                controls=[control],
                plots=[Plot(name="frontier", title="Error against mean blocks executed", chart=chart)],
                tables=[
                    Table(name="frontier", title="Thresholds", frame=table, keys=["rule"], shown=list(table.columns))
                ],
            )
        ],
        data={"frontier": rows_of(frontier)},
    )
