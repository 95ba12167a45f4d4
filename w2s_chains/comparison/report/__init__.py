"""What a comparison tells people: the table, what its columns mean, a few answers, plots."""
