"""Disturbed prefix and adapter: what noise costs, what the worst disturbance gains, what training against it saves."""
