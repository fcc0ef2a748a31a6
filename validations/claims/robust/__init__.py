"""Whether an adapter that is trained against the worst disturbances changes as the robust shared gain says, and what it saves."""
