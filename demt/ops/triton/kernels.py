"""The GPU kernels of `deform_mix`, for one offset per channel (G = C).

A program holds a tile of pixels of one image in flattened (row-major) order. For a tile of channels it makes the
offsets as a matrix product of the 3x3 taps of the hidden map, gathers the four corners, and multiplies on; neither
offsets nor samples leave the chip in the forward pass.

Whatever ends up in a position is float32, and multiplied as three TF32 products ("tf32x3"), which keeps 22 bits of
each factor. One TF32 product keeps 11, which place a position in a map of 500 pixels to a quarter of a pixel at best.

The taps of nine channels are 81 rows, taken `BLOCK_K` at a time; `ALL_K` is 81 rounded up to a power of two.
"""

import triton
import triton.language as tl


@triton.jit
def _tap_addresses(hidden, pixel, k, H, W):
    """Addresses and mask of the taps k (K, pixels) of the nine channels that start at `hidden`."""
    k = k[:, None]
    row = (pixel // W)[None, :] + k % 9 // 3 - 1
    col = (pixel % W)[None, :] + k % 3 - 1
    inside = (k < 81) & (pixel < H * W)[None, :] & (row >= 0) & (row < H) & (col >= 0) & (col < W)
    return hidden + (k // 9) * (H * W) + row * W + col, inside


@triton.jit
def _offset_rows(offset_weight, channel, end, component, k):
    """The offset convolution's weights (channels, K) for the rows (component 0) or the columns (1)."""
    address = offset_weight + (2 * channel + component)[:, None] * 81 + k[None, :]
    return tl.load(address, mask=(channel < end)[:, None] & (k < 81)[None, :], other=0.0).to(tl.float32)


@triton.jit
def _positions(
    hidden, offset_weight, offset_bias, pixel, channel, end, H, W,
    BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Rows and columns (channels, pixels) to sample; what lies far outside stays finite, and samples zero."""
    bias_y = tl.load(offset_bias + 2 * channel, mask=channel < end, other=0.0).to(tl.float32)
    bias_x = tl.load(offset_bias + 2 * channel + 1, mask=channel < end, other=0.0).to(tl.float32)
    dy = tl.zeros((BLOCK_C, BLOCK_P), dtype=tl.float32)
    dx = tl.zeros((BLOCK_C, BLOCK_P), dtype=tl.float32)
    for start in range(0, 81, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        address, inside = _tap_addresses(hidden, pixel, k, H, W)
        taps = tl.load(address, mask=inside, other=0.0).to(tl.float32)
        dy += tl.dot(_offset_rows(offset_weight, channel, end, 0, k), taps, input_precision="tf32x3")
        dx += tl.dot(_offset_rows(offset_weight, channel, end, 1, k), taps, input_precision="tf32x3")
    py = dy + bias_y[:, None] + (pixel // W)[None, :].to(tl.float32)
    px = dx + bias_x[:, None] + (pixel % W)[None, :].to(tl.float32)
    return tl.minimum(tl.maximum(py, -2.0), H + 1.0), tl.minimum(tl.maximum(px, -2.0), W + 1.0)


@triton.jit
def _corner(plane, row, col, H, W, valid):
    """Addresses and mask of one corner (channels, pixels); `plane` is (channels, 1) pointers."""
    inside = valid & (row >= 0) & (row < H) & (col >= 0) & (col < W)
    return plane + row * W + col, inside


@triton.jit
def forward_kernel(
    x, hidden, offset_weight, offset_bias, weight, bias, out, C, D, H, W,
    BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr,
    PRODUCT: tl.constexpr, TF32: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    image = tl.program_id(1).to(tl.int64)
    d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    x += image * C * H * W
    mixed = tl.zeros((BLOCK_D, BLOCK_P), dtype=tl.float32)
    for half in range(2):
        nine = hidden + (image * 18 + half * 9) * H * W
        end = (half + 1) * (C // 2)
        for start in range(half * (C // 2), end, BLOCK_C):
            channel = start + tl.arange(0, BLOCK_C)
            py, px = _positions(nine, offset_weight, offset_bias, pixel, channel, end, H, W, BLOCK_C, BLOCK_K, BLOCK_P)
            top, left = tl.floor(py), tl.floor(px)
            wy, wx = py - top, px - left
            row, col = top.to(tl.int32), left.to(tl.int32)
            plane = x + channel[:, None] * (H * W)
            valid = (channel < end)[:, None] & (pixel < H * W)[None, :]
            p, m = _corner(plane, row, col, H, W, valid)
            sampled = tl.load(p, mask=m, other=0.0).to(tl.float32) * (1 - wy) * (1 - wx)
            p, m = _corner(plane, row, col + 1, H, W, valid)
            sampled += tl.load(p, mask=m, other=0.0).to(tl.float32) * (1 - wy) * wx
            p, m = _corner(plane, row + 1, col, H, W, valid)
            sampled += tl.load(p, mask=m, other=0.0).to(tl.float32) * wy * (1 - wx)
            p, m = _corner(plane, row + 1, col + 1, H, W, valid)
            sampled += tl.load(p, mask=m, other=0.0).to(tl.float32) * wy * wx
            mask = (d < D)[:, None] & (channel < end)[None, :]
            w = tl.load(weight + d[:, None] * C + channel[None, :], mask=mask, other=0.0).to(PRODUCT)
            mixed += tl.dot(w, sampled.to(PRODUCT), input_precision="tf32" if TF32 else "tf32x3")
    mixed += tl.load(bias + d, mask=d < D, other=0.0).to(tl.float32)[:, None]
    mask = (d < D)[:, None] & (pixel < H * W)[None, :]
    tl.store(out + (image * D + d[:, None]) * (H * W) + pixel[None, :], mixed.to(out.dtype.element_ty), mask=mask)


@triton.jit
def backward_kernel(
    grad_sampled, x, hidden, offset_weight, offset_bias,
    sampled, grad_x, grad_hidden, grad_offset_weight, grad_offset_bias, C, H, W, TILES,
    BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr, ALL_K: tl.constexpr,
):  # fmt: skip
    """One tile of channels, `TILES` tiles of pixels: the offset weights' gradient is summed on the chip, added once.

    `sampled` gets the samples again, for the gradient of the channel product. The other outputs are float32 sums.
    """
    tile = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    per_half = tl.cdiv(C // 2, BLOCK_C)
    half = tl.program_id(2) // per_half
    end = (half + 1) * (C // 2)
    channel = half * (C // 2) + tl.program_id(2) % per_half * BLOCK_C + tl.arange(0, BLOCK_C)
    hidden += (image * 18 + half * 9) * H * W
    grad_hidden += (image * 18 + half * 9) * H * W
    plane = image * C * H * W + channel[:, None] * (H * W)
    sum_rows_y = tl.zeros((BLOCK_C, ALL_K), dtype=tl.float32)
    sum_rows_x = tl.zeros((BLOCK_C, ALL_K), dtype=tl.float32)
    sum_y = tl.zeros((BLOCK_C,), dtype=tl.float32)
    sum_x = tl.zeros((BLOCK_C,), dtype=tl.float32)
    for step in range(TILES):
        pixel = (tile * TILES + step) * BLOCK_P + tl.arange(0, BLOCK_P)
        py, px = _positions(hidden, offset_weight, offset_bias, pixel, channel, end, H, W, BLOCK_C, BLOCK_K, BLOCK_P)
        top, left = tl.floor(py), tl.floor(px)
        wy, wx = py - top, px - left
        row, col = top.to(tl.int32), left.to(tl.int32)
        valid = (channel < end)[:, None] & (pixel < H * W)[None, :]
        g = tl.load(grad_sampled + plane + pixel[None, :], mask=valid, other=0.0).to(tl.float32)

        p, m = _corner(plane, row, col, H, W, valid)
        a = tl.load(x + p, mask=m, other=0.0).to(tl.float32)
        tl.atomic_add(grad_x + p, g * (1 - wy) * (1 - wx), mask=m, sem="relaxed")
        p, m = _corner(plane, row, col + 1, H, W, valid)
        b = tl.load(x + p, mask=m, other=0.0).to(tl.float32)
        tl.atomic_add(grad_x + p, g * (1 - wy) * wx, mask=m, sem="relaxed")
        p, m = _corner(plane, row + 1, col, H, W, valid)
        c = tl.load(x + p, mask=m, other=0.0).to(tl.float32)
        tl.atomic_add(grad_x + p, g * wy * (1 - wx), mask=m, sem="relaxed")
        p, m = _corner(plane, row + 1, col + 1, H, W, valid)
        d = tl.load(x + p, mask=m, other=0.0).to(tl.float32)
        tl.atomic_add(grad_x + p, g * wy * wx, mask=m, sem="relaxed")

        upper, lower = a + wx * (b - a), c + wx * (d - c)
        y = upper + wy * (lower - upper)
        tl.store(sampled + plane + pixel[None, :], y.to(sampled.dtype.element_ty), mask=valid)
        grad_y = g * (lower - upper)
        grad_x_position = g * ((1 - wy) * (b - a) + wy * (d - c))
        sum_y += tl.sum(grad_y, 1)
        sum_x += tl.sum(grad_x_position, 1)
        for start in range(0, 81, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            rows_y = tl.trans(_offset_rows(offset_weight, channel, end, 0, k))
            rows_x = tl.trans(_offset_rows(offset_weight, channel, end, 1, k))
            grad_taps = tl.dot(rows_y, grad_y, input_precision="tf32x3")
            grad_taps += tl.dot(rows_x, grad_x_position, input_precision="tf32x3")
            address, inside = _tap_addresses(grad_hidden, pixel, k, H, W)
            tl.atomic_add(address, grad_taps, mask=inside, sem="relaxed")
        address, inside = _tap_addresses(hidden, pixel, tl.arange(0, ALL_K), H, W)
        taps = tl.trans(tl.load(address, mask=inside, other=0.0).to(tl.float32))
        sum_rows_y += tl.dot(grad_y, taps, input_precision="tf32x3")
        sum_rows_x += tl.dot(grad_x_position, taps, input_precision="tf32x3")

    k = tl.arange(0, ALL_K)[None, :]
    mask = (channel < end)[:, None] & (k < 81)
    address = grad_offset_weight + (2 * channel)[:, None] * 81 + k
    tl.atomic_add(address, sum_rows_y, mask=mask, sem="relaxed")
    tl.atomic_add(address + 81, sum_rows_x, mask=mask, sem="relaxed")
    tl.atomic_add(grad_offset_bias + 2 * channel, sum_y, mask=channel < end, sem="relaxed")
    tl.atomic_add(grad_offset_bias + 2 * channel + 1, sum_x, mask=channel < end, sem="relaxed")
