"""Write a saved delta as a PEFT adapter folder, which PEFT loads onto the same backbone; its readout stays in the checkpoint."""

from __future__ import annotations

import argparse

from .options import add_backbone, add_json, folder
from .output import plain


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_backbone(parser)
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="a file of costate train --out")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the folder to write")
    parser.add_argument(
        "--inside",
        default="",
        metavar="PREFIX",
        help='the base model\'s name within a larger one, such as "bert." (default: none)',
    )
    add_json(parser)


def run(options: argparse.Namespace) -> dict:
    """Return what was written; raises ValueError for a delta that PEFT does not have."""
    out = folder(options.out)
    from tuning import backbones, checkpoints
    from tuning.peft_format import export_peft

    backbone = backbones.load(options.backbone)
    found = checkpoints.load(options.checkpoint, backbone)
    written = export_peft(out, backbone, found.subject.delta, found.params, inside=options.inside)
    return {
        "folder": str(written),
        "delta": found.subject.delta.name,
        "backbone": backbone.name,
        "files": sorted(path.name for path in written.glob("adapter_*")),
    }


def text(found: dict, options: argparse.Namespace) -> str:
    """Return what was written, in words."""
    return plain(found)
