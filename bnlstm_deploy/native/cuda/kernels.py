"""The operator `bnlstm::BNLSTM` in Triton's language: what a launch computes.

A run of a node is `begin`, `input_part`, and then T launches of `step` or one of `sequence`. All of
them take the arrays of docs/operator.md, row-major, as they are. An array that is left empty is a
null pointer, and a flag says so; a first axis of 1 has the stride 0.

Triton is needed to compile these (`compile.py`) and to test them, not to run them.
"""

import triton
import triton.language as tl


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _tanh(x):
    """Cephes' tanhf: an odd polynomial near 0, where the quotient would lose what is small."""
    z = x * x
    small = (((-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2) * z
             + 1.33314422036e-1) * z - 3.33332819422e-1
    small = small * z * x + x
    magnitude = 1.0 - 2.0 / (tl.exp(2.0 * tl.abs(x)) + 1.0)
    large = tl.where(x < 0, -magnitude, magnitude)
    return tl.where(tl.abs(x) < 0.625, small, large)


@triton.jit
def _length(lengths, stride, n, is_stream, T, LENGTHS: tl.constexpr):
    """The valid timesteps of streams, at most T."""
    if LENGTHS:
        given = tl.load(lengths + n * stride, mask=is_stream, other=0)
        return tl.minimum(given, T).to(tl.int32)
    else:
        return tl.where(is_stream, T, 0)


@triton.jit
def _row(start_step, stride, rows, n, is_stream, t, S, START: tl.constexpr, ROWS: tl.constexpr):
    """The rows of the statistics at timestep t of streams."""
    if START:
        start = tl.load(start_step + n * stride, mask=is_stream, other=0)
        step = tl.where(start < S - 1 - t, start + t, S - 1).to(tl.int32)  # a sum may overflow
    else:
        step = tl.minimum(n * 0 + t, S - 1)
    if ROWS:
        return tl.load(rows + step, mask=is_stream, other=0).to(tl.int32)
    else:
        return step


@triton.jit
def _scale(scale, at, mask, GIVEN: tl.constexpr):
    if GIVEN:
        return tl.load(scale + at, mask=mask, other=0.0)
    else:
        return 1.0


@triton.jit
def begin(
    initial_h, initial_c, h_stride, c_stride, h, y_h, y_c, N, H,
    BN: tl.constexpr, BH: tl.constexpr,
):
    """Put the initial state into y_h and y_c, and h as an operand, (N, H).

    Grid: tiles of BN streams by tiles of BH hidden units.
    """
    n = tl.program_id(0) * BN + tl.arange(0, BN)[:, None]
    j = tl.program_id(1) * BH + tl.arange(0, BH)[None, :]
    mask = (n < N) & (j < H)
    at = n.to(tl.int64) * H + j
    first_h = tl.load(initial_h + n.to(tl.int64) * h_stride + j, mask=mask)
    first_c = tl.load(initial_c + n.to(tl.int64) * c_stride + j, mask=mask)
    tl.store(y_h + at, first_h, mask=mask)
    tl.store(y_c + at, first_c, mask=mask)
    tl.store(h + at, first_h.to(h.dtype.element_ty), mask=mask)


@triton.jit
def input_part(
    x, weight_ih, bias, input_scale, lengths, lengths_stride, start_step, start_stride, rows, part,
    T, N, D, S, H,
    INPUT_SCALE: tl.constexpr, LENGTHS: tl.constexpr, START: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BG: tl.constexpr,
    BK: tl.constexpr,
):
    """Compute input_scale[k] * (weight_ih x) + bias[k] of all timesteps and streams, (T, N, 4H).

    Grid: tiles of BM timesteps of streams by tiles of BG gates. What is past a stream's length is
    not read, so that it may be NaN.
    """
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    gate = tl.program_id(1) * BG + tl.arange(0, BG)
    is_gate = gate < 4 * H
    t, n = m // N, m % N
    is_stream = m < T * N
    valid = is_stream & (t < _length(lengths, lengths_stride, n, is_stream, T, LENGTHS))
    product = tl.zeros((BM, BG), tl.float32)
    for k0 in range(0, D, BK):
        k = k0 + tl.arange(0, BK)
        is_k = k < D
        operand = tl.load(
            x + m[:, None].to(tl.int64) * D + k[None, :],
            mask=valid[:, None] & is_k[None, :], other=0.0,
        )
        weight = tl.load(
            weight_ih + gate[:, None].to(tl.int64) * D + k[None, :],
            mask=is_gate[:, None] & is_k[None, :], other=0.0,
        )
        product = tl.dot(operand, tl.trans(weight), product, input_precision=PRECISION)
    k = _row(start_step, start_stride, rows, n, is_stream, t, S, START, ROWS)
    mask = valid[:, None] & is_gate[None, :]
    at = k[:, None].to(tl.int64) * (4 * H) + gate[None, :]
    result = product * _scale(input_scale, at, mask, INPUT_SCALE)
    result += tl.load(bias + at, mask=mask, other=0.0)
    tl.store(part + m[:, None].to(tl.int64) * (4 * H) + gate[None, :], result, mask=mask)


@triton.jit
def _cell(
    i, f, g, o, c, at, mask, cell_scale, cell_shift, CELL: tl.constexpr,
):
    """The new cell and hidden state, from gates before their functions."""
    c = _sigmoid(f) * c + _sigmoid(i) * _tanh(g)
    if CELL:
        scale = tl.load(cell_scale + at, mask=mask, other=0.0)
        normalized = scale * c + tl.load(cell_shift + at, mask=mask, other=0.0)
    else:
        normalized = c
    return c, _sigmoid(o) * _tanh(normalized)


@triton.jit
def _keep(y, y_h, y_c, h, c, at, at_t, mask, valid):
    """Store what a timestep leaves: states of valid streams, and Y, which is 0 for the others."""
    tl.store(y_h + at, h, mask=mask & valid)
    tl.store(y_c + at, c, mask=mask & valid)
    tl.store(y + at_t, tl.where(valid, h, 0.0).to(y.dtype.element_ty), mask=mask)


@triton.jit
def step(
    h, weight_hh, part, hidden_scale, cell_scale, cell_shift, lengths, lengths_stride, start_step,
    start_stride, rows, y, y_h, y_c, t, T, N, S, H,
    HIDDEN_SCALE: tl.constexpr, CELL: tl.constexpr, LENGTHS: tl.constexpr,
    START: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr, BN: tl.constexpr,
    BH: tl.constexpr, BK: tl.constexpr,
):
    """Compute timestep t from h, the operand, (N, H): that of `begin`, or the row before of y.

    Grid: tiles of BN streams by tiles of BH hidden units.
    """
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    j = tl.program_id(1) * BH + tl.arange(0, BH)
    is_stream, is_unit = n < N, j < H
    i = tl.zeros((BN, BH), tl.float32)
    f = tl.zeros((BN, BH), tl.float32)
    g = tl.zeros((BN, BH), tl.float32)
    o = tl.zeros((BN, BH), tl.float32)
    for k0 in range(0, H, BK):
        k = k0 + tl.arange(0, BK)
        is_k = k < H
        operand = tl.load(
            h + n[:, None].to(tl.int64) * H + k[None, :],
            mask=is_stream[:, None] & is_k[None, :], other=0.0,
        )
        weight = weight_hh + j[:, None] * H + k[None, :]
        mask = is_unit[:, None] & is_k[None, :]
        i = tl.dot(operand, tl.trans(tl.load(weight, mask=mask, other=0.0)), i,
                   input_precision=PRECISION)
        f = tl.dot(operand, tl.trans(tl.load(weight + H * H, mask=mask, other=0.0)), f,
                   input_precision=PRECISION)
        g = tl.dot(operand, tl.trans(tl.load(weight + 2 * H * H, mask=mask, other=0.0)), g,
                   input_precision=PRECISION)
        o = tl.dot(operand, tl.trans(tl.load(weight + 3 * H * H, mask=mask, other=0.0)), o,
                   input_precision=PRECISION)
    row = _row(start_step, start_stride, rows, n, is_stream, t, S, START, ROWS)[:, None]
    valid = (t < _length(lengths, lengths_stride, n, is_stream, T, LENGTHS))[:, None]
    mask = is_stream[:, None] & is_unit[None, :]
    at = n[:, None].to(tl.int64) * H + j[None, :]
    gates = row.to(tl.int64) * (4 * H) + j[None, :]
    added = part + (t * N + n[:, None]).to(tl.int64) * (4 * H) + j[None, :]
    read = mask & valid
    i = i * _scale(hidden_scale, gates, read, HIDDEN_SCALE) + tl.load(added, mask=read, other=0.0)
    f = f * _scale(hidden_scale, gates + H, read, HIDDEN_SCALE) + tl.load(
        added + H, mask=read, other=0.0)
    g = g * _scale(hidden_scale, gates + 2 * H, read, HIDDEN_SCALE) + tl.load(
        added + 2 * H, mask=read, other=0.0)
    o = o * _scale(hidden_scale, gates + 3 * H, read, HIDDEN_SCALE) + tl.load(
        added + 3 * H, mask=read, other=0.0)
    c = tl.load(y_c + at, mask=read, other=0.0)
    c, new_h = _cell(
        i, f, g, o, c, row.to(tl.int64) * H + j[None, :], read, cell_scale, cell_shift, CELL)
    at_t = (t * N + n[:, None]).to(tl.int64) * H + j[None, :]
    _keep(y, y_h, y_c, new_h, c, at, at_t, mask, valid)


@triton.jit
def sequence(
    weight_hh, part, hidden_scale, cell_scale, cell_shift, lengths, lengths_stride, start_step,
    start_stride, rows, y, y_h, y_c, T, N, S, H,
    HIDDEN_SCALE: tl.constexpr, CELL: tl.constexpr, LENGTHS: tl.constexpr,
    START: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr, BN: tl.constexpr,
    BH: tl.constexpr,
):
    """Compute all timesteps from the states in y_h and y_c.

    Grid: tiles of BN streams. A block has all hidden units, BH >= H, and the recurrent weights, so
    that h stays inside of it.
    """
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    j = tl.arange(0, BH)
    is_stream, is_unit = n < N, j < H
    mask = is_stream[:, None] & is_unit[None, :]
    at = n[:, None].to(tl.int64) * H + j[None, :]
    square = is_unit[:, None] & is_unit[None, :]
    weight = weight_hh + j[:, None] * H + j[None, :]
    weight_i = tl.trans(tl.load(weight, mask=square, other=0.0))
    weight_f = tl.trans(tl.load(weight + H * H, mask=square, other=0.0))
    weight_g = tl.trans(tl.load(weight + 2 * H * H, mask=square, other=0.0))
    weight_o = tl.trans(tl.load(weight + 3 * H * H, mask=square, other=0.0))
    h = tl.load(y_h + at, mask=mask, other=0.0)
    c = tl.load(y_c + at, mask=mask, other=0.0)
    length = _length(lengths, lengths_stride, n, is_stream, T, LENGTHS)[:, None]
    for t in range(T):
        operand = h.to(weight_hh.dtype.element_ty)
        row = _row(start_step, start_stride, rows, n, is_stream, t, S, START, ROWS)[:, None]
        valid = t < length
        read = mask & valid
        gates = row.to(tl.int64) * (4 * H) + j[None, :]
        added = part + (t * N + n[:, None]).to(tl.int64) * (4 * H) + j[None, :]
        i = tl.dot(operand, weight_i, input_precision=PRECISION)
        i = i * _scale(hidden_scale, gates, read, HIDDEN_SCALE) + tl.load(
            added, mask=read, other=0.0)
        f = tl.dot(operand, weight_f, input_precision=PRECISION)
        f = f * _scale(hidden_scale, gates + H, read, HIDDEN_SCALE) + tl.load(
            added + H, mask=read, other=0.0)
        g = tl.dot(operand, weight_g, input_precision=PRECISION)
        g = g * _scale(hidden_scale, gates + 2 * H, read, HIDDEN_SCALE) + tl.load(
            added + 2 * H, mask=read, other=0.0)
        o = tl.dot(operand, weight_o, input_precision=PRECISION)
        o = o * _scale(hidden_scale, gates + 3 * H, read, HIDDEN_SCALE) + tl.load(
            added + 3 * H, mask=read, other=0.0)
        new_c, new_h = _cell(
            i, f, g, o, c, row.to(tl.int64) * H + j[None, :], read, cell_scale, cell_shift, CELL)
        h, c = tl.where(valid, new_h, h), tl.where(valid, new_c, c)
        at_t = (t * N + n[:, None]).to(tl.int64) * H + j[None, :]
        tl.store(y + at_t, tl.where(valid, new_h, 0.0).to(y.dtype.element_ty), mask=mask)
    tl.store(y_h + at, h, mask=mask)
    tl.store(y_c + at, c, mask=mask)
