"""A server whose engine is a stand-in, for tests and scripts/soak.

The server, the store, the workers and the wire are the real ones; the painter takes a fixed time
and does what the prompt says.

    painter.py    the painter, and the worker's process around it
    server.py     the server's process: python -m stand_in.server '{"port": 0, "data_dir": "…"}'
    running.py    such a server as a context: started, its address, killed, started again
"""
