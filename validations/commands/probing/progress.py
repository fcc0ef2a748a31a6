"""The forecast of a long measurement and its progress, in lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from probes.curvature.plan import GRAPH, Part

EVERY = 10.0  # seconds of silence, about, before a part that still runs says what is left


@dataclass(frozen=True)
class Forecast:
    """What planned parts will take: products, seconds for one with the whole, and the bytes of its kept graphs."""

    parts: tuple[Part, ...]
    second: float
    held: int
    spent: float

    @property
    def products(self) -> int:
        """Return the products planned."""
        return sum(part.products for part in self.parts)

    @property
    def cost(self) -> float:
        """Return what the parts cost, in products with the whole."""
        return sum(part.cost for part in self.parts)

    @property
    def seconds(self) -> float:
        """Return the seconds from the command's start to its end: those spent until now, and those of the products."""
        return self.spent + self.cost * self.second

    @property
    def memory(self) -> float:
        """Return the bytes of graphs held at once at most: the whole's, and beside it those of one block."""
        return self.held * (1 + max((part.share for part in self.parts if part.graph and part.products), default=0.0))

    def record(self) -> dict:
        """Return the forecast as plain JSON."""
        return {
            "products": self.products,
            "seconds_per_product": self.second,
            "seconds": self.seconds,
            "memory_bytes": int(self.memory),
            "parts": [{"part": p.label, "products": p.products, "seconds": p.cost * self.second} for p in self.parts],
        }

    def line(self) -> str:
        """Return the forecast in a line."""
        return (
            f"{self.products} products planned, {duration(self.second)} for one with all parameters: about "
            f"{duration(self.seconds)} in all, {duration(self.spent)} of them spent; "
            f"kept graphs hold up to {self.memory / 1e6:.0f} MB"
        )


@dataclass
class Progress:
    """Who hears of every product and says what is left: a line per finished part, and one where a part takes long."""

    forecast: Forecast
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _done: float = 0.0  # cost of the finished parts, as planned
    _made: int = 0
    _heard: list[Part] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._start = self._part = self._said = self.clock()

    def __call__(self, part: Part, products: int) -> None:
        """Hear of products made, or of a part's end where there are none."""
        now = self.clock()
        self._made += products
        if products and now - self._said < EVERY:
            return
        self._said = now
        if products:
            self.say(f"{part.label}: {self._made} products so far; {self._left(now, self._inside(part))}")
            return
        self._heard.append(part)
        self._done += part.cost
        self.say(f"{part.label}: {self._made} products, {duration(now - self._part)}; {self._left(now, self._done)}")
        self._part, self._made = now, 0

    def _inside(self, part: Part) -> float:
        """The cost done, with that of a part which still runs and may outlast its plan."""
        return self._done + min(part.share * (self._made + GRAPH * part.graph), part.cost)

    def _left(self, now: float, done: float) -> str:
        """What is left, at the pace so far."""
        left = self.forecast.cost - done
        parts = len([part for part in self.forecast.parts if part.products]) - len(self._heard)
        if not parts:
            return "all parts are done"
        return f"{parts} part{'s' * (parts > 1)} left, about {duration(left * (now - self._start) / done if done else 0.0)}"


def forecast(parts: Sequence[Part], second: float, held: int, spent: float) -> Forecast:
    """Return the forecast of the parts that take products."""
    return Forecast(tuple(part for part in parts if part.products), second, held, spent)


def duration(seconds: float) -> str:
    """Return a time in words: 0.057 s, 12 s, 3 min 20 s or 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
