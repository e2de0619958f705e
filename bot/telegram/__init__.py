"""Telegram: messages in by long polling, answers out as they are written.

connection.py  calls and polls, and what is no answer of Telegram's
intake.py      updates are stored before their offset is confirmed
commands.py    what /start, /new, /stop and /help do, and who is let in
desk.py        what operators do: buttons, and commands that only admins have
operator.py    what the bot needs from whoever looks after the instance
stream.py      the answer while it is written, by edits of one message
send.py        the answer for good, from the outbox
"""

import os

os.environ.setdefault("PTB_TIMEDELTA", "1")  # read when python-telegram-bot is imported
