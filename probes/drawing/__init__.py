"""Pictures of measurements: curvature by block, dimension by subspace and along the layers, reach, and figures as files."""

from probes.drawing.curvature import curvature_figure, density_curve, finest
from probes.drawing.dimension import dimension_figure, layers_figure
from probes.drawing.files import FORMATS, file_bytes
from probes.drawing.model import model_page, modules_figure
from probes.drawing.reach import reach_figure

__all__ = [
    "FORMATS",
    "curvature_figure",
    "density_curve",
    "dimension_figure",
    "file_bytes",
    "finest",
    "layers_figure",
    "model_page",
    "modules_figure",
    "reach_figure",
]
