"""Makes deploy/grafana/jitney.json: `python -m jitney.tools.dev.dashboard` (Grafana's Foundation SDK).

Rows from the outside in: what clients see, what waits and how batches fill, the workers and the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import StackingMode
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef, VariableRefresh
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

TARGET = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "jitney.json"
SOURCE = DataSourceRef("prometheus", "${source}")
#: Chosen models, on every metric of jitney's own.
CHOSEN = '{model=~"$model"}'
WINDOW = "$__rate_interval"


def query(expression: str, legend: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expression).legend_format(legend).datasource(SOURCE)


def graph(title: str, about: str, unit: str, queries: Sequence[tuple[str, str]], *, stacked: bool = False) -> Any:
    """Lines over time; `queries` are expressions with their legends."""
    panel = timeseries.Panel().title(title).description(about).unit(unit).datasource(SOURCE).height(8).span(8).min(0)
    panel = panel.legend(common.VizLegendOptions().show_legend(True))
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(40)
    for expression, legend in queries:
        panel = panel.with_target(query(expression, legend))
    return panel


def number(title: str, unit: str, expression: str) -> Any:
    panel = stat.Panel().title(title).unit(unit).datasource(SOURCE).height(4).span(4)
    return panel.with_target(query(expression, ""))


def rate(metric: str, by: str, chosen: str = CHOSEN) -> str:
    return f"sum by ({by}) (rate({metric}{chosen}[{WINDOW}]))"


def quantile(share: float, histogram: str) -> str:
    return f"histogram_quantile({share}, sum by (le, model) (rate({histogram}_bucket{CHOSEN}[{WINDOW}])))"


def mean(histogram: str) -> str:
    return f"{rate(f'{histogram}_sum', 'model')} / {rate(f'{histogram}_count', 'model')}"


FAILED = '{model=~"$model", outcome!="success"}'


def numbers() -> list[Any]:
    """What is to be seen at a glance."""
    return [
        number("Requests a second", "reqps", f"sum(rate(jitney_requests_total{CHOSEN}[{WINDOW}]))"),
        number(
            "Failed", "percentunit",
            f"sum(rate(jitney_requests_total{FAILED}[{WINDOW}])) / sum(rate(jitney_requests_total{CHOSEN}[{WINDOW}]))",
        ),
        number("Requests that wait", "short", f"sum(jitney_queue_depth{CHOSEN})"),
        number("Rows that wait", "short", f"sum(jitney_queue_rows{CHOSEN})"),
        number("Versions that are not ready", "short", f"sum(1 - jitney_model_ready{CHOSEN})"),
        number(
            "Workers that are missing", "short",
            'sum(jitney_workers_wanted{model=~"$model"}) - sum(jitney_workers{model=~"$model", state=~"ready|busy"})',
        ),
    ]  # fmt: skip


def requests() -> list[Any]:
    return [
        graph(
            "Requests a second", "By how they ended; rejected: refused before a worker had them.", "reqps",
            [(rate("jitney_requests_total", "model, outcome"), "{{model}} {{outcome}}")],
        ),
        graph(
            "Time in the queue", "From a request's arrival until its batch left.", "s",
            [(quantile(0.5, "jitney_queue_seconds"), "{{model}} p50"), (quantile(0.99, "jitney_queue_seconds"), "{{model}} p99")],
        ),
        graph(
            "Time of a batch in its worker", "Of whole batches, however many requests they hold.", "s",
            [
                (quantile(0.5, "jitney_compute_seconds"), "{{model}} p50"),
                (quantile(0.99, "jitney_compute_seconds"), "{{model}} p99"),
            ],
        ),
    ]  # fmt: skip


def batches() -> list[Any]:
    rows = heatmap.Panel().title("Rows of batches").datasource(SOURCE).height(8).span(8).calculate(False)
    sizes = query(f"sum by (le) (increase(jitney_batch_size_rows_bucket{CHOSEN}[{WINDOW}]))", "{{le}}")
    sizes = sizes.format(PromQueryFormat.HEATMAP)
    return [
        graph(
            "What waits", "Requests and rows without a worker. An autoscaler may go by either.", "short",
            [
                (f"sum by (model) (jitney_queue_depth{CHOSEN})", "{{model}} requests"),
                (f"sum by (model) (jitney_queue_rows{CHOSEN})", "{{model}} rows"),
            ],
        ),
        graph("Rows of a batch, mean", "", "short", [(mean("jitney_batch_size_rows"), "{{model}}")]),
        graph(
            "Why batches left", "full, a preferred size, the delay, an idle worker, …", "ops",
            [(rate("jitney_batches_total", "model, reason"), "{{model}} {{reason}}")],
            stacked=True,
        ),
        rows.with_target(sizes),
    ]  # fmt: skip


def workers() -> list[Any]:
    return [
        graph(
            "Workers by state", "", "short",
            [(f"sum by (model, state) (jitney_workers{CHOSEN})", "{{model}} {{state}}")],
            stacked=True,
        ),
        graph("Workers replaced", "In five minutes.", "short", [
            (f"sum by (model) (increase(jitney_worker_restarts_total{CHOSEN}[5m]))", "{{model}}"),
        ]),
        graph("The server's processor", "Of its main process alone.", "percentunit", [
            (f"rate(process_cpu_seconds_total[{WINDOW}])", "{{instance}}"),
        ]),
        graph("The server's memory", "Of its main process alone.", "bytes", [
            ("process_resident_memory_bytes", "{{instance}}"),
        ]),
        graph("The machine's memory", "", "bytes", [("nv_cpu_memory_used_bytes", "{{instance}}")]),
    ]  # fmt: skip


def build() -> dashboard.Dashboard:
    made = (
        dashboard.Dashboard("jitney").uid("jitney").tags(["jitney", "inference"]).editable().refresh("10s")
        .time("now-30m", "now").timezone("browser").tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("source").label("Data source").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("model").label("Model").datasource(SOURCE).query("label_values(jitney_model_ready, model)")
            .multi(True).include_all(True).all_value(".*").refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        )
    )  # fmt: skip
    rows = (("", numbers()), ("Requests", requests()), ("Batches", batches()), ("Workers and machine", workers()))
    for title, panels in rows:
        if title:
            made = made.with_row(dashboard.Row(title))
        for panel in panels:
            made = made.with_panel(panel)
    return made


def text() -> str:
    return JSONEncoder(sort_keys=True, indent=2).encode(build().build()) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
