"""The whole of a norm on CUDA, with a residual add and a ReLU behind it, as four kernels in Triton.

| kernel | reads | writes | launches |
| --- | --- | --- | --- |
| moments | x | mean, variance | 1 |
| normalise | x, residual | y | 1 |
| sums | dy, x (y) | sums of dy and dy * x_hat, gradient of the residual | 1 |
| gradient | dy, x | dx, dgamma, dbeta | 1 |

They do for every kind of norm, for both memory formats and for any number of clips and groups: a value of clip n,
channel c and position s in (T, H, W) lies at n * stride_n + c * stride_c + s * stride_s. A program has a slice of one
clip's positions and a block of channels. Programs that share statistics leave partial results; the last of a clip, told
by a counter, puts the clip's together in their order, and the last clip of a row the row's. So no program waits,
nothing is added in the order of arrival, and the slices depend on shapes alone: the same bytes twice.

Sums are taken of the distance to a value near the mean, in float32 (float64 for float64): E[x^2] - E[x]^2 would lose
all digits where the mean is far from zero. ReLU's mask is computed again from x by the same arithmetic as in the
forward, or after an add read from y, which the next convolution keeps.

Under TRITON_INTERPRET=1 the same kernels run on a CPU, one program after another.
"""

# pyright: basic

import triton
import triton.language as tl

# The compiler learns nothing of these, or each shape would be compiled anew, but of what decides how wide a load is.
_SIZES = ["cpg", "num_groups", "parts", "num_slices", "row_clips", "split", "count"]

# Suffixes: S positions, C columns (channels of a block), G groups of a block, P partial results


@triton.jit
def _load(start, position_S, column_C, is_inside, stride_s, stride_c, ACC: tl.constexpr):
    offset = position_S[:, None] * stride_s + column_C[None, :] * stride_c
    return tl.load(start + offset, mask=is_inside, other=0.0).to(ACC)


@triton.jit
def _store(start, value, position_S, column_C, is_inside, stride_s, stride_c):
    offset = position_S[:, None] * stride_s + column_C[None, :] * stride_c
    tl.store(start + offset, value.to(start.dtype.element_ty), mask=is_inside)


@triton.jit
def _stretch(slice_, split, chunk, S):
    """First position of a slice in its clip, and the one after the last."""
    first = (slice_ % split) * chunk
    return first, tl.minimum(first + chunk, S)


