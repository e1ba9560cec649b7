"""A node on Triton's interpreter: the launches of a run, on the host's memory."""

from typing import NamedTuple

import numpy as np
import torch

from tests.native.reference import Array

COUNTS = ("lengths", "start_step", "rows")


class Tiles(NamedTuple):
    """Sizes of tiles: streams, hidden units, and what a product is summed up by."""

    streams: int = 16
    units: int = 16
    sums: int = 16


SMALLEST = Tiles()


def run(
    arrays: dict[str, Array],
    *,
    sequence: bool,
    tiles: Tiles = SMALLEST,
    precision: str = "ieee",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Array]:
    """Run a node; return its outputs.

    Args:
        arrays: Its inputs by name, in float32; those that are left empty are absent.
        sequence: Whether all timesteps are one launch.
        tiles: Of the launches.
        precision: Of products in float32.
        dtype: Of X, weights and Y.
    """
    from bnlstm_deploy.native.cuda import kernels

    given = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    x, weight_ih, weight_hh = (given[n].to(dtype) for n in ("X", "weight_ih", "weight_hh"))
    (T, N, D), H = x.shape, weight_hh.shape[1]
    K = len(given["bias"])
    S = len(given.get("rows", given["bias"]))
    y = torch.full((T, N, H), torch.nan, dtype=dtype)
    y_h, y_c = (torch.full((N, H), torch.nan) for _ in range(2))
    results = {"Y": y, "Y_h": y_h, "Y_c": y_c}
    if N * H == 0:
        return {name: tensor.float().numpy() for name, tensor in results.items()}
    nothing = torch.zeros(1)
    lengths, start_step, rows = (given.get(n, torch.zeros(1, dtype=torch.int64)) for n in COUNTS)
    strides = [-1 if n not in given else int(len(given[n]) > 1) for n in COUNTS[:2]]
    counts = [*strides, int("rows" in given)]
    over = (cdiv(N, tiles.streams), cdiv(H, tiles.units))
    h = torch.full((N, H), torch.nan, dtype=dtype)
    first = given["initial_h"], given["initial_c"]
    each = [int(len(state) > 1) for state in first]
    unit, feature = (4 if size % 4 == 0 else 1 for size in (H, D))
    quarter = H // unit
    part = torch.full((T, N, 4 * H), torch.nan)
    if T > 0:
        kernels.input_part[cdiv(T * N, tiles.streams), cdiv(4 * H, tiles.units)](
            x if D else nothing.to(dtype),
            weight_ih if D else nothing.to(dtype),
            given["bias"],
            given.get("input_scale", nothing),
            *(lengths, start_step, rows, part, T, N, D // feature, quarter),
            *(S, K, int("input_scale" in given), *counts),
            PRECISION=precision,
            UNIT=unit,
            FEATURE=feature,
            BM=tiles.streams,
            BG=tiles.units,
            BK=tiles.sums,
        )
    scales = [given.get(n, nothing) for n in ("hidden_scale", "cell_scale", "cell_shift")]
    arrays_of_step = [weight_hh, part, *scales, lengths, start_step, rows, y, y_h, y_c]
    normalized = [int("hidden_scale" in given), int("cell_scale" in given)]
    if sequence:
        units = max(16, 1 << (H - 1).bit_length())
        kernels.sequence[(over[0],)](
            *(*first, *arrays_of_step, T, N, quarter, S, K, *each, *normalized, *counts),
            PRECISION=precision,
            UNIT=unit,
            BN=tiles.streams,
            BH=units,
        )
        return {name: np.asarray(tensor.float()) for name, tensor in results.items()}
    strides = [H * one for one in each]
    kernels.begin[over](*first, h, y_h, y_c, N, H, *strides, BN=tiles.streams, BH=tiles.units)
    for t in range(T):
        kernels.step[over](
            y if t else h,
            *arrays_of_step,
            *(max(t - 1, 0), t, T, N, quarter, S, K, *normalized, *counts),
            PRECISION=precision,
            UNIT=unit,
            BN=tiles.streams,
            BH=tiles.units,
            BK=tiles.sums,
        )
    return {name: np.asarray(tensor.float()) for name, tensor in results.items()}


def cdiv(one: int, other: int) -> int:
    """Return the quotient, rounded up."""
    return -(-one // other)
