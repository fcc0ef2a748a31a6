"""One delta, trained at its predicted optimum: held-out logits, direction and size of the control, energy by layer."""
