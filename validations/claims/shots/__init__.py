"""Who does best with few texts: deltas against full tuning at 16, 64 and 256, head and stopping step from as few."""
