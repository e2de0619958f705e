"""The engine: many conversations on one model, batched continuously, in a process of its own.

It knows tokens, templates, sequences and slots. It knows nothing of users, HTTP, SQL or Telegram.

    engine.py      what the service calls: a request in, a stream of deltas out
    supervisor.py  starts the worker process, restarts it when it dies
    protocol.py    the frames between the two processes
    worker.py      the worker's process: frames in and out, one thread that owns the model
    step.py        that thread's loop; scheduler.py and sequence.py decide, llama.py acts
    prompt.py      messages to tokens; text.py tokens to text, thinking and stop strings
    weights.py     which model file; hub.py fetches it
"""
