"""The routes, by what they are about; each reads a request, asks the service, and says what came.

common.py        who asks, from where, and what every refusal looks like
predictions.py   submit, result, list, cancel, delete
media.py         uploads, tickets, and the pictures' addresses
account.py       balance, models, prices, the webhook secret
health.py        livez, readyz, metrics
"""
