"""How programs reach the grid over HTTP.

`core` knows no HTTP; in the folder of a dialect, decoding and spelling are pure translation and its
endpoints join the two; `http` is what all dialects share, and `http/connection` the one file that
touches h11.
"""
