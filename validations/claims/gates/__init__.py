"""Which tokens a prefix lets which heads look at: its gates, foretold and as trained."""
