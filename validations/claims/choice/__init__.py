"""Options of a study tuned as in practice: foretold, ranked and raced against each other."""
