"""Whether a prefix that is trained against the worst disturbances saves what its gates' response says, and what it saves."""
