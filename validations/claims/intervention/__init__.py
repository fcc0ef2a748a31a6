"""Whether noise at the ports changes a trained adapter as the shared gain says, and where its gain sits."""
