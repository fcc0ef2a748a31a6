"""What stories share: the records of claims and settings, linearisation, training, subspaces, the networks of plants."""
