"""From measured files to what the figures draw: few enough numbers to stand in ``tables.json``.

What is drawn is thinned here, so that an audit can derive every drawn number again. Numbers keep
four significant digits, apart from sigma_d; the files behind them have them all.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lpsteps import paths
from lpsteps.artifacts import sha256_file
from lpsteps.errors import LpstepsError
from lpsteps.report.curves import evenly
from lpsteps.report.evidence import BuildSpec, Evidence
from lpsteps.report.figure_definitions import FigureDefinition
from lpsteps.statistics import IDENTITY, Array, Statistics
from lpsteps.token_scales import QUANTILES, Ratios, ScalesFile, bin_edges, read_token_scales

CHANNEL_BINS = 64
DRAWN_CHANNELS = 120
# The histogram has this many bins for each one of the violin.
BINS_PER_STEP = 5


@dataclass(frozen=True, eq=False)
class Magnitudes:
    """Calibration statistics as means over the windows.

    Attributes:
        channels: Mean magnitude of each channel, ``[n_layers + 1, hidden_size]``.
        cosines: Between boundaries, ``[n_layers + 1, n_layers + 1]``.
    """

    channels: Array
    cosines: Array

    @classmethod
    def read(cls, path: Path) -> Magnitudes:
        """Read the statistics of a calibration."""
        statistics = Statistics.read(path)
        return cls(statistics.means[IDENTITY].mean(axis=0), statistics.pairs.mean(axis=0))


def channel_magnitudes(found: Magnitudes, start: int, end: int) -> dict[str, Any]:
    """Return the magnitudes of the channels at every boundary and at the ends of a cut.

    Args:
        found: The statistics.
        start: First removed layer.
        end: Layer after the last one.

    Returns:
        ``bins``, the first channel and the one behind the last of each bin; ``heat``, the largest
        magnitude in each bin, by boundary; ``ends`` with some channels, evenly spaced in the order
        of their magnitude in front of the cut, and their magnitudes ``before`` and ``behind``;
        ``ratios`` behind over in front, at 5, 50 and 95 % of all channels.
    """
    channels = found.channels.shape[1]
    edges = np.linspace(0, channels, min(CHANNEL_BINS, channels) + 1).round().astype(int)
    heat = np.maximum.reduceat(found.channels, edges[:-1], axis=1)
    before, behind = found.channels[start], found.channels[end]
    order = np.argsort(-before, kind="stable")
    drawn = order[evenly(channels, DRAWN_CHANNELS)]
    ratios = behind[before > 0] / before[before > 0]
    return {
        "bins": [[int(first), int(last)] for first, last in pairwise(edges)],
        "heat": [[_rounded(value) for value in row] for row in heat],
        "ends": {
            "channels": [int(channel) for channel in drawn],
            "before": [_rounded(value) for value in before[drawn]],
            "behind": [_rounded(value) for value in behind[drawn]],
        },
        "ratios": [_rounded(value) for value in np.quantile(ratios, [0.05, 0.5, 0.95])],
    }


def layer_magnitudes(found: Magnitudes) -> dict[str, Any]:
    """Return the mean over channels of their magnitudes behind each layer, and the largest one."""
    outputs = found.channels[1:]
    return {
        "mean": [_rounded(value) for value in outputs.mean(axis=1)],
        "largest": [_rounded(value) for value in outputs.max(axis=1)],
        "channel": [int(channel) for channel in outputs.argmax(axis=1)],
    }


def cosine_map(found: Magnitudes) -> dict[str, Any]:
    """Return ``cosines``: for each first layer, those across 1, 2, ... layers, to five decimals."""
    n_layers = len(found.cosines) - 1
    return {
        "cosines": [
            [round(float(found.cosines[start, end]), 5) for end in range(start + 1, n_layers + 1)]
            for start in range(n_layers)
        ]
    }


def token_scales(found: ScalesFile) -> dict[str, Any]:
    """Return what is drawn of each basis: its distribution in steps of a tenth of a decade."""
    return {
        "epsilon": found.epsilon,
        "windows": found.windows,
        "tokens": found.tokens,
        "quantiles_at": list(QUANTILES),
        "bases": {
            basis: {
                **_distribution(scales.all),
                "others": {
                    "count": scales.others.count,
                    "mean": _rounded(scales.others.mean),
                    "sigma": scales.others.sigma,
                },
            }
            for basis, scales in sorted(found.bases.items())
        },
    }


def _distribution(ratios: Ratios) -> dict[str, Any]:
    inside = ratios.histogram[1:-1].reshape(-1, BINS_PER_STEP).sum(axis=1)
    edges = bin_edges()[::BINS_PER_STEP]
    filled = np.flatnonzero(inside)
    first, last = (int(filled[0]), int(filled[-1]) + 1) if filled.size else (0, 1)
    return {
        "count": ratios.count,
        "mean": _rounded(ratios.mean),
        "sigma": ratios.sigma,
        "largest": _rounded(ratios.largest),
        "quantiles": [_rounded(ratios.quantile(probability)) for probability in QUANTILES],
        "below": int(ratios.histogram[0]),
        "above": int(ratios.histogram[-1]),
        "edges": [_rounded(edge) for edge in edges[first : last + 1]],
        "counts": [int(count) for count in inside[first:last]],
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def build_figures(
    spec: BuildSpec,
    definitions: Sequence[FigureDefinition],
    given: Collection[str],
    evidence: Evidence,
) -> list[dict[str, Any]]:
    """Return the figures with everything that is drawn.

    Args:
        spec: Settings of the step.
        definitions: The figures, in display order.
        given: Paths of all measured files.
        evidence: The measured inputs of the tables, whose plans say what is removed. What does not
            verify is not drawn, with the reason.

    Raises:
        LpstepsError: A measured file is damaged.
    """
    builder = _Builder(spec, given, evidence, {})
    return [
        {
            **definition.model_dump(mode="json", include={"id", "number", "title", "caption"}),
            "kind": definition.kind,
            "panels": [
                panel
                for model, counts in spec.figures.get(definition.id, {}).items()
                for panel in builder.panels(definition, model, counts)
            ],
        }
        for definition in definitions
    ]


class _MissingError(Exception):
    """Says why a panel cannot be drawn."""


@dataclass(frozen=True)
class _Builder:
    """Draws panels; statistics are read once for each model."""

    spec: BuildSpec
    given: Collection[str]
    evidence: Evidence
    read: dict[str, Magnitudes]

    def panels(
        self, definition: FigureDefinition, model: str, counts: Sequence[int]
    ) -> Iterator[dict[str, Any]]:
        """Yield one panel per number of removed layers, or one for the map of all windows."""
        for levels in [list(counts)] if definition.kind == "cosine_map" else [[n] for n in counts]:
            sources: list[str] = []
            panel: dict[str, Any] = {
                "model": model,
                "title": self.spec.models[model].title,
                "n_layers": self.spec.models[model].n_layers,
                "levels": levels,
                "windows": [],
                "data": None,
                "reason": None,
            }
            try:
                cuts = [self._cut(definition, model, n, sources) for n in levels]
                panel["windows"] = [list(cut) for cut in cuts]
                panel["data"] = self._data(definition, model, levels, cuts, sources)
            except _MissingError as missing:
                panel["reason"] = str(missing)
            panel["sources"] = [
                {"path": path, "sha256": sha256_file(Path(path))} for path in sources
            ]
            yield panel

    def _data(
        self,
        definition: FigureDefinition,
        model: str,
        levels: Sequence[int],
        cuts: Sequence[tuple[int, int]],
        sources: list[str],
    ) -> dict[str, Any]:
        match definition.kind:
            case "token_scales":
                folder = self._plan_folder(definition, model, levels[0])
                path = paths.token_scales(folder)
                found = read_token_scales(self._verified(path, sources))
                if (found.start, found.end) != cuts[0]:
                    raise LpstepsError(
                        f"{path}: layers [{found.start},{found.end}): the plan removes "
                        f"[{cuts[0][0]},{cuts[0][1]}); delete it to rebuild it"
                    )
                printed = {
                    value.basis: {"value": value.value, "where": value.where}
                    for value in definition.printed
                    if (value.model, value.n) == (model, levels[0])
                }
                return {**token_scales(found), "printed": printed}
            case "channel_magnitudes":
                return channel_magnitudes(self._magnitudes(model, sources), *cuts[0])
            case "layer_magnitudes":
                return layer_magnitudes(self._magnitudes(model, sources))
            case "cosine_map":
                return cosine_map(self._magnitudes(model, sources))

    def _cut(
        self, definition: FigureDefinition, model: str, n: int, sources: list[str]
    ) -> tuple[int, int]:
        """Return the first removed layer and the one behind the last."""
        path = paths.plan(self._plan_folder(definition, model, n))
        self._verified(path, sources)
        plan = self.evidence.plans[model, self.spec.calibration, definition.selection, n]
        if len(plan.content.gaps) != 1:
            raise _MissingError(
                f"{path}: removes {len(plan.content.gaps)} windows of layers; a figure draws one"
            )
        return plan.content.gaps[0]

    def _plan_folder(self, definition: FigureDefinition, model: str, n: int) -> str:
        key = (model, self.spec.calibration, definition.selection, n)
        reason = self.spec.selection_unsuited(definition.selection, model, n)
        if reason is not None:
            raise _MissingError(reason)
        if key not in self.evidence.plan_folders:
            raise LpstepsError(
                f"--spec: figures.{definition.id}.{model}: {n}: `plans` has none of "
                f"{definition.selection}"
            )
        return self.evidence.plan_folders[key]

    def _magnitudes(self, model: str, sources: list[str]) -> Magnitudes:
        path = paths.statistics(model, self.spec.calibration)
        verified = self._verified(path, sources)
        if path not in self.read:
            self.read[path] = Magnitudes.read(verified)
        return self.read[path]

    def _verified(self, path: str, sources: list[str]) -> Path:
        if path in self.evidence.problems:
            raise _MissingError(self.evidence.problems[path])
        if path not in self.given:
            raise _MissingError(f"{path}: was not given")
        sources.append(path)
        return Path(path)


def figure_csv(payload: Mapping[str, Any], figure: str) -> str:
    """Return every drawn number of a figure as CSV.

    Args:
        payload: Content of ``tables.json``.
        figure: Id of the figure.

    Returns:
        Rows of ``model``, ``n`` (removed layers; empty in a map of all windows), ``series`` and
        ``x``, what they mean in this figure, and ``value``.
    """
    found = next(entry for entry in payload["figures"] if entry["id"] == figure)
    rows = _ROWS[found["kind"]]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "n", "series", "x", "value"])
    for panel in found["panels"]:
        if panel["data"] is None:
            continue
        n = "" if found["kind"] == "cosine_map" else panel["levels"][0]
        writer.writerows([panel["model"], n, *row] for row in rows(panel["data"]))
    return text.getvalue()


_Row = tuple[str, float, float]


def _channel_rows(data: Mapping[str, Any]) -> Iterator[_Row]:
    for boundary, row in enumerate(data["heat"]):
        for (first, last), value in zip(data["bins"], row, strict=True):
            yield f"largest of channels {first} to {last - 1}, at boundary x", boundary, value
    for place in ("before", "behind"):
        for channel, value in zip(data["ends"]["channels"], data["ends"][place], strict=True):
            yield f"channel x, {place} the cut", channel, value


def _layer_rows(data: Mapping[str, Any]) -> Iterator[_Row]:
    for name in ("mean", "largest"):
        for layer, value in enumerate(data[name]):
            yield f"{name} channel magnitude behind layer x", layer, value


def _cosine_rows(data: Mapping[str, Any]) -> Iterator[_Row]:
    for start, row in enumerate(data["cosines"]):
        for n, value in enumerate(row, start=1):
            yield f"{n} layers from layer x", start, value


def _scale_rows(data: Mapping[str, Any]) -> Iterator[_Row]:
    for basis, found in data["bases"].items():
        for edge, count in zip(found["edges"][:-1], found["counts"], strict=True):
            yield f"ratios in the basis {basis} from x to the next x", edge, count


_ROWS = {
    "channel_magnitudes": _channel_rows,
    "layer_magnitudes": _layer_rows,
    "cosine_map": _cosine_rows,
    "token_scales": _scale_rows,
}
