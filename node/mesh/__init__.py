"""A request's way: router, serving, the pool of loaded models, and the models on disk."""
