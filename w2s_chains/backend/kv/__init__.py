"""Keys and values: where they lie, runs of tokens that know it, and batches that gather them."""
