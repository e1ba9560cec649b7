"""The operator `bnlstm::BNLSTM` in Triton's language: what a launch computes.

A run of a node is `input_part`, and then `begin` and T launches of `step`, or one of `sequence`.
All of them take the arrays of docs/operator.md, row-major, as they are. What is left empty is never
read: a negative stride says so of `lengths` and `start_step`, and a 0 of the others. The stride of
a first axis of 1 is 0, and that of N is 1, where it is no number of elements.

Whoever launches cannot look at `lengths`, `start_step` and `rows` without a wait for the device. A
stream with a value that the contract does not allow becomes NaN, and reads nothing out of bounds.

H is UNIT * quarter: where UNIT is 4 all rows of arrays are aligned, as their pointers are, and four
numbers are one load. D is FEATURE * features likewise.

Triton is needed to compile these (`tools/cuda_kernels.py`) and to test them, not to run them.
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
    small = (
        ((-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2) * z + 1.33314422036e-1
    ) * z - 3.33332819422e-1
    small = small * z * x + x
    magnitude = 1.0 - 2.0 / (tl.exp(2.0 * tl.abs(x)) + 1.0)
    large = tl.where(x < 0, -magnitude, magnitude)
    return tl.where(tl.abs(x) < 0.625, small, large)


@triton.jit
def _given(mask, number):
    """The mask where something is given, which a number above 0 says; else nothing."""
    return mask & (tl.zeros(mask.shape, tl.int32) < number)


@triton.jit
def _length(lengths, stride, n, is_stream, T):
    """The timesteps of streams that are computed; without `lengths` the stride is negative.

    All are of a stream whose length is negative: its row is none, and so it becomes NaN.
    """
    given = tl.load(lengths + n * stride, mask=_given(is_stream, stride + 1), other=T)
    return tl.where(is_stream, tl.where(given < 0, T, tl.minimum(given, T)), 0).to(tl.int32)


@triton.jit
def _row(lengths, lengths_stride, start_step, start_stride, rows, by_rows, n, is_stream, t, S, K):
    """The rows of the statistics at timestep t of streams, -1 where there is none."""
    length = tl.load(
        lengths + n * lengths_stride, mask=_given(is_stream, lengths_stride + 1), other=0
    )
    start = tl.load(
        start_step + n * start_stride, mask=_given(is_stream, start_stride + 1), other=0
    )
    right = is_stream & (start >= 0) & (length >= 0)
    step = tl.where(start < S - 1 - t, start + t, S - 1).to(tl.int32)  # a sum may overflow
    row = tl.load(rows + step, mask=_given(right, by_rows), other=-1)
    row = tl.where(_given(right, by_rows), row, step)
    return tl.where(right & (row >= 0) & (row < K), row, -1).to(tl.int32)


@triton.jit
def begin(
    initial_h,
    initial_c,
    h,
    y_h,
    y_c,
    N,
    H,
    h_stride,
    c_stride,
    BN: tl.constexpr,
    BH: tl.constexpr,
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
    x,
    weight_ih,
    bias,
    input_scale,
    lengths,
    start_step,
    rows,
    part,
    T,
    N,
    features,
    quarter,
    S,
    K,
    scaled,
    lengths_stride,
    start_stride,
    by_rows,
    PRECISION: tl.constexpr,
    UNIT: tl.constexpr,
    FEATURE: tl.constexpr,
    BM: tl.constexpr,
    BG: tl.constexpr,
    BK: tl.constexpr,
):
    """Compute input_scale[k] * (weight_ih x) + bias[k] of all timesteps and streams, (T, N, 4H).

    Grid: tiles of BM timesteps of streams by tiles of BG gates. What is past a stream's length is
    not read, so that it may be NaN.
    """
    H, D = UNIT * quarter, FEATURE * features
    m = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    gate = tl.program_id(1) * BG + tl.arange(0, BG)
    is_gate = gate < 4 * H
    t, n = (m // N).to(tl.int32), (m % N).to(tl.int32)
    is_stream = t < T
    valid = is_stream & (t < _length(lengths, lengths_stride, n, is_stream, T))
    product = tl.zeros((BM, BG), tl.float32)
    for k0 in range(0, D, BK):
        k = k0 + tl.arange(0, BK)
        is_k = (k < D)[None, :]
        at = m[:, None] * D + k[None, :]
        operand = tl.load(x + at, mask=valid[:, None] & is_k, other=0.0)
        at = gate[:, None].to(tl.int64) * D + k[None, :]
        weight = tl.load(weight_ih + at, mask=is_gate[:, None] & is_k, other=0.0)
        product = tl.dot(operand, tl.trans(weight), product, input_precision=PRECISION)
    row = _row(
        *(lengths, lengths_stride, start_step, start_stride, rows, by_rows, n, is_stream, t, S, K)
    )[:, None]
    mask = valid[:, None] & is_gate[None, :]
    read = mask & (row >= 0)
    at = row.to(tl.int64) * (4 * H) + gate[None, :]
    factor = tl.load(input_scale + at, mask=_given(read, scaled), other=1.0)
    shift = tl.load(bias + at, mask=read, other=float("nan"))
    tl.store(part + m[:, None] * (4 * H) + gate[None, :], product * factor + shift, mask=mask)


@triton.jit
def _gate(product, scale, scaled, part, at, at_part, read, mask):
    """A gate before its function: the hidden product scaled, and the input's part."""
    factor = tl.load(scale + at, mask=_given(read, scaled), other=1.0)
    return product * factor + tl.load(part + at_part, mask=mask, other=0.0)


