"""The server: the hosted endpoint on your own machine, and nothing accepted is ever lost.

Three kinds of processes share one folder:

    server      serving     start, drain, end           settings, keys   what it is told
                app         routes and errors    routes/, reading, documents, answers, openapi
                service     what the routes call        board, rates, metrics
                supervisor  one worker a device         messages   what they tell each other
                webhooks    tells clients of ends
    worker      worker      takes predictions, ends them once
                painting    the engine as its painter: the only room that imports torch
    the folder  database    SQLite; schema, predictions, jobs, uploads, outbox, names
                media       the pictures

The store is the truth: whatever is killed, a prediction in it ends completed or failed, once. Lines
between the processes only make waiting short.
"""
