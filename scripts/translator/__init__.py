"""A small English to French translator, from a stated corpus to a folder that can be published."""
