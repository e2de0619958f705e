"""What is kept: conversations, messages in and out, keys, usage. SQLite or PostgreSQL, the same code for both.

It knows tables and transactions. It knows nothing of models, HTTP or Telegram. Functions take a session of
`Database.read()` or `Database.write()`; the caller's block is the transaction.
"""
