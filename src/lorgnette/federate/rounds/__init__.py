"""The rounds: the loop, who trains, who carries the bytes, the journal to go on from."""
