"""From stored results to figures and a PDF; this room reads results and computes no verdict."""
