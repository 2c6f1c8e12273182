"""Calibration statistics: what one pass over the calibration windows leaves behind.

Boundary `l` is the residual stream that enters decoder layer `l`; boundary `n_layers` is the output
of the last layer, before the final norm. For each sample (window) the file holds

- `mean_absolute`: the mean over tokens of `|x|` per channel, at every boundary, in the model's own
  basis ("identity") and in a rotated one (for example "hadamard");
- for every pair of boundaries three cosines between the two streams: `cosine`, over the channels of
  each token, the mean over tokens; `last_token_cosine`, over the channels of the last token alone;
  `token_axis_cosine`, over the tokens of each channel, the mean over channels.

Block Influence, window cosines, angular distances and LinearPatch scales of every gap follow from
these alone.

The Parquet file is in long form, one row group per sample; its schema is `schema()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lpsteps.artifacts import flush_to_disk, parquet_options, read_parquet
from lpsteps.errors import LpstepsError, nearest

Array = npt.NDArray[np.float64]

IDENTITY = "identity"
_MEAN_ABSOLUTE = "mean_absolute"
_COSINES = ("cosine", "last_token_cosine", "token_axis_cosine")
_METADATA_KEYS = ("n_layers", "hidden_size", "basis", "model")
_COLUMNS = {"sample", "statistic", "basis", "boundary", "other", "tokens", "values"}


@dataclass(frozen=True, eq=False)
class SampleStatistics:
    """The statistics of one calibration window.

    Attributes:
        tokens: Tokens that entered the means.
        mean_absolute: Basis to float64 `[n_layers + 1, hidden_size]`.
        cosine: Float64 `[n_layers + 1, n_layers + 1]`, symmetric; like the other two cosines.
        last_token_cosine: None where it was not measured.
        token_axis_cosine: None where it was not measured.
    """

    tokens: int
    mean_absolute: Mapping[str, Array]
    cosine: Array
    last_token_cosine: Array | None = None
    token_axis_cosine: Array | None = None


def schema(*, n_layers: int, hidden_size: int, basis_name: str, model: str) -> Any:
    """Return the Arrow schema of the statistics file.

    `sample` counts the windows from 0 and `tokens` says how many of a window's tokens entered. A
    row of the `statistic` "mean_absolute" has its `basis`, its `boundary` and a value per channel.
    A row of one of the cosines has an empty `basis`, the two boundaries `boundary < other` and one
    value.

    Args:
        n_layers: Decoder layers of the model.
        hidden_size: Channels of the residual stream.
        basis_name: Construction of the rotated basis, `lpsteps.hadamard.Basis.name`.
        model: Name of the model.
    """
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("sample", pa.int32(), nullable=False),
            pa.field("statistic", pa.string(), nullable=False),
            pa.field("basis", pa.string(), nullable=False),
            pa.field("boundary", pa.int16(), nullable=False),
            pa.field("other", pa.int16()),
            pa.field("tokens", pa.int32(), nullable=False),
            pa.field("values", pa.list_(pa.float64()), nullable=False),
        ],
        metadata={
            "n_layers": str(n_layers),
            "hidden_size": str(hidden_size),
            "basis": basis_name,
            "model": model,
        },
    )


class StatisticsWriter:
    """Writes samples one by one, so that memory does not grow with their number.

    Use it as a context manager; the file is complete, and flushed to disk, when the block ends.
    """

    def __init__(
        self, path: Path, *, n_layers: int, hidden_size: int, basis_name: str, model: str
    ) -> None:
        """Open the file; the arguments are those of `schema`."""
        import pyarrow.parquet as pq

        self._path = path
        self._schema = schema(
            n_layers=n_layers, hidden_size=hidden_size, basis_name=basis_name, model=model
        )
        self._writer = pq.ParquetWriter(path, self._schema, **parquet_options())
        self._samples = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
        if kind is None:
            flush_to_disk(self._path)

    def append(self, sample: SampleStatistics) -> None:
        """Write the next sample as one row group."""
        import pyarrow as pa

        boundaries = len(sample.cosine)
        first, second = np.triu_indices(boundaries, k=1)
        bases = list(sample.mean_absolute)
        means = np.concatenate([sample.mean_absolute[basis] for basis in bases])
        cosines = {
            name: matrix[first, second]
            for name in _COSINES
            if (matrix := getattr(sample, name)) is not None
        }
        pairs = len(cosines) * len(first)
        rows = len(means) + pairs
        statistics = np.repeat(
            [_MEAN_ABSOLUTE, *cosines], [len(means), *[len(first)] * len(cosines)]
        )
        lengths = np.repeat([means.shape[1], 1], [len(means), pairs])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        boundary = [*[np.arange(boundaries)] * len(bases), *[first] * len(cosines)]
        table = pa.table(
            [
                pa.array(np.full(rows, self._samples, dtype=np.int32)),
                pa.array(statistics),
                pa.array(np.repeat([*bases, ""], [*[boundaries] * len(bases), pairs])),
                pa.array(np.concatenate(boundary), pa.int16()),
                pa.array([None] * len(means) + second.tolist() * len(cosines), pa.int16()),
                pa.array(np.full(rows, sample.tokens, dtype=np.int32)),
                pa.ListArray.from_arrays(
                    pa.array(offsets),
                    pa.array(np.concatenate([means.ravel(), *cosines.values()])),
                ),
            ],
            schema=self._schema,
        )
        self._writer.write_table(table, row_group_size=rows)
        self._samples += 1


@dataclass(frozen=True, eq=False)
class Statistics:
    """The statistics of all calibration samples, in memory.

    Attributes:
        basis_name: Construction of the rotated basis.
        model: Name of the model.
        tokens: Tokens of each sample, `[samples]`.
        means: Basis to float64 `[samples, n_layers + 1, hidden_size]`.
        pairs: Cosines between boundaries, float64 `[samples, n_layers + 1, n_layers + 1]`.
        last_token_pairs: The same of the last token alone; None where they were not measured.
        token_axis_pairs: The same along the tokens; None where they were not measured.
    """

    basis_name: str
    model: str
    tokens: npt.NDArray[np.int32]
    means: Mapping[str, Array]
    pairs: Array
    last_token_pairs: Array | None = None
    token_axis_pairs: Array | None = None

    @property
    def n_layers(self) -> int:
        """Decoder layers of the model."""
        return int(self.pairs.shape[1]) - 1

    @property
    def hidden_size(self) -> int:
        """Channels of the residual stream."""
        return int(next(iter(self.means.values())).shape[2])

    @classmethod
    def read(cls, path: Path) -> Statistics:
        """Read a statistics file.

        Raises:
            LpstepsError: It is missing, is not a statistics file, or lacks a value.
        """
        table = read_parquet(path)
        metadata = {
            key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()
        }
        lacking = [key for key in _METADATA_KEYS if key not in metadata]
        lacking += sorted(_COLUMNS - set(table.column_names))
        if lacking:
            raise LpstepsError(
                f"{path}: not a statistics file: lacks {lacking[0]}; delete it to rebuild it"
            )
        boundaries = int(metadata["n_layers"]) + 1
        hidden_size = int(metadata["hidden_size"])
        sample = table["sample"].to_numpy()
        samples = int(sample.max()) + 1 if len(sample) else 0
        basis = np.asarray(table["basis"].to_pylist(), dtype=object)
        boundary = table["boundary"].to_numpy()
        tokens = np.zeros(samples, dtype=np.int32)
        tokens[sample] = table["tokens"].to_numpy()

        def values(rows: npt.NDArray[np.bool_], width: int) -> Array:
            flat = table["values"].filter(rows).combine_chunks().flatten().to_numpy()
            if flat.size != np.count_nonzero(rows) * width:
                raise LpstepsError(
                    f"{path}: a row does not hold {width} values; delete it to rebuild it"
                )
            return np.asarray(flat, dtype=np.float64).reshape(-1, width)

        means: dict[str, Array] = {}
        for name in sorted(set(basis) - {""}):
            rows = basis == name
            means[name] = np.full((samples, boundaries, hidden_size), np.nan)
            means[name][sample[rows], boundary[rows]] = values(rows, hidden_size)
        statistic = np.asarray(table["statistic"].to_pylist(), dtype=object)
        other = table["other"].to_numpy()
        pairs: dict[str, Array] = {}
        for name in _COSINES:
            rows = statistic == name
            if name != "cosine" and not rows.any():
                continue
            i, j = boundary[rows], other[rows].astype(np.int64)
            matrices = np.full((samples, boundaries, boundaries), np.nan)
            matrices[:, range(boundaries), range(boundaries)] = 1.0
            matrices[sample[rows], i, j] = matrices[sample[rows], j, i] = values(rows, 1)[:, 0]
            pairs[name] = matrices
        arrays = [*means.values(), *pairs.values()]
        if not means or any(not np.isfinite(array).all() for array in arrays):
            raise LpstepsError(f"{path}: incomplete; delete it to rebuild it")
        return cls(
            metadata["basis"],
            metadata["model"],
            tokens,
            means,
            pairs["cosine"],
            pairs.get("last_token_cosine"),
            pairs.get("token_axis_cosine"),
        )

    def mean_absolute(self, boundary: int, basis: str) -> Array:
        """Return the mean absolute activation per channel, float64 `[samples, hidden_size]`.

        Raises:
            LpstepsError: The file does not hold this basis.
        """
        if basis not in self.means:
            raise LpstepsError(f"basis: {basis}: {nearest(basis, self.means)}")
        return self.means[basis][:, boundary]

    def cosines(self, n: int) -> Array:
        """Return the cosine over channels, a mean over tokens, across every window of `n` layers.

        Returns:
            Float64 `[samples, n_layers - n + 1]`; column `s` compares boundaries `s` and `s + n`.
        """
        return np.diagonal(self.pairs, offset=n, axis1=1, axis2=2)

    def last_token_cosines(self, n: int) -> Array:
        """Return the cosine over channels of the last token across every window of `n` layers.

        Returns:
            Float64 `[samples, n_layers - n + 1]`, as `cosines` does.

        Raises:
            LpstepsError: The file does not hold it.
        """
        return _across(n, self.last_token_pairs, "last_token_cosine")

    def token_axis_cosines(self, n: int) -> Array:
        """Return the cosine over tokens, a mean over channels, across every window of `n` layers.

        Returns:
            Float64 `[samples, n_layers - n + 1]`, as `cosines` does.

        Raises:
            LpstepsError: The file does not hold it.
        """
        return _across(n, self.token_axis_pairs, "token_axis_cosine")


def _across(n: int, pairs: Array | None, name: str) -> Array:
    if pairs is None:
        raise LpstepsError(f"--stats: {name}: not in these statistics; delete them to rebuild them")
    return np.diagonal(pairs, offset=n, axis1=1, axis2=2)
