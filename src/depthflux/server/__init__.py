"""The server: the hosted endpoint on your own machine, and nothing accepted is ever lost.

Processes of two kinds share one folder:

    server      serving      start, drain, end; settings and keys are what it is told
                app          routes/ and errors as HTTP; reading, documents, answers, openapi
                intake       what comes in: submissions and uploads
                service      all else that routes call; board, rates, metrics
                supervisor   a worker for each device, kept running; messages is how they talk
                webhooks     tells clients of ends
    worker      worker       takes predictions, ends them once; taking is what its threads share
                painting     the engine as its painter: the only room that imports torch
    the folder  database     SQLite: schema; rows, predictions, jobs, uploads, outbox; names
                media        the pictures; locks: who may be in it

The store is the truth: whatever is killed, a prediction in it ends completed or failed, once. Lines
between the processes only make waiting short.
"""
