"""How many steps of gradient descent each delta needs."""
