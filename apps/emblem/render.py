"""Anti-aliased rendering of Emblem scenes from signed distance functions.

Distances are in pixels, negative inside. An emblem's local coordinates are centred on it and
divided by its radius, y down.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from apps.emblem.world import Emblem, Scene

Array = NDArray[np.float64]

SIZE = 64
"""Side of a picture in pixels."""

PALETTE = {
    "red": (218, 38, 44),
    "blue": (38, 84, 214),
    "yellow": (250, 212, 40),
    "green": (34, 156, 72),
    "purple": (126, 48, 170),
    "orange": (244, 134, 26),
    "white": (246, 246, 246),
    "pink": (246, 142, 192),
}

RADII = {"large": (20.0, 22.5), "small": (12.0, 14.0)}
"""Range of an emblem's radius in pixels when it is alone."""

PAIR_SCALE = 0.7
"""Scale of the radius when two emblems share the picture."""

_DARK = 0.3
_OUTLINE = 2.2
_RIM = 3.5


def _polygon(points: Array) -> Callable[[Array, Array], Array]:
    """Exact signed distance to a simple polygon with vertices ``points`` (N, 2)."""

    def distance(x: Array, y: Array) -> Array:
        nearest = np.full(x.shape, np.inf)
        inside = np.zeros(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(points, np.roll(points, 1, axis=0), strict=True):
            ex, ey = bx - ax, by - ay
            wx, wy = x - ax, y - ay
            t = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, (wx - t * ex) ** 2 + (wy - t * ey) ** 2)
            crosses = (ay > y) != (by > y)
            inside ^= crosses & ((wx * ey - wy * ex) * np.sign(ey) < 0)
        return np.where(inside, -1, 1) * np.sqrt(nearest)

    return distance


def _radial(*radii_and_angles: tuple[float, float]) -> Array:
    return np.array(
        [(r * np.sin(np.radians(a)), -r * np.cos(np.radians(a))) for r, a in radii_and_angles]
    )


def _heart() -> Array:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y - 2.5], axis=1) / 16


def _box(x: Array, y: Array, half_width: float, half_height: float) -> Array:
    dx, dy = np.abs(x) - half_width, np.abs(y) - half_height
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0)


_BOLT = [(0.25, -1.0), (-0.6, 0.12), (-0.08, 0.12), (-0.3, 1.0), (0.6, -0.25), (0.08, -0.25)]
_ARROW = [
    (0, -1),
    (0.8, -0.1),
    (0.32, -0.1),
    (0.32, 0.95),
    (-0.32, 0.95),
    (-0.32, -0.1),
    (-0.8, -0.1),
]
_HOURGLASS = [(-0.8, -0.9), (0.8, -0.9), (0.16, 0), (0.8, 0.9), (-0.8, 0.9), (-0.16, 0)]

_SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": lambda x, y: np.hypot(x, y) - 0.92,
    "star": _polygon(_radial(*[(1.08 if i % 2 == 0 else 0.47, 36 * i) for i in range(10)])),
    "square": lambda x, y: _box(x, y, 0.8, 0.8),
    "heart": _polygon(_heart()),
    "triangle": _polygon(_radial((1.1, 0), (1.1, 120), (1.1, 240)) + np.array([0, 0.2])),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.68) - 0.28,
    "cross": lambda x, y: np.minimum(_box(x, y, 0.95, 0.33), _box(x, y, 0.33, 0.95)),
    "crescent": lambda x, y: np.maximum(np.hypot(x, y) - 0.97, 0.72 - np.hypot(x - 0.5, y + 0.1)),
    "arrow": _polygon(np.array(_ARROW)),
    "flower": lambda x, y: 0.75 * (np.hypot(x, y) - 0.72 - 0.26 * np.cos(5 * np.arctan2(x, -y))),
    "bolt": _polygon(np.array(_BOLT)),
    "hourglass": _polygon(np.array(_HOURGLASS)),
}


def _cover(distance: Array) -> Array:
    """Share of a pixel inside an edge at this signed distance in pixels."""
    return np.clip(0.5 - distance, 0, 1)


def _wave(position: Array, period: float) -> Array:
    """Signed distance to stripes half a period wide, one of them centred on 0."""
    return np.abs((position + period / 2) % period - period / 2) - period / 4


def _texture(name: str, x: Array, y: Array, radius: float) -> Array:
    """Share of the dark tone, in [0, 1]; ``x`` and ``y`` in pixels from the emblem's centre."""
    period = max(0.8 * radius, 9.0)
    match name:
        case "solid":
            return np.zeros_like(x)
        case "striped":
            return _cover(_wave((x + y) / np.sqrt(2), period))
        case "dotted":
            dx = (x + period / 2) % period - period / 2
            dy = (y + period / 2) % period - period / 2
            return _cover(np.hypot(dx, dy) - 0.3 * period)
        case "checkered":
            across = _cover(_wave(x - period / 4, period))
            down = _cover(_wave(y - period / 4, period))
            return across + down - 2 * across * down
        case "ringed":
            return _cover(_wave(np.hypot(x, y), 0.75 * period))
        case "gradient":
            return np.clip(0.5 + 0.55 * y / radius, 0, 1)
    raise ValueError(f"texture is {name!r}, which has no drawing")


def _paint(canvas: Array, emblem: Emblem, cx: float, cy: float, radius: float) -> Array:
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    x, y = x - cx, y - cy
    shape, texture, colour = emblem.shape, emblem.texture, emblem.colour
    if shape is None or texture is None or colour is None:
        raise ValueError(f"emblem is {emblem}; every attribute must be set to draw it")
    distance = _SHAPES[shape](x / radius, y / radius) * radius
    tone = np.array(PALETTE[colour], dtype=np.float64)
    dark = _texture(texture, x, y, radius)[..., None]
    ink = tone * (1 - dark) + _DARK * tone * dark
    if emblem.style == "outlined":
        stroke = _cover(np.abs(distance + _OUTLINE / 2) - _OUTLINE / 2)[..., None]
        ink = ink * (1 - stroke)
    elif emblem.style == "embossed":
        gy, gx = np.gradient(distance)
        rim = np.clip(1 + distance / _RIM, 0, 1)
        light = (-(gx + gy) / np.sqrt(2) * rim)[..., None]
        ink = ink + np.where(light > 0, 0.75 * light * (255 - ink), 0.65 * light * ink)
    cover = _cover(distance)[..., None]
    return canvas * (1 - cover) + ink * cover


def render(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a scene whose attributes are all set; ``rng`` places it.

    Returns:
        RGB picture of shape (64, 64, 3), uint8.
    """
    if scene.background is None:
        raise ValueError("background is None; it must be set to draw the scene")
    canvas = np.broadcast_to(np.array(PALETTE[scene.background], dtype=np.float64), (SIZE, SIZE, 3))
    pair = len(scene.emblems) == 2
    for slot, emblem in enumerate(scene.emblems):
        radius = rng.uniform(*RADII[emblem.size or ""]) * (PAIR_SCALE if pair else 1.0)
        if pair:
            cx, cy = (16.5, 47.5)[slot] + rng.uniform(-1, 1), 32 + rng.uniform(-8, 8)
        else:
            reach = min(8.0, SIZE / 2 - radius - 2)
            cx, cy = 32 + rng.uniform(-reach, reach), 32 + rng.uniform(-reach, reach)
        canvas = _paint(canvas, emblem, cx, cy, radius)
    return np.rint(np.clip(canvas, 0, 255)).astype(np.uint8)
