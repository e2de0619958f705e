"""Breaks the running service in every way that it promises to survive, and then reads what became of each message.

victim.py      the service as it is, with named points at which it can be made to die
plan.py        which break comes when, from a seed
shard.py       one service with its users, its fakes and its breaks
clients.py     programs that post to webhooks; people.py: those who write on Telegram
history.py     what was seen from outside and what the tables say, and nothing else
checks.py      what must be true of a history; telegram_checks.py: of its chats
"""
