"""The catalog for people and for machines: true counts beside PaddleClas's published figures, never mixed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from builder.catalog import MODELS, WEIGHTS_LICENCE, WEIGHTS_ORIGIN


def listing_rows() -> list[dict[str, Any]]:
    """One dictionary a model. `learnable_params` and `macs` are true counts of the served main path; everything under
    `published` is quoted from PaddleClas and follows its counting rules.
    """
    return [
        {
            "name": spec.name,
            "slug": spec.slug,
            "input_size": spec.input_size,
            "resize_short": spec.resize_short,
            "classes": spec.classes,
            "learnable_params": spec.learnable_params,
            "macs": spec.macs,
            "published": asdict(spec.published),
            "weights": {"url": spec.weights_url, "origin": WEIGHTS_ORIGIN, "licence": WEIGHTS_LICENCE},
        }
        for spec in MODELS.values()
    ]


def listing_table() -> None:
    """Print the catalog as a table on standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title="PaddleClas's Inception series")
    for heading in ("model", "served as"):
        table.add_column(heading, no_wrap=True)
    for heading in (
        "input", "resize", "params\n(true)", "MACs\n(true)",
        "top-1\n(published)", "top-5\n(published)",
        "params/FLOPs\n(model_stat)", "params/FLOPs\n(paddle.flops)",
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    for spec in MODELS.values():
        published = spec.published
        table.add_row(
            spec.name,
            f"{spec.slug}_PRECISION",
            str(spec.input_size),
            str(spec.resize_short),
            f"{spec.learnable_params / 1e6:.2f} M",
            f"{spec.macs / 1e9:.2f} G",
            f"{published.top1:.3f}",
            f"{published.top5:.3f}",
            f"{published.params_m:.2f} M / {published.flops_g:.2f} G",
            f"{published.paddle_params_m:.2f} M / {published.paddle_flops_g:.2f} G",
        )
    console = Console()
    # Wider than a narrow window if need be: a wrapped line can be read, a name that was cut off cannot.
    console.width = max(console.width, console.measure(table, options=console.options.update(width=400)).maximum)
    console.print(table)
    console.print(
        "true: learnable parameters and multiply-accumulates of the served main path, counted on the network here.\n"
        "published: PaddleClas's documents. Its Inception page counts by the rule of model_stat, its model list by\n"
        "that of paddle.flops; both differ from the true counts (builder.counting reproduces them).\n"
        f"weights: {WEIGHTS_ORIGIN}; {WEIGHTS_LICENCE}; URLs with --json."
    )
