"""What a prefix cannot learn and a low-rank update can: new symbolic tasks for a small pretrained decoder."""