@triton.jit
def _columns(block, C, cpg, parts, GROUPS: tl.constexpr, WIDTH: tl.constexpr, EXACT: tl.constexpr):
    """Channels of a block of GROUPS groups, WIDTH columns for each, and which of them are there."""
    column = tl.arange(0, GROUPS * WIDTH)
    if EXACT:  # columns are neighbours: loads are as wide as can be
        channel = block * (GROUPS * WIDTH) + column
        return channel, channel < C
    inside = (block % parts) * WIDTH + column % WIDTH
    channel = ((block // parts) * GROUPS + column // WIDTH) * cpg + inside
    return channel, (inside < cpg) & (channel < C)


@triton.jit
def _of_group(value_C, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    """Sum over the columns of each group."""
    if WIDTH == 1:
        return value_C
    return tl.sum(tl.reshape(value_C, [GROUPS, WIDTH]), 1)


@triton.jit
def _to_columns(value_G, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    if WIDTH == 1:
        return value_G
    return tl.reshape(tl.broadcast_to(value_G[:, None], [GROUPS, WIDTH]), [GROUPS * WIDTH])


@triton.jit
def _rstd(var, eps, ACC: tl.constexpr):
    """Rounded as IEEE says, so that cards agree."""
    if tl.float64 == ACC:
        rstd = 1.0 / tl.sqrt(var + eps)
    else:
        rstd = tl.div_rn(tl.full(var.shape, 1.0, tl.float32), tl.sqrt_rn((var + eps).to(tl.float32)))
    return rstd  # once: a function has one type, whichever branch is compiled


@triton.jit
def _vectors(mean, var, gamma, beta, at_C, column_C, is_channel, eps, ACC: tl.constexpr):
    """Mean, 1 / sqrt(var + eps), that times gamma, and beta, of each column; `at_C`: where its statistics are."""
    mean_C = tl.load(mean + at_C, mask=is_channel, other=0.0)
    rstd_C = _rstd(tl.load(var + at_C, mask=is_channel, other=1.0), eps, ACC)
    slope_C = rstd_C * tl.load(gamma + column_C, mask=is_channel, other=0.0).to(ACC)
    return mean_C, rstd_C, slope_C, tl.load(beta + column_C, mask=is_channel, other=0.0).to(ACC)


@triton.jit
def _before_act(x, mean_C, slope_C, beta_C):
    """By an explicit fma: forward and backward must round alike, or the mask differs between them."""
    return tl.fma(x - mean_C[None, :], slope_C[None, :] + tl.zeros_like(x), beta_C[None, :] + tl.zeros_like(x))


@triton.jit
def _store_two(start, distance, one, other, mask):
    tl.store(start, one, mask=mask)
    tl.store(start + distance, other, mask=mask)


@triton.jit
def _is_last(counter, number):
    """Whether all others of `number` programs have come here, with what they stored; then the counter is back at 0."""
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="acq_rel") == number - 1
    if last:
        tl.store(counter, 0)
    return last


@triton.jit
def _rows_of(of_clips, row, row_clips, which, length, column_C, is_column, CLIPS: tl.constexpr):
    """Vector `which` of the two that each clip of a row has in of_clips (N, 2, length): (CLIPS, columns)."""
    clip_N = tl.arange(0, CLIPS)
    is_there = (clip_N < row_clips)[:, None] & is_column[None, :]
    start = of_clips + ((row * row_clips + clip_N) * 2 + which)[:, None] * length
    return tl.load(start + column_C[None, :], mask=is_there, other=0.0, cache_modifier=".cg"), is_there


@triton.jit(do_not_specialize=_SIZES)
def moments_kernel(
    x, part, of_clips, mean, var, counters, C, S, stride_n, stride_s, stride_c, cpg, num_groups, parts, chunk,
    row_clips, split, ACC: tl.constexpr, POSITIONS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr,
    PARTIALS: tl.constexpr, CLIPS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Make part (N, 2, P, G), mean and sum of squared distances from it, of_clips (N, 2, G), then mean, var (R, G)."""
    slice_, row, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column_C, is_channel = _columns(block, C, cpg, parts, GROUPS, WIDTH, EXACT)
    start = x + (row * row_clips + slice_ // split).to(tl.int64) * stride_n
    first, end = _stretch(slice_, split, chunk, S)
    step_S = tl.arange(0, POSITIONS)
    is_inside = (first + step_S < end)[:, None] & is_channel[None, :]
    value = _load(start, first + step_S, column_C, is_inside, stride_s, stride_c, ACC)
    shift_C = tl.sum(value, 0) / tl.minimum(end - first, POSITIONS).to(ACC)
    sum_ = tl.where(is_inside, value - shift_C[None, :], 0.0)
    square = sum_ * sum_
    for position in range(first + POSITIONS, end, POSITIONS):
        is_inside = (position + step_S < end)[:, None] & is_channel[None, :]
        value = _load(start, position + step_S, column_C, is_inside, stride_s, stride_c, ACC)
        distance = tl.where(is_inside, value - shift_C[None, :], 0.0)
        sum_ += distance
        square += distance * distance
    count = (end - first).to(ACC)
    from_shift_C = tl.sum(sum_, 0) / count
    mean_C = shift_C + from_shift_C
    square_C = tl.maximum(tl.sum(square, 0) - from_shift_C * from_shift_C * count, 0.0)
    part_number = block % parts
    width = tl.minimum(cpg - part_number * WIDTH, WIDTH).to(ACC)
    mean_G = _of_group(tl.where(is_channel, mean_C, 0.0), GROUPS, WIDTH) / width
    apart_C = tl.where(is_channel, mean_C - _to_columns(mean_G, GROUPS, WIDTH), 0.0)
    square_G = _of_group(tl.where(is_channel, square_C, 0.0) + count * apart_C * apart_C, GROUPS, WIDTH)

    group_block = block // parts
    group_G = group_block * GROUPS + tl.arange(0, GROUPS)
    is_group = group_G < num_groups
    clip = row * row_clips + slice_ // split
    num_partials = split * parts
    clip_part = part + clip.to(tl.int64) * 2 * num_partials * num_groups
    second = num_partials * num_groups
    mine = clip_part + ((slice_ % split) * parts + part_number) * num_groups + group_G
    _store_two(mine, second, mean_G, square_G, is_group)
    num_blocks = tl.cdiv(num_groups, GROUPS)
    if _is_last(counters + clip * num_blocks + group_block, num_partials):
        shift_G = tl.load(clip_part + group_G, mask=is_group, other=0.0, cache_modifier=".cg")
        sum_PG = tl.zeros([PARTIALS, GROUPS], ACC)
        square_PG = tl.zeros([PARTIALS, GROUPS], ACC)
        for from_ in range(0, num_partials, PARTIALS):
            partial_P = from_ + tl.arange(0, PARTIALS)
            is_there = (partial_P < num_partials)[:, None] & is_group[None, :]
            their_positions = tl.minimum(S - (partial_P // parts) * chunk, chunk)
            their_width = tl.minimum(cpg - (partial_P % parts) * WIDTH, WIDTH)
            count_P = tl.where(partial_P < num_partials, their_positions * their_width, 0).to(ACC)
            there = clip_part + partial_P[:, None] * num_groups + group_G[None, :]
            mean_PG = tl.load(there, mask=is_there, other=0.0, cache_modifier=".cg")
            distance = tl.where(is_there, mean_PG - shift_G[None, :], 0.0)
            sum_PG += distance * count_P[:, None]
            inner = tl.load(there + second, mask=is_there, other=0.0, cache_modifier=".cg")
            square_PG += inner + distance * distance * count_P[:, None]
        total = (S * cpg).to(ACC)  # S may be the constant 1
        from_shift_G = tl.sum(sum_PG, 0) / total
        var_G = tl.maximum(tl.sum(square_PG, 0) / total - from_shift_G * from_shift_G, 0.0)
        mean_G = shift_G + from_shift_G
        if CLIPS == 1:
            tl.store(mean + row * num_groups + group_G, mean_G, mask=is_group)
            tl.store(var + row * num_groups + group_G, var_G, mask=is_group)
        else:
            _store_two(of_clips + clip * 2 * num_groups + group_G, num_groups, mean_G, var_G, is_group)
            clip_counters = counters + tl.num_programs(1) * row_clips * num_blocks
            if _is_last(clip_counters + row * num_blocks + group_block, row_clips):
                mean_NG, is_there = _rows_of(of_clips, row, row_clips, 0, num_groups, group_G, is_group, CLIPS)
                var_NG, _ = _rows_of(of_clips, row, row_clips, 1, num_groups, group_G, is_group, CLIPS)
                mean_G = tl.sum(mean_NG, 0) / row_clips
                apart_NG = tl.where(is_there, mean_NG - mean_G[None, :], 0.0)
                var_G = tl.sum(var_NG + apart_NG * apart_NG, 0) / row_clips
                tl.store(mean + row * num_groups + group_G, mean_G, mask=is_group)
                tl.store(var + row * num_groups + group_G, var_G, mask=is_group)


@triton.jit(do_not_specialize=_SIZES)
def normalise_kernel(
    x, residual, y, mean, var, gamma, beta, C, S, stride_n, stride_s, stride_c, cpg, num_groups, chunk, row_clips,
    split, eps: tl.constexpr, ACC: tl.constexpr, ADD: tl.constexpr, RELU: tl.constexpr, POSITIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    slice_, row, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column_C = block * CHANNELS + tl.arange(0, CHANNELS)
    is_channel = column_C < C
    at_C = row * num_groups + column_C // cpg
    mean_C, _, slope_C, beta_C = _vectors(mean, var, gamma, beta, at_C, column_C, is_channel, eps, ACC)
    clip = (row * row_clips + slice_ // split).to(tl.int64) * stride_n
    first, end = _stretch(slice_, split, chunk, S)
    step_S = tl.arange(0, POSITIONS)
    for position in range(first, end, POSITIONS):
        position_S = position + step_S
        is_inside = (position_S < end)[:, None] & is_channel[None, :]
        value = _load(x + clip, position_S, column_C, is_inside, stride_s, stride_c, ACC)
        value = _before_act(value, mean_C, slope_C, beta_C)
        if ADD:
            value += _load(residual + clip, position_S, column_C, is_inside, stride_s, stride_c, ACC)
        if RELU:
            value = tl.where(value < 0, 0.0, value)  # not maximum: a value that is not a number stays so
        _store(y + clip, value, position_S, column_C, is_inside, stride_s, stride_c)


@triton.jit(do_not_specialize=_SIZES)
def sums_kernel(
    dy, x, y, dresidual, part, of_clips, sums, counters, mean, var, gamma, beta, C, S, stride_n, stride_s, stride_c,
    cpg, num_groups, chunk, row_clips, split, eps: tl.constexpr, ACC: tl.constexpr, ADD: tl.constexpr,
    RELU: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, PARTIALS: tl.constexpr, CLIPS: tl.constexpr,
):  # fmt: skip
    """Make part (N, 2, P, C), of_clips (N, 2, C), sums (2, R, C), of dz (dy behind ReLU's mask) and dz * x_hat."""
    slice_, row, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column_C = block * CHANNELS + tl.arange(0, CHANNELS)
    is_channel = column_C < C
    at_C = row * num_groups + column_C // cpg
    mean_C, rstd_C, slope_C, beta_C = _vectors(mean, var, gamma, beta, at_C, column_C, is_channel, eps, ACC)
    clip_number = row * row_clips + slice_ // split
    clip = clip_number.to(tl.int64) * stride_n
    first, end = _stretch(slice_, split, chunk, S)
    step_S = tl.arange(0, POSITIONS)
    total = tl.zeros([POSITIONS, CHANNELS], ACC)
    dot = tl.zeros([POSITIONS, CHANNELS], ACC)
    for position in range(first, end, POSITIONS):
        position_S = position + step_S
        is_inside = (position_S < end)[:, None] & is_channel[None, :]
        value = _load(x + clip, position_S, column_C, is_inside, stride_s, stride_c, ACC)
        dz = _load(dy + clip, position_S, column_C, is_inside, stride_s, stride_c, ACC)
        if RELU:
            if ADD:
                dz = tl.where(_load(y + clip, position_S, column_C, is_inside, stride_s, stride_c, ACC) <= 0, 0.0, dz)
                _store(dresidual + clip, dz, position_S, column_C, is_inside, stride_s, stride_c)
            else:
                dz = tl.where(_before_act(value, mean_C, slope_C, beta_C) <= 0, 0.0, dz)
        total += dz
        dot += dz * (value - mean_C[None, :])
    clip_part = part + clip_number.to(tl.int64) * 2 * split * C
    mine, second = clip_part + (slice_ % split) * C + column_C, split * C
    _store_two(mine, second, tl.sum(total, 0), tl.sum(dot, 0) * rstd_C, is_channel)
    num_blocks, num_rows = tl.cdiv(C, CHANNELS), tl.num_programs(1)
    if _is_last(counters + clip_number * num_blocks + block, split):
        total_PC = tl.zeros([PARTIALS, CHANNELS], ACC)
        dot_PC = tl.zeros([PARTIALS, CHANNELS], ACC)
        for from_ in range(0, split, PARTIALS):
            partial_P = from_ + tl.arange(0, PARTIALS)
            is_there = (partial_P < split)[:, None] & is_channel[None, :]
            there = clip_part + partial_P[:, None] * C + column_C[None, :]
            total_PC += tl.load(there, mask=is_there, other=0.0, cache_modifier=".cg")
            dot_PC += tl.load(there + second, mask=is_there, other=0.0, cache_modifier=".cg")
        total_C, dot_C = tl.sum(total_PC, 0), tl.sum(dot_PC, 0)
        if CLIPS == 1:
            _store_two(sums + row * C + column_C, num_rows * C, total_C, dot_C, is_channel)
        else:
            _store_two(of_clips + clip_number * 2 * C + column_C, C, total_C, dot_C, is_channel)
            if _is_last(counters + (num_rows * row_clips + row) * num_blocks + block, row_clips):
                total_NC, _ = _rows_of(of_clips, row, row_clips, 0, C, column_C, is_channel, CLIPS)
                dot_NC, _ = _rows_of(of_clips, row, row_clips, 1, C, column_C, is_channel, CLIPS)
                mine = sums + row * C + column_C
                _store_two(mine, num_rows * C, tl.sum(total_NC, 0), tl.sum(dot_NC, 0), is_channel)


@triton.jit(do_not_specialize=_SIZES)
def gradient_kernel(
    dy, x, y, dx, dresidual, sums, dgamma, dbeta, mean, var, gamma, beta, C, S, stride_n, stride_s, stride_c, cpg,
    num_groups, parts, num_slices, chunk, row_clips, split, count, eps: tl.constexpr, ACC: tl.constexpr,
    FIXED: tl.constexpr, ADD: tl.constexpr, RELU: tl.constexpr, POSITIONS: tl.constexpr, GROUPS: tl.constexpr,
    WIDTH: tl.constexpr, GROUP_WIDTH: tl.constexpr, EXACT: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Make dx = (gamma * dz - mean of gamma * dz - x_hat * mean of gamma * dz * x_hat) / sqrt(var + eps).

    FIXED: the statistics are constants, and both means are left out. One slice more than there are makes dgamma, dbeta.
    """
    slice_, row, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column_C, is_channel = _columns(block, C, cpg, parts, GROUPS, WIDTH, EXACT)
    num_rows = tl.num_programs(1)
    if slice_ == num_slices:
        if row == 0:
            dbeta_RC = tl.zeros([ROWS, GROUPS * WIDTH], ACC)
            dgamma_RC = tl.zeros([ROWS, GROUPS * WIDTH], ACC)
            for from_ in range(0, num_rows, ROWS):
                row_R = from_ + tl.arange(0, ROWS)
                is_there = (row_R < num_rows)[:, None] & is_channel[None, :]
                there = sums + row_R[:, None] * C + column_C[None, :]
                dbeta_RC += tl.load(there, mask=is_there, other=0.0)
                dgamma_RC += tl.load(there + num_rows * C, mask=is_there, other=0.0)
            tl.store(dbeta + column_C, tl.sum(dbeta_RC, 0), mask=is_channel)
            tl.store(dgamma + column_C, tl.sum(dgamma_RC, 0), mask=is_channel)
    else:
        at_C = row * num_groups + column_C // cpg
        mean_C, rstd_C, slope_C, beta_C = _vectors(mean, var, gamma, beta, at_C, column_C, is_channel, eps, ACC)
        shift_C = tl.zeros([GROUPS * WIDTH], ACC)
        dot_C = tl.zeros([GROUPS * WIDTH], ACC)
        if not FIXED:
            inside = tl.arange(0, GROUP_WIDTH)
            group_G = (block // parts) * GROUPS + tl.arange(0, GROUPS)
            channel = group_G[:, None] * cpg + inside[None, :]
            is_there = (inside < cpg)[None, :] & (channel < C)
            weight = tl.load(gamma + channel, mask=is_there, other=0.0).to(ACC)
            there = sums + row * C + channel
            total = tl.sum(weight * tl.load(there, mask=is_there, other=0.0), 1) / count.to(ACC)
            dot = tl.sum(weight * tl.load(there + num_rows * C, mask=is_there, other=0.0), 1) / count.to(ACC)
            shift_C = _to_columns(total, GROUPS, WIDTH) * rstd_C
            dot_C = _to_columns(dot, GROUPS, WIDTH) * rstd_C * rstd_C
        clip = (row * row_clips + slice_ // split).to(tl.int64) * stride_n
        first, end = _stretch(slice_, split, chunk, S)
        step_S = tl.arange(0, POSITIONS)
        for position in range(first, end, POSITIONS):
            position_S = position + step_S
            is_inside = (position_S < end)[:, None] & is_channel[None, :]
            value = _load(x + clip, position_S, column_C, is_inside, stride_s, stride_c, ACC)
            dz = _load(dy + clip, position_S, column_C, is_inside, stride_s, stride_c, ACC)
            if RELU:
                if ADD:
                    after = _load(y + clip, position_S, column_C, is_inside, stride_s, stride_c, ACC)
                    dz = tl.where(after <= 0, 0.0, dz)
                    _store(dresidual + clip, dz, position_S, column_C, is_inside, stride_s, stride_c)
                else:
                    dz = tl.where(_before_act(value, mean_C, slope_C, beta_C) <= 0, 0.0, dz)
            dz = dz * slope_C[None, :] - shift_C[None, :] - (value - mean_C[None, :]) * dot_C[None, :]
            _store(dx + clip, dz, position_S, column_C, is_inside, stride_s, stride_c)