@triton.jit
def _cell(
    i,
    f,
    g,
    o,
    c,
    hidden_scale,
    scaled,
    part,
    cell_scale,
    cell_shift,
    normalized,
    H,
    row,
    j,
    of_part,
    mask,
):
    """The new cell and hidden state, from the hidden products and the cell."""
    read = mask & (row >= 0)
    at = row * (4 * H) + j
    i = _gate(i, hidden_scale, scaled, part, at, of_part, read, mask)
    f = _gate(f, hidden_scale, scaled, part, at + H, of_part + H, read, mask)
    g = _gate(g, hidden_scale, scaled, part, at + 2 * H, of_part + 2 * H, read, mask)
    o = _gate(o, hidden_scale, scaled, part, at + 3 * H, of_part + 3 * H, read, mask)
    c = _sigmoid(f) * c + _sigmoid(i) * _tanh(g)
    at = row * H + j
    scale = tl.load(cell_scale + at, mask=_given(read, normalized), other=1.0)
    shift = tl.load(cell_shift + at, mask=_given(read, normalized), other=0.0)
    return c, _sigmoid(o) * _tanh(scale * c + shift)


@triton.jit
def _product(operand, weight, mask, total, PRECISION: tl.constexpr):
    """The operand times the transposed tile of a weight, added to a total."""
    tile = tl.trans(tl.load(weight, mask=mask, other=0.0))
    return tl.dot(operand, tile, total, input_precision=PRECISION)


@triton.jit
def step(
    h,
    weight_hh,
    part,
    hidden_scale,
    cell_scale,
    cell_shift,
    lengths,
    start_step,
    rows,
    y,
    y_h,
    y_c,
    h_row,
    t,
    T,
    N,
    quarter,
    S,
    K,
    scaled,
    normalized,
    lengths_stride,
    start_stride,
    by_rows,
    PRECISION: tl.constexpr,
    UNIT: tl.constexpr,
    BN: tl.constexpr,
    BH: tl.constexpr,
    BK: tl.constexpr,
):
    """Compute timestep t from h[h_row], the operand: that of `begin`, or the row before of y.

    y_h and y_c hold the states: they are read and written in place, each value by one block.

    Grid: tiles of BN streams by tiles of BH hidden units.
    """
    H = UNIT * quarter
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    j = tl.program_id(1) * BH + tl.arange(0, BH)
    is_stream, is_unit = n < N, j < H
    i = tl.zeros((BN, BH), tl.float32)
    f = tl.zeros((BN, BH), tl.float32)
    g = tl.zeros((BN, BH), tl.float32)
    o = tl.zeros((BN, BH), tl.float32)
    gate = H.to(tl.int64) * H
    of_h = (h_row.to(tl.int64) * N + n[:, None]) * H
    for k0 in range(0, H, BK):
        k = k0 + tl.arange(0, BK)
        is_k = (k < H)[None, :]
        operand = tl.load(h + of_h + k[None, :], mask=is_stream[:, None] & is_k, other=0.0)
        weight = weight_hh + j[:, None].to(tl.int64) * H + k[None, :]
        of_weight = is_unit[:, None] & is_k
        i = _product(operand, weight, of_weight, i, PRECISION)
        f = _product(operand, weight + gate, of_weight, f, PRECISION)
        g = _product(operand, weight + 2 * gate, of_weight, g, PRECISION)
        o = _product(operand, weight + 3 * gate, of_weight, o, PRECISION)
    row = _row(
        *(lengths, lengths_stride, start_step, start_stride, rows, by_rows, n, is_stream, t, S, K)
    )[:, None].to(tl.int64)
    valid = (t < _length(lengths, lengths_stride, n, is_stream, T))[:, None]
    mask = is_stream[:, None] & is_unit[None, :]
    of_t = t.to(tl.int64) * N + n[:, None]
    of_state = n[:, None].to(tl.int64) * H + j[None, :]
    c = tl.load(y_c + of_state, mask=mask & valid, other=0.0)
    c, new_h = _cell(
        *(i, f, g, o, c, hidden_scale, scaled, part, cell_scale, cell_shift, normalized),
        *(H, row, j[None, :], of_t * (4 * H) + j[None, :], mask & valid),
    )
    tl.store(y_h + of_state, new_h, mask=mask & valid)
    tl.store(y_c + of_state, c, mask=mask & valid)
    of_y = of_t * H + j[None, :]
    tl.store(y + of_y, tl.where(valid, new_h, 0.0).to(y.dtype.element_ty), mask=mask)


