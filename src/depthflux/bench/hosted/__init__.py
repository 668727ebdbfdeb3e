"""Two sides that speak the hosted API, compared: recorded, repeatable, paid for once."""
