"""A guided model as YAML: its sections, files, JSON schema, and what is wrong with them."""
