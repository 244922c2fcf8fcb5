"""Models behind somebody's server: a whole cluster joins a grid through one of these engines.

`http` speaks to the server within bounds, `health` finds out by real requests whether it still
answers, `engine` is what both engines share; `openai_api` and `open_inference` know the dialects.
"""
