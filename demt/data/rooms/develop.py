"""From linear light to a photograph: exposure, tone, vignetting, blur and noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demt.data.rooms.dice import Dice
from demt.data.rooms.scene import Floats

_LUMA = (np.float32(0.25), np.float32(0.625), np.float32(0.125))


def develop(light: Floats, dice: Dice) -> NDArray[np.uint8]:
    """An 8-bit image (3, H, W) of linear radiance (3, H, W); exposure, white balance and noise come from `dice`."""
    luma = _LUMA[0] * light[0] + _LUMA[1] * light[1] + _LUMA[2] * light[2]
    some = np.sort(luma.ravel()[:: max(1, luma.size // 2048)])
    middle = some[len(some) // 2]
    exposure = np.float32(dice.uniform(0.17, 0.36)) / np.maximum(middle, np.float32(1e-3))
    height, width = luma.shape
    rows = ((2 * np.arange(height) + 1 - height) / max(height, width)).astype(np.float32)
    columns = ((2 * np.arange(width) + 1 - width) / max(height, width)).astype(np.float32)
    fall = 1 / (1 + np.float32(dice.uniform(0.0, 0.22)) * (np.square(rows)[:, None] + np.square(columns)))
    balance = [np.float32(dice.uniform(0.93, 1.07)) for _ in range(3)]
    x = light * exposure * fall * np.stack(balance)[:, None, None]
    # Reinhard's curve with a white point, then gamma 2.
    white = np.float32(dice.uniform(2.0, 3.5))
    x = np.sqrt(x * (1 + x / (white * white)) / (1 + x) * np.float32(1.25))
    if dice.chance(0.5):
        x = _blur(x, np.float32(dice.uniform(0.02, 0.12)))
    grain = np.float32(dice.uniform(0.002, 0.022))
    x = x + dice.noise(x.size).reshape(x.shape) * grain
    return np.clip(np.floor(x * 255 + np.float32(0.5)), 0, 255).astype(np.uint8)


def _blur(x: Floats, share: np.float32) -> Floats:
    """Give `share` of every pixel's value to either neighbour, along rows and columns."""
    for axis in (1, 2):
        padded = np.concatenate([x.take([0], axis), x, x.take([-1], axis)], axis)
        count = x.shape[axis]
        low, high = padded.take(range(count), axis), padded.take(range(2, count + 2), axis)
        x = x + share * ((low - x) + (high - x))
    return x
