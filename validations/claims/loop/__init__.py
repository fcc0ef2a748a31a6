"""Open loop against closed loop: bias, prefix and adapter at the same ports under one running cost."""
