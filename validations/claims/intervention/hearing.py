"""Deltas that read sublayer outputs through noise."""

from dataclasses import dataclass
from typing import Any

from tuning.backbones import Backbone
from tuning.edits import Edits, added, merge

from ..shared.setting import Params


@dataclass(frozen=True, eq=False)
class Heard:
    """A delta that reads the outputs of sublayers through noise (B, T, d) at its ports, which reaches nothing but its reading."""

    delta: Any
    noise: Params

    def edits(self, backbone: Backbone, params: Params) -> Edits:
        """Return the delta's own edits between noise that comes and noise that goes."""
        come, gone = (
            Edits(ports={key: (lambda h, y, n=sign * n: added(y, n),) for key, n in self.noise.items()}) for sign in (1.0, -1.0)
        )
        return merge([come, self.delta.edits(backbone, params), gone])


def repeated(batch: Any, times: int) -> Any:
    """Return a batch that goes through its examples so many times."""
    return type(batch)(*(x.repeat(times, *[1] * (x.ndim - 1)) for x in batch))
