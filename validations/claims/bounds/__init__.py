"""What a restricted delta gives away against full tuning, and bounds on it from the frozen model."""
