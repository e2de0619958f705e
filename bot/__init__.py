"""The service: adapters, the path from a message to a reply, and the composition root.

`app` constructs everything. `telegram`, `web` and `money` parse, call and render; `conversation` and
`delivery` are the one path from a message to a reply. Nothing below imports anything above.
"""
