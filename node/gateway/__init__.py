"""How programs reach the grid over HTTP.

`core` knows no HTTP; a dialect (`openai_request`, `openai`) is pure translation; `openai_http` and
`http` join the two; `server` is the one file that touches Anycorn.
"""