@triton.jit
def sequence(
    initial_h,
    initial_c,
    weight_hh,
    part,
    hidden_scale,
    cell_scale,
    cell_shift,
    lengths,
    start_step,
    rows,
    y,
    y_h,
    y_c,
    T,
    N,
    quarter,
    S,
    K,
    h_stride,
    c_stride,
    scaled,
    normalized,
    lengths_stride,
    start_stride,
    by_rows,
    PRECISION: tl.constexpr,
    UNIT: tl.constexpr,
    BN: tl.constexpr,
    BH: tl.constexpr,
):
    """Compute all timesteps.

    Grid: tiles of BN streams. A block has all hidden units, BH >= H, and the recurrent weights, so
    that h stays inside of it. Places in the statistics, (K, 4H), and in a timestep of `part`,
    (N, 4H), are numbers of 32 bits.
    """
    H = UNIT * quarter
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    j = tl.arange(0, BH)
    is_stream, is_unit = n < N, j < H
    mask = is_stream[:, None] & is_unit[None, :]
    square = is_unit[:, None] & is_unit[None, :]
    weight = weight_hh + j[:, None] * H + j[None, :]
    weight_i = tl.trans(tl.load(weight, mask=square, other=0.0))
    weight_f = tl.trans(tl.load(weight + H * H, mask=square, other=0.0))
    weight_g = tl.trans(tl.load(weight + 2 * H * H, mask=square, other=0.0))
    weight_o = tl.trans(tl.load(weight + 3 * H * H, mask=square, other=0.0))
    h = tl.load(initial_h + n[:, None] * (H * h_stride) + j[None, :], mask=mask, other=0.0)
    c = tl.load(initial_c + n[:, None] * (H * c_stride) + j[None, :], mask=mask, other=0.0)
    of_state = n[:, None] * H + j[None, :]
    of_part = n[:, None] * (4 * H) + j[None, :]
    length = _length(lengths, lengths_stride, n, is_stream, T)[:, None]
    for t in range(T):
        valid = t < length
        operand = h.to(weight_hh.dtype.element_ty)
        i = tl.dot(operand, weight_i, input_precision=PRECISION)
        f = tl.dot(operand, weight_f, input_precision=PRECISION)
        g = tl.dot(operand, weight_g, input_precision=PRECISION)
        o = tl.dot(operand, weight_o, input_precision=PRECISION)
        row = _row(
            *(lengths, lengths_stride, start_step, start_stride, rows, by_rows),
            *(n, is_stream, t, S, K),
        )[:, None]
        new_c, new_h = _cell(
            *(i, f, g, o, c, hidden_scale, scaled, part, cell_scale, cell_shift, normalized),
            *(H, row, j[None, :], of_part, mask & valid),
        )
        h, c = tl.where(valid, new_h, h), tl.where(valid, new_c, c)
        tl.store(y + of_state, tl.where(valid, new_h, 0.0).to(y.dtype.element_ty), mask=mask)
        part += N.to(tl.int64) * (4 * H)
        y += N.to(tl.int64) * H
    tl.store(y_h + of_state, h, mask=mask)
    tl.store(y_c + of_state, c, mask=mask)
