"""Sets of ports taken away from a control, or chosen for it."""
