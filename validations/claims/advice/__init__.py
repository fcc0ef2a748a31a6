"""Options of a palette ranked by forecast loss, and trained."""
